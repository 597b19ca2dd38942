package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/kinds/core"
	"proa/internal/kinds/metrics"
	"proa/internal/kinds/podspec"
)

// Metrics is where the autoscaler asks for what is measured.
type Metrics interface {
	// Pods is what the selected pods of a namespace use, as far as it is known.
	Pods(ctx context.Context, ns string, sel labels.Selector) ([]*metrics.PodMetrics, error)
	// Ask returns what a server behind the API server answers to a path, as JSON.
	Ask(ctx context.Context, path string, query url.Values) ([]byte, error)
}

// How long a pod's CPU counts for nothing after it started, unless it is ready,
// and for how long its first readiness may lag behind.
const (
	cpuInitialization = 5 * time.Minute
	readinessDelay    = 30 * time.Second
)

// scaleTolerance is how far a metric may be off before anything is done.
const scaleTolerance = 0.1

// A failedMetric is why a metric could not be used, with the reason of the condition.
type failedMetric struct {
	reason string
	err    error
}

func unread(reason, format string, args ...any) *failedMetric {
	return &failedMetric{reason, fmt.Errorf(format, args...)}
}

// A sample is what a pod used, in thousandths.
type sample struct {
	value  int64
	at     time.Time
	window time.Duration
}

func sumOf(all map[string]sample) (n int64) {
	for _, m := range all {
		n += m.value
	}
	return n
}

// mean is the average; of nothing it is zero.
func mean(all map[string]sample) int64 { return sumOf(all) / int64(max(len(all), 1)) }

// resources reads what the pods used of a resource, of one container or all.
func (r *autoscale) resources(ctx context.Context, ns string, sel labels.Selector, name corev1.ResourceName, container string) (map[string]sample, error) {
	if r.metrics == nil {
		return nil, fmt.Errorf("nobody measures pods")
	}
	list, err := r.metrics.Pods(ctx, ns, sel)
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	out := map[string]sample{}
	for _, p := range list {
		sum, all, found := int64(0), true, false
		for _, c := range p.Containers {
			if container != "" && c.Name != container {
				continue
			}
			q, ok := c.Usage[name]
			all, found = all && ok, true
			sum += q.MilliValue()
		}
		if all && found {
			out[p.Name] = sample{sum, p.Timestamp.Time, p.Window.Duration}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no metrics returned from resource metrics API")
	}
	return out, nil
}

// values reads a metric of objects, or of the world outside.
func (r *autoscale) values(ctx context.Context, path, query string, sel *metav1.LabelSelector, also url.Values) (map[string]sample, error) {
	var list struct {
		Items []struct {
			DescribedObject corev1.ObjectReference
			Timestamp       metav1.Time
			WindowSeconds   int64
			Value           resource.Quantity
		}
	}
	q := url.Values{}
	maps.Copy(q, also)
	if sel != nil {
		s, err := metav1.LabelSelectorAsSelector(sel)
		if err != nil {
			return nil, err
		}
		q.Set(query, s.String())
	}
	if r.metrics == nil {
		return nil, fmt.Errorf("nobody answers for %s", path)
	}
	body, err := r.metrics.Ask(ctx, path, q)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := map[string]sample{}
	for i, v := range list.Items {
		name := v.DescribedObject.Name
		if name == "" {
			name = fmt.Sprint(i)
		}
		out[name] = sample{v.Value.MilliValue(), v.Timestamp.Time, time.Duration(v.WindowSeconds) * time.Second}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no metrics returned from %s", path)
	}
	return out, nil
}

// metric is the size that one metric asks for, its name, and what it is now.
func (r *autoscale) metric(ctx context.Context, m *autoscalingv2.MetricSpec, sel labels.Selector) (int32, string, autoscalingv2.MetricStatus, *failedMetric) {
	status := autoscalingv2.MetricStatus{Type: m.Type}
	ns := r.hpa.Namespace
	switch {
	case m.Resource != nil:
		n, now, err := r.resource(ctx, sel, m.Resource.Name, "", &m.Resource.Target, "FailedGetResourceMetric")
		status.Resource = &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: now}
		return n, fmt.Sprintf("%s resource", m.Resource.Name), status, err
	case m.ContainerResource != nil:
		c := m.ContainerResource
		n, now, err := r.resource(ctx, sel, c.Name, c.Container, &c.Target, "FailedGetContainerResourceMetric")
		status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: c.Name, Container: c.Container, Current: now}
		return n, fmt.Sprintf("%s container resource", c.Name), status, err
	case m.Pods != nil:
		path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + ns + "/pods/*/" + m.Pods.Metric.Name
		all, err := r.values(ctx, path, "metricLabelSelector", m.Pods.Metric.Selector, url.Values{"labelSelector": {sel.String()}})
		if err != nil {
			return 0, "", status, unread("FailedGetPodsMetric", "failed to get pods metric value: %w", err)
		}
		n, now := r.average(r.sort(all, ""), m.Pods.Target.AverageValue)
		status.Pods = &autoscalingv2.PodsMetricStatus{Metric: m.Pods.Metric, Current: now}
		return n, "pods metric " + m.Pods.Metric.Name, status, nil
	case m.Object != nil:
		o := m.Object.DescribedObject
		kind := resourcePath(o)
		path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + ns + "/" + kind + "/" + o.Name + "/" + m.Object.Metric.Name
		all, err := r.values(ctx, path, "metricLabelSelector", m.Object.Metric.Selector, nil)
		if err != nil {
			return 0, "", status, unread("FailedGetObjectMetric", "failed to get object metric value: %w", err)
		}
		n, now := r.total(all, &m.Object.Target)
		status.Object = &autoscalingv2.ObjectMetricStatus{Metric: m.Object.Metric, DescribedObject: o, Current: now}
		return n, fmt.Sprintf("%s metric %s", o.Kind, m.Object.Metric.Name), status, nil
	case m.External != nil:
		path := "/apis/external.metrics.k8s.io/v1beta1/namespaces/" + ns + "/" + m.External.Metric.Name
		all, err := r.values(ctx, path, "labelSelector", m.External.Metric.Selector, nil)
		if err != nil {
			return 0, "", status, unread("FailedGetExternalMetric", "failed to get external metric value: %w", err)
		}
		n, now := r.total(all, &m.External.Target)
		status.External = &autoscalingv2.ExternalMetricStatus{Metric: m.External.Metric, Current: now}
		return n, "external metric " + m.External.Metric.Name, status, nil
	}
	return 0, "", status, unread("InvalidMetricSourceType", "unknown metric source type %q", m.Type)
}

// A sorting is the pods of the target by what their metric is worth.
type sorting struct {
	known            map[string]sample
	unready, missing []string
}

// sort leaves out the pods that ended, sets those apart that are starting, and
// notes those without a metric. Of CPU the first minutes say little.
func (r *autoscale) sort(all map[string]sample, name corev1.ResourceName) (s sorting) {
	s.known = map[string]sample{}
	for _, p := range r.pods {
		m, ok := all[p.Name]
		switch {
		case p.DeletionTimestamp != nil || core.PodFinished(p):
		case p.Status.Phase == corev1.PodPending:
			s.unready = append(s.unready, p.Name)
		case !ok:
			s.missing = append(s.missing, p.Name)
		case name == corev1.ResourceCPU && starting(p, m, r.now):
			s.unready = append(s.unready, p.Name)
		default:
			s.known[p.Name] = m
		}
	}
	return s
}

func starting(p *corev1.Pod, m sample, now time.Time) bool {
	cond := core.PodCondition(p, corev1.PodReady)
	if cond == nil || p.Status.StartTime == nil {
		return true
	}
	start := p.Status.StartTime.Time
	if start.Add(cpuInitialization).After(now) {
		return cond.Status == corev1.ConditionFalse || m.at.Before(cond.LastTransitionTime.Add(m.window))
	}
	return cond.Status == corev1.ConditionFalse && start.Add(readinessDelay).After(cond.LastTransitionTime.Time)
}

// resource is the size that the use of a resource asks for.
func (r *autoscale) resource(ctx context.Context, sel labels.Selector, name corev1.ResourceName, container string, t *autoscalingv2.MetricTarget, reason string) (n int32, now autoscalingv2.MetricValueStatus, failed *failedMetric) {
	all, err := r.resources(ctx, r.hpa.Namespace, sel, name, container)
	if err != nil {
		return 0, now, unread(reason, "failed to get %s usage: %w", name, err)
	}
	s := r.sort(all, name)
	if len(s.known) == 0 {
		return 0, now, unread(reason, "did not receive metrics for targeted pods (pods might be unready)")
	}
	if t.AverageUtilization == nil {
		n, now = r.average(s, t.AverageValue)
		return n, now, nil
	}
	requests := map[string]int64{}
	for _, p := range r.pods {
		if requests[p.Name], err = requestOf(p, name, container); err != nil {
			return 0, now, unread(reason, "%w", err)
		}
	}
	ratio := func(known map[string]sample) float64 {
		used, asked := int64(0), int64(0)
		for pod, m := range known {
			used, asked = used+m.value, asked+requests[pod]
		}
		if asked == 0 {
			return 0
		}
		return float64(used*100/asked) / float64(*t.AverageUtilization)
	}
	percent := int32(math.Round(ratio(s.known) * float64(*t.AverageUtilization)))
	now.AverageUtilization = &percent
	now.AverageValue = resource.NewMilliQuantity(mean(s.known), resource.DecimalSI)
	n = r.size(s, ratio, func(pod string) int64 { return requests[pod] * int64(max(100, *t.AverageUtilization)) / 100 })
	return n, now, nil
}

// requestOf is what a pod, or one container of it, asks for.
func requestOf(p *corev1.Pod, name corev1.ResourceName, container string) (sum int64, err error) {
	if whole := p.Spec.Resources; whole != nil && container == "" {
		if q, ok := whole.Requests[name]; ok {
			return q.MilliValue(), nil
		}
	}
	count := func(c *corev1.Container) error {
		if container != "" && c.Name != container {
			return nil
		}
		q, ok := c.Resources.Requests[name]
		if !ok {
			return fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, p.Name)
		}
		sum += q.MilliValue()
		return nil
	}
	for i := range p.Spec.Containers {
		if err := count(&p.Spec.Containers[i]); err != nil {
			return 0, err
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; podspec.Sidecar(c) {
			if err := count(c); err != nil {
				return 0, err
			}
		}
	}
	return sum, nil
}

// average is the size at which the pods have a value on average.
func (r *autoscale) average(s sorting, target *resource.Quantity) (n int32, now autoscalingv2.MetricValueStatus) {
	want := target.MilliValue()
	now.AverageValue = resource.NewMilliQuantity(mean(s.known), target.Format)
	return r.size(s, func(known map[string]sample) float64 { return float64(mean(known)) / float64(want) }, func(string) int64 { return want }), now
}

// size is the size that brings a ratio of use to target to one. Pods that are
// starting or of which nothing is known are taken for what slows a change down.
func (r *autoscale) size(s sorting, ratio func(map[string]sample) float64, full func(pod string) int64) int32 {
	current := r.scale.Spec.Replicas
	is := ratio(s.known)
	rising := len(s.unready) > 0 && is > 1
	if !rising && len(s.missing) == 0 {
		if r.near(is) {
			return current
		}
		return int32(math.Ceil(is * float64(len(s.known))))
	}
	for _, pod := range s.missing {
		switch {
		case is < 1:
			s.known[pod] = sample{value: full(pod)}
		case is > 1:
			s.known[pod] = sample{}
		}
	}
	if rising {
		for _, pod := range s.unready {
			s.known[pod] = sample{}
		}
	}
	then := ratio(s.known)
	if r.near(then) || (is < 1) != (then < 1) {
		return current
	}
	n := int32(math.Ceil(then * float64(len(s.known))))
	if (then < 1) != (n < current) && n != current {
		return current
	}
	return n
}

// total is the size that a value of the whole asks for.
func (r *autoscale) total(all map[string]sample, t *autoscalingv2.MetricTarget) (n int32, now autoscalingv2.MetricValueStatus) {
	sum, current := sumOf(all), r.scale.Spec.Replicas
	if t.AverageValue != nil {
		want, have := t.AverageValue.MilliValue(), int64(max(r.scale.Status.Replicas, 1))
		now.AverageValue = resource.NewMilliQuantity(int64(math.Ceil(float64(sum)/float64(have))), t.AverageValue.Format)
		if r.near(float64(sum) / float64(want*have)) {
			return current, now
		}
		return int32(math.Ceil(float64(sum) / float64(want))), now
	}
	ratio := float64(sum) / float64(t.Value.MilliValue())
	now.Value = resource.NewMilliQuantity(sum, t.Value.Format)
	if current == 0 {
		return int32(math.Ceil(ratio)), now
	}
	if r.near(ratio) {
		return current, now
	}
	ready := 0
	for _, p := range r.pods {
		ready += truth(p.Status.Phase == corev1.PodRunning && core.PodReady(p))
	}
	return int32(math.Ceil(ratio * float64(ready))), now
}

// near says whether a ratio is so close to one that nothing is to be done.
func (r *autoscale) near(ratio float64) bool {
	off := func(up bool) float64 {
		if q := rulesOf(r.hpa, up).Tolerance; q != nil {
			return q.AsApproximateFloat64()
		}
		return scaleTolerance
	}
	return ratio >= 1-off(false) && ratio <= 1+off(true)
}

// resourcePath is how the custom metrics API calls a kind: its plural, with the
// group if it has one.
func resourcePath(o autoscalingv2.CrossVersionObjectReference) string {
	gvk := schema.FromAPIVersionAndKind(o.APIVersion, o.Kind)
	plural, _ := meta.UnsafeGuessKindToResource(gvk)
	return plural.GroupResource().String()
}
