package core

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/kinds/policy"
)

const (
	// evictTries is how often the eviction of a pod that changes is tried.
	evictTries = 20
	// maxDisrupted is how many evicted pods of one budget may wait to be noticed.
	maxDisrupted = 2000
	// evictLater is the seconds after which a refused eviction may be tried again.
	evictLater = 10
)

// evict answers pods/eviction: it deletes the pod with its grace, if the pod's
// disruption budget allows that (kubernetes.io/docs/concepts/scheduling-eviction/api-eviction).
// A pod that has not started, has ended or is ending already is no disruption.
func evict(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	e, ok := r.Object.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("an Eviction is needed, not %T", r.Object))
	}
	if e.Name != "" && e.Name != r.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	v := &eviction{env: env, r: r, o: api.Options{DryRun: r.Options.DryRun}}
	if d := e.DeleteOptions; d != nil {
		if errs := metavalidation.ValidateDeleteOptions(d); len(errs) > 0 {
			return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
		}
		v.o.GracePeriod, v.o.Propagation = d.GracePeriodSeconds, d.PropagationPolicy
		v.o.DryRun = v.o.DryRun || len(d.DryRun) > 0
		if p := d.Preconditions; p != nil {
			v.o.UID, v.o.ResourceVersion = p.UID, p.ResourceVersion
		}
	}
	for try := 1; ; try++ {
		err := v.once(ctx)
		if err == nil {
			return created(), nil
		}
		if !apierrors.IsConflict(err) || !v.again || try == evictTries {
			return nil, err
		}
	}
}

// An eviction is one request to evict a pod.
type eviction struct {
	env   api.Env
	r     *api.Request
	o     api.Options // of the deletion
	again bool        // a conflict may be tried again: it is about what was looked at, and the caller named no version
}

func (v *eviction) once(ctx context.Context) error {
	resp, err := v.env.Handle(ctx, &api.Request{Verb: api.Get, Resource: v.r.Resource, Namespace: v.r.Namespace, Name: v.r.Name, User: v.r.User})
	if err != nil {
		return err
	}
	pod, ok := resp.Result().(*corev1.Pod)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("a %T is no pod", resp.Result()))
	}
	if err := precondition("pods/eviction", pod, v.o.UID, v.o.ResourceVersion); err != nil {
		return err
	}
	v.again = false
	switch {
	case ending(pod):
		return v.remove(ctx, pod, false)
	case pod.Status.Phase == corev1.PodPending:
		return v.remove(ctx, pod, true) // only as long as it is pending
	}
	budget, err := v.budget(ctx, pod)
	if err != nil || budget == nil {
		if err == nil {
			err = v.remove(ctx, pod, false)
		}
		return err
	}
	if !PodReady(pod) && sparesUnready(budget) {
		// Should it have become ready since, it counts.
		err := v.remove(ctx, pod, true)
		if apierrors.IsConflict(err) && v.o.ResourceVersion == nil {
			return tooMany(evictLater, fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget.Name))
		}
		return err
	}
	if err := v.spend(ctx, budget.Name); err != nil {
		return err
	}
	return v.remove(ctx, pod, false)
}

// ending says whether a pod has ended or is about to.
func ending(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil || PodFinished(p)
}

// budget is the budget that the pod counts in, or nil.
func (v *eviction) budget(ctx context.Context, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	all, err := policy.PodDisruptionBudget.List(ctx, v.env, pod.Namespace, api.Selectors{})
	if err != nil {
		return nil, err
	}
	var found *policyv1.PodDisruptionBudget
	for _, b := range all {
		if !policy.Guards(b, pod.Labels) {
			continue
		}
		if found != nil {
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError,
				Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
			}}
		}
		found = b
	}
	return found, nil
}

// sparesUnready says whether a running pod that is not ready may go whatever the
// number of disruptions that are allowed.
func sparesUnready(b *policyv1.PodDisruptionBudget) bool {
	switch p := b.Spec.UnhealthyPodEvictionPolicy; {
	case p == nil || *p == policyv1.IfHealthyBudget:
		return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
	default:
		return *p == policyv1.AlwaysAllow
	}
}

// spend takes one disruption from a budget and notes the pod in it, so that who
// keeps the budget does not count the pod any more.
func (v *eviction) spend(ctx context.Context, budget string) error {
	r := &api.Request{Verb: api.Update, Resource: policy.PodDisruptionBudget.Def(), Namespace: v.r.Namespace, Name: budget,
		User: v.r.User, Options: api.Options{DryRun: v.o.DryRun}}
	_, err := v.env.Mutate(ctx, r, func(old api.Object) (api.Object, error) {
		b := old.(*policyv1.PodDisruptionBudget)
		if err := mayDisrupt(b); err != nil {
			return nil, err
		}
		s := &b.Status
		s.Conditions, s.DisruptedPods = slices.Clone(s.Conditions), maps.Clone(s.DisruptedPods)
		if s.DisruptionsAllowed--; s.DisruptionsAllowed == 0 {
			meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: policyv1.DisruptionAllowedCondition,
				Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, ObservedGeneration: s.ObservedGeneration})
		}
		if s.DisruptedPods == nil {
			s.DisruptedPods = map[string]metav1.Time{}
		}
		s.DisruptedPods[v.r.Name] = metav1.Now()
		return b, nil
	})
	return err
}

// mayDisrupt is why a budget allows no disruption now, or nil.
func mayDisrupt(b *policyv1.PodDisruptionBudget) error {
	s, gr := &b.Status, policyv1.Resource("poddisruptionbudget")
	switch {
	case s.ObservedGeneration < b.Generation:
		return tooMany(evictLater, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case s.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(gr, b.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case len(s.DisruptedPods) > maxDisrupted:
		return apierrors.NewForbidden(gr, b.Name, fmt.Errorf("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case s.DisruptionsAllowed > 0:
		return nil
	}
	why := fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, s.DesiredHealthy, s.CurrentHealthy)
	if c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition); c != nil && c.Reason == policyv1.SyncFailedReason {
		why = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %v", b.Name, c.Message)
	}
	return tooMany(0, why)
}

// tooMany refuses an eviction for now.
func tooMany(seconds int, why string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", seconds)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: why})
	return err
}

// remove deletes the pod that was looked at, and has it say in its conditions why it
// ends, in the same write; of what goes at once or has ended already nothing is said.
// With still, only if the pod is as it was when it was looked at.
func (v *eviction) remove(ctx context.Context, pod *corev1.Pod, still bool) error {
	v.again = v.o.ResourceVersion == nil
	o := v.o
	o.UID = &pod.UID
	if still && o.ResourceVersion == nil {
		o.ResourceVersion = &pod.ResourceVersion
	}
	o.Parting = func(obj api.Object) {
		if p := obj.(*corev1.Pod); !PodFinished(p) {
			setPodCondition(p, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
				Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting", ObservedGeneration: p.Generation})
		}
	}
	_, err := v.env.Handle(ctx, &api.Request{Verb: api.Delete, Resource: v.r.Resource, Namespace: v.r.Namespace, Name: v.r.Name, User: v.r.User, Options: o})
	return err
}
