// Package autoscaling declares the kinds of the autoscaling group: v2, which is
// stored, and v1, which shows the same objects.
package autoscaling

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
)

// HorizontalPodAutoscaler scales a workload by metrics.
var HorizontalPodAutoscaler = &api.Kind[*autoscalingv2.HorizontalPodAutoscaler]{
	API: "autoscaling/v2", Resource: "horizontalpodautoscalers", Scope: api.Namespaced,
	Short: []string{"hpa"}, Categories: []string{"all"},
	Columns: []api.Column[*autoscalingv2.HorizontalPodAutoscaler]{
		column.Doc(api.Col("Reference", func(h *autoscalingv2.HorizontalPodAutoscaler) string {
			return h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name
		}), specDocs["scaleTargetRef"]),
		column.Doc(api.Col("Targets", func(h *autoscalingv2.HorizontalPodAutoscaler) string {
			return targets(h.Spec.Metrics, h.Status.CurrentMetrics)
		}), specDocs["metrics"]),
		column.Doc(api.Col("MinPods", func(h *autoscalingv2.HorizontalPodAutoscaler) string {
			if h.Spec.MinReplicas == nil {
				return "<unset>"
			}
			return fmt.Sprint(*h.Spec.MinReplicas)
		}), specDocs["minReplicas"]),
		number("MaxPods", specDocs["maxReplicas"], func(h *autoscalingv2.HorizontalPodAutoscaler) int32 { return h.Spec.MaxReplicas }),
		number("Replicas", statusDocs["currentReplicas"], func(h *autoscalingv2.HorizontalPodAutoscaler) int32 { return h.Status.CurrentReplicas }),
	},
	Default: defaultAutoscaler,
	Prepare: func(h, old *autoscalingv2.HorizontalPodAutoscaler) {
		h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
		if old != nil {
			h.Status = old.Status
		}
	},
	Validate:       validateAutoscaler,
	Status:         true,
	PrepareStatus:  func(h, old *autoscalingv2.HorizontalPodAutoscaler) { h.Spec = old.Spec },
	ValidateStatus: validateStatus,
}

var (
	specDocs   = autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()
	statusDocs = autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
)

// number is a column of numbers that is declared as one of strings, as in Kubernetes.
func number(name, doc string, f func(*autoscalingv2.HorizontalPodAutoscaler) int32) api.Column[*autoscalingv2.HorizontalPodAutoscaler] {
	c := column.Doc(api.Col(name, f), doc)
	c.Type = "string"
	return c
}

// cpuPercent is what CPU is to be used by default, in percent of the request.
const cpuPercent = 80

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	fill.Nil(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{cpu(cpuPercent)}
	}
	b := h.Spec.Behavior
	if b == nil {
		return
	}
	fill.Nil(&b.ScaleUp, autoscalingv2.HPAScalingRules{})
	fill.Nil(&b.ScaleUp.StabilizationWindowSeconds, 0)
	defaultRules(b.ScaleUp,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	fill.Nil(&b.ScaleDown, autoscalingv2.HPAScalingRules{})
	defaultRules(b.ScaleDown,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
}

func defaultRules(r *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	fill.Nil(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}

func cpu(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricSource{
			Name:   corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
		},
	}
}

// targets shows each metric as it is and as it is to be, and at most two of them.
func targets(specs []autoscalingv2.MetricSpec, now []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return "<none>"
	}
	const most = 2
	var list []string
	for i := range specs[:min(len(specs), most)] {
		var is autoscalingv2.MetricStatus
		if i < len(now) {
			is = now[i]
		}
		list = append(list, target(&specs[i], &is))
	}
	out := strings.Join(list, ", ")
	if more := len(specs) - most; more > 0 {
		out += fmt.Sprintf(" + %d more...", more)
	}
	return out
}

func target(m *autoscalingv2.MetricSpec, is *autoscalingv2.MetricStatus) string {
	var have autoscalingv2.MetricValueStatus
	switch {
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		if is.External != nil {
			have = is.External.Current
		}
		return quantities(m.External.Target, have)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		if is.Object != nil {
			have = is.Object.Current
		}
		return quantities(m.Object.Target, have)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		if is.Pods != nil {
			have = is.Pods.Current
		}
		return quantity(have.AverageValue) + "/" + quantity(m.Pods.Target.AverageValue)
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		if is.Resource != nil {
			have = is.Resource.Current
		}
		return used(m.Resource.Name, m.Resource.Target, have)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		if is.ContainerResource != nil {
			have = is.ContainerResource.Current
		}
		return used(m.ContainerResource.Name, m.ContainerResource.Target, have)
	}
	return "<unknown type>"
}

func quantities(want autoscalingv2.MetricTarget, have autoscalingv2.MetricValueStatus) string {
	if want.AverageValue != nil {
		return quantity(have.AverageValue) + "/" + quantity(want.AverageValue) + " (avg)"
	}
	return quantity(have.Value) + "/" + quantity(want.Value)
}

// used shows how much of a resource is used.
func used(name corev1.ResourceName, want autoscalingv2.MetricTarget, have autoscalingv2.MetricValueStatus) string {
	if want.AverageValue != nil {
		return fmt.Sprintf("%s: %s/%s", name, quantity(have.AverageValue), quantity(want.AverageValue))
	}
	percent := func(n *int32, none string) string {
		if n == nil {
			return none
		}
		return fmt.Sprintf("%d%%", *n)
	}
	return fmt.Sprintf("%s: %s/%s", name, percent(have.AverageUtilization, "<unknown>"), percent(want.AverageUtilization, "<auto>"))
}

func quantity(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}
