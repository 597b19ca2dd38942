package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/autoscaling"
	"proa/internal/kinds/core"
)

// autoscalerPeriod is how often metrics are looked at.
const autoscalerPeriod = 15 * time.Second

// HorizontalPodAutoscaler scales workloads by metrics, which it asks of the APIs
// metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io.
//
//	observe: scale, pods, metrics ──> decide: proposals, then behavior ──> act: the scale
func HorizontalPodAutoscaler(kinds control.Kinds, metrics Metrics) *control.Controller[*autoscalingv2.HorizontalPodAutoscaler] {
	a := &autoscalers{kinds: catalog{kinds: kinds}, metrics: metrics, past: map[control.Key]*scalePast{}}
	return &control.Controller[*autoscalingv2.HorizontalPodAutoscaler]{
		Name:      "horizontal-pod-autoscaler",
		For:       autoscaling.HorizontalPodAutoscaler,
		Watches:   []control.Watch{control.Reads(core.Pod)},
		Any:       true, // the scale of whatever has one
		Reconcile: a.reconcile,
		Finalize: func(_ context.Context, _ *control.Cluster, key control.Key) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.past, key)
			return nil
		},
	}
}

type autoscalers struct {
	kinds   catalog
	metrics Metrics

	mu   sync.Mutex
	past map[control.Key]*scalePast
}

// An autoscale is one look at an autoscaler.
type autoscale struct {
	c       *control.Cluster
	hpa     *autoscalingv2.HorizontalPodAutoscaler
	metrics Metrics
	past    *scalePast
	now     time.Time
	status  *autoscalingv2.HorizontalPodAutoscalerStatus // as it is to be
	scale   *autoscalingv1.Scale
	pods    []*corev1.Pod
}

func (a *autoscalers) reconcile(ctx context.Context, c *control.Cluster, h *autoscalingv2.HorizontalPodAutoscaler) (time.Duration, error) {
	if h.DeletionTimestamp != nil {
		return 0, nil
	}
	a.mu.Lock()
	p := a.past[control.KeyOf(h)]
	if p == nil || p.uid != h.UID {
		p = &scalePast{uid: h.UID}
		a.past[control.KeyOf(h)] = p
	}
	a.mu.Unlock()
	// A change of the status calls again; metrics are not looked at for that.
	if left := p.looked.Add(autoscalerPeriod).Sub(c.Now()); left > 0 && p.generation == h.Generation {
		return left, nil
	}
	p.looked, p.generation = c.Now(), h.Generation
	r := &autoscale{c: c, hpa: h, metrics: a.metrics, past: p, now: c.Now(), status: h.Status.DeepCopy()}
	r.status.ObservedGeneration = &h.Generation
	err := r.advance(ctx, &a.kinds)
	if apierrors.IsConflict(err) { // the target has changed meanwhile: look again, rather than say that it cannot be scaled
		p.looked = time.Time{}
		return 0, err
	}
	if err != nil {
		c.Log.Debug("autoscaler", "namespace", h.Namespace, "name", h.Name, "err", err)
	}
	_, err = control.SetStatus(ctx, c, autoscaling.HorizontalPodAutoscaler, h, func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Status = *r.status })
	return autoscalerPeriod, ignoreNotFound(err)
}

// advance finds out what is to be, and scales. What goes wrong is in the conditions.
func (r *autoscale) advance(ctx context.Context, kinds *catalog) error {
	ref := r.hpa.Spec.ScaleTargetRef
	kind, err := r.target(ctx, kinds)
	if err != nil {
		r.c.Eventf(r.hpa, corev1.EventTypeWarning, "FailedGetScale", "%v", err)
		r.condition(autoscalingv2.AbleToScale, false, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err)
		return err
	}
	r.condition(autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := r.scale.Spec.Replicas
	r.status.CurrentReplicas = r.scale.Status.Replicas
	desired, reason, err := r.decide(ctx, current)
	if err != nil {
		r.c.Eventf(r.hpa, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", "%v", err)
		r.status.DesiredReplicas = current
		return err
	}
	r.status.DesiredReplicas = desired
	if desired == current {
		return nil
	}
	next := r.scale.DeepCopy()
	next.Spec.Replicas = desired
	_, err = r.c.Handle(ctx, &api.Request{Verb: api.Update, Resource: kind, Namespace: r.hpa.Namespace, Name: ref.Name, Sub: "scale", Object: next})
	if apierrors.IsConflict(err) {
		return err
	}
	if err != nil {
		r.status.DesiredReplicas = current
		r.c.Eventf(r.hpa, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", desired, reason, err)
		r.condition(autoscalingv2.AbleToScale, false, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", err)
		return err
	}
	r.condition(autoscalingv2.AbleToScale, true, "SucceededRescale", "the HPA controller was able to update the target scale to %d", desired)
	r.c.Eventf(r.hpa, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", desired, reason)
	r.past.scaled(current, desired, r.now)
	at := metav1.NewTime(r.now)
	r.status.LastScaleTime = &at
	return nil
}

// target reads the scale of the target.
func (r *autoscale) target(ctx context.Context, kinds *catalog) (*api.Resource, error) {
	ref := r.hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	kind := kinds.ofKind(gv.Group, ref.Kind)
	if kind == nil || kind.Scale == nil || kind.Scope != api.Namespaced {
		return nil, fmt.Errorf("no matches for kind %q with a scale in group %q", ref.Kind, gv.Group)
	}
	resp, err := r.c.Handle(ctx, &api.Request{Verb: api.Get, Resource: kind, Namespace: r.hpa.Namespace, Name: ref.Name, Sub: "scale"})
	if err != nil {
		return nil, err
	}
	scale, ok := resp.Object.(*autoscalingv1.Scale)
	if !ok {
		return nil, errors.New("what answered for the scale of a " + ref.Kind + " is none")
	}
	r.scale = scale
	return kind, nil
}

// decide is the size that the target is to have now, and why.
func (r *autoscale) decide(ctx context.Context, current int32) (desired int32, reason string, err error) {
	least, most := int32(1), r.hpa.Spec.MaxReplicas
	if n := r.hpa.Spec.MinReplicas; n != nil {
		least = *n
	}
	switch {
	case current == 0 && least != 0:
		r.condition(autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return 0, "", nil
	case current > most:
		return most, "Current number of replicas above Spec.MaxReplicas", nil
	case current < least:
		return least, "Current number of replicas below Spec.MinReplicas", nil
	}
	proposed, metric, err := r.propose(ctx)
	if err != nil {
		return 0, "", err
	}
	if desired = r.limit(current, proposed, least, most); desired > current {
		return desired, metric + " above target", nil
	}
	return desired, "All metrics below target", nil
}

// propose is the most that any metric asks for. A metric that cannot be read
// keeps the target from becoming smaller.
func (r *autoscale) propose(ctx context.Context) (most int32, by string, err error) {
	text := r.scale.Status.Selector
	sel, err := labels.Parse(text)
	if text == "" || err != nil {
		if text == "" {
			err = errors.New("selector is required")
		}
		r.c.Eventf(r.hpa, corev1.EventTypeWarning, "InvalidSelector", "%v", err)
		r.condition(autoscalingv2.ScalingActive, false, "InvalidSelector", "the HPA target's scale has no selector that can be used: %v", err)
		return 0, "", err
	}
	r.pods = slices.DeleteFunc(control.All(r.c, core.Pod, r.hpa.Namespace), func(p *corev1.Pod) bool { return !sel.Matches(labels.Set(p.Labels)) })
	var first *failedMetric
	failed := 0
	statuses := make([]autoscalingv2.MetricStatus, 0, len(r.hpa.Spec.Metrics))
	for i := range r.hpa.Spec.Metrics {
		n, name, status, err := r.metric(ctx, &r.hpa.Spec.Metrics[i], sel)
		if err != nil {
			failed++
			if first == nil {
				first = err
			}
			continue
		}
		statuses = append(statuses, status)
		if by == "" || n > most {
			most, by = n, name
		}
	}
	r.status.CurrentMetrics = statuses
	if first != nil && (by == "" || most < r.scale.Spec.Replicas) {
		r.condition(autoscalingv2.ScalingActive, false, first.reason, "the HPA was unable to compute the replica count: %v", first.err)
		return 0, "", fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", failed, len(r.hpa.Spec.Metrics), first.err)
	}
	r.condition(autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", by)
	return most, by, nil
}

func (r *autoscale) condition(typ autoscalingv2.HorizontalPodAutoscalerConditionType, is bool, reason, format string, args ...any) {
	next := autoscalingv2.HorizontalPodAutoscalerCondition{Type: typ, Status: corev1.ConditionFalse, Reason: reason,
		Message: fmt.Sprintf(format, args...), LastTransitionTime: metav1.NewTime(r.now)}
	if is {
		next.Status = corev1.ConditionTrue
	}
	for i := range r.status.Conditions {
		if c := &r.status.Conditions[i]; c.Type == typ {
			if c.Status == next.Status {
				next.LastTransitionTime = c.LastTransitionTime
			}
			*c = next
			return
		}
	}
	r.status.Conditions = append(r.status.Conditions, next)
}
