package autoscaling

import (
	"encoding/json"
	"maps"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/fill"
)

// HorizontalPodAutoscalerV1 is [HorizontalPodAutoscaler] in version v1, which
// knows one metric, the use of CPU. All the rest is in annotations.
var HorizontalPodAutoscalerV1 = &api.View[*autoscalingv1.HorizontalPodAutoscaler, *autoscalingv2.HorizontalPodAutoscaler]{
	API: "autoscaling/v1", Of: HorizontalPodAutoscaler,
	To: toV2, From: toV1,
	Default: func(h *autoscalingv1.HorizontalPodAutoscaler) { fill.Nil(&h.Spec.MinReplicas, 1) },
}

// The annotations that carry what v1 has no fields for, as JSON. What cannot be
// read is passed over.
const (
	metricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	behaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
	conditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
	currentAnnotation    = "autoscaling.alpha.kubernetes.io/current-metrics"
)

// plainAnnotations are a without those.
func plainAnnotations(a map[string]string) map[string]string {
	ours := []string{metricsAnnotation, behaviorAnnotation, conditionsAnnotation, currentAnnotation}
	if !slices.ContainsFunc(ours, func(k string) bool { _, ok := a[k]; return ok }) {
		return a
	}
	a = maps.Clone(a)
	for _, k := range ours {
		delete(a, k)
	}
	if len(a) == 0 {
		return nil
	}
	return a
}

func toV2(h *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	a := h.Annotations
	out := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(h.Spec.ScaleTargetRef),
			MinReplicas:    h.Spec.MinReplicas,
			MaxReplicas:    h.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration,
			LastScaleTime:      h.Status.LastScaleTime,
			CurrentReplicas:    h.Status.CurrentReplicas,
			DesiredReplicas:    h.Status.DesiredReplicas,
		},
	}
	out.Annotations = plainAnnotations(a)
	for _, m := range annotated[[]autoscalingv1.MetricSpec](a, metricsAnnotation) {
		out.Spec.Metrics = append(out.Spec.Metrics, metricToV2(m))
	}
	if n := h.Spec.TargetCPUUtilizationPercentage; n != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpu(*n))
	}
	if b := annotated[*behaviorText](a, behaviorAnnotation); b != nil {
		out.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: b.ScaleUp.rules(), ScaleDown: b.ScaleDown.rules()}
	}
	for _, m := range annotated[[]autoscalingv1.MetricStatus](a, currentAnnotation) {
		out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, currentToV2(m))
	}
	if n := h.Status.CurrentCPUUtilizationPercentage; n != nil && out.Status.CurrentMetrics == nil {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Type:     autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: n}},
		}}
	}
	for _, c := range annotated[[]autoscalingv1.HorizontalPodAutoscalerCondition](a, conditionsAnnotation) {
		out.Status.Conditions = append(out.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
			Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration})
	}
	return out
}

func annotated[T any](a map[string]string, name string) (out T) {
	text, ok := a[name]
	if !ok {
		return out
	}
	var read T
	if json.Unmarshal([]byte(text), &read) != nil {
		return out
	}
	return read
}

func toV1(h *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	out := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(h.Spec.ScaleTargetRef),
			MinReplicas:    h.Spec.MinReplicas,
			MaxReplicas:    h.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration,
			LastScaleTime:      h.Status.LastScaleTime,
			CurrentReplicas:    h.Status.CurrentReplicas,
			DesiredReplicas:    h.Status.DesiredReplicas,
		},
	}
	var rest []autoscalingv1.MetricSpec
	for _, m := range h.Spec.Metrics {
		if n := cpuTarget(m); n != nil && out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = n
		} else {
			rest = append(rest, metricToV1(m))
		}
	}
	// The use of CPU is in the annotation too: v1 has no field for the amount.
	var current []autoscalingv1.MetricStatus
	for _, m := range h.Status.CurrentMetrics {
		if r := m.Resource; m.Type == autoscalingv2.ResourceMetricSourceType && r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
		current = append(current, currentToV1(m))
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range h.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration})
	}
	more := map[string]string{}
	annotate(more, metricsAnnotation, rest, len(rest) > 0)
	annotate(more, currentAnnotation, current, len(current) > 0)
	annotate(more, conditionsAnnotation, conditions, len(conditions) > 0)
	if b := h.Spec.Behavior; b != nil {
		annotate(more, behaviorAnnotation, behaviorText{textOf(b.ScaleUp), textOf(b.ScaleDown)}, true)
	}
	out.Annotations = plainAnnotations(h.Annotations)
	if len(more) > 0 {
		maps.Copy(more, out.Annotations)
		out.Annotations = more
	}
	return out
}

func annotate[T any](to map[string]string, name string, v T, is bool) {
	if !is {
		return
	}
	if b, err := json.Marshal(v); err == nil { // structs of strings, numbers and times
		to[name] = string(b)
	}
}

// cpuTarget is the percentage that v1 has a field for, or nil.
func cpuTarget(m autoscalingv2.MetricSpec) *int32 {
	if m.Type != autoscalingv2.ResourceMetricSourceType || m.Resource == nil || m.Resource.Name != corev1.ResourceCPU {
		return nil
	}
	return m.Resource.Target.AverageUtilization
}
