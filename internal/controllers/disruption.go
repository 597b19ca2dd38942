package controllers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/kinds/policy"
)

// deletionGrace is how long the announcement that a pod goes is believed: after
// that it is taken to stay.
const deletionGrace = 2 * time.Minute

// Disruption counts what each disruption budget may still lose
// (kubernetes.io/docs/tasks/run-application/configure-pdb), and takes back a
// pod's condition DisruptionTarget when nobody deletes the pod (KEP-3329).
// Kinds are those that may own pods.
func Disruption(kinds control.Kinds) *control.Sweep {
	d := &disruption{kinds: catalog{kinds: kinds}, guards: map[string]map[string]*guard{}}
	return &control.Sweep{
		Name: "disruption",
		Kinds: control.Fixed(policy.PodDisruptionBudget.Def(), core.Pod.Def(),
			core.ReplicationController.Def(), apps.ReplicaSet.Def(), apps.Deployment.Def(), apps.StatefulSet.Def()),
		Changed:   d.changed,
		Reconcile: d.reconcile,
	}
}

func (d *disruption) reconcile(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	if key.Kind == core.Pod.Def() {
		return calm(ctx, c, key)
	}
	b, ok := control.Get(c, policy.PodDisruptionBudget, key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	pods, err := d.pods(c, b)
	if err != nil {
		c.Eventf(b, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return 0, disallow(ctx, c, b, err)
	}
	if len(pods) == 0 {
		c.Eventf(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	need, err := d.need(ctx, c, b, pods)
	if err != nil {
		c.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		failed := disallow(ctx, c, b, err)
		if failed == nil && errors.As(err, &unanswered{}) {
			failed = err // only then it helps to ask again
		}
		return 0, failed
	}
	if need.unmanaged > 0 {
		c.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. "+
			"As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
	}
	status, overdue, again := budgetStatus(b, pods, need, c.Now())
	for _, p := range overdue {
		c.Eventf(p, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
	}
	_, err = control.SetStatus(ctx, c, policy.PodDisruptionBudget, b, func(b *policyv1.PodDisruptionBudget) { b.Status = status })
	return again, ignoreNotFound(err)
}

// disallow keeps everyone from evicting while why stands in the way of counting.
func disallow(ctx context.Context, c *control.Cluster, b *policyv1.PodDisruptionBudget, why error) error {
	_, err := control.SetStatus(ctx, c, policy.PodDisruptionBudget, b, func(b *policyv1.PodDisruptionBudget) {
		b.Status.DisruptionsAllowed, b.Status.ObservedGeneration = 0, b.Generation
		b.Status.Conditions = disruptionAllowed(b, metav1.ConditionFalse, policyv1.SyncFailedReason, why.Error(), c.Now())
	})
	return ignoreNotFound(err)
}

// disruptionAllowed is the budget's conditions with that one set.
func disruptionAllowed(b *policyv1.PodDisruptionBudget, is metav1.ConditionStatus, reason, message string, now time.Time) []metav1.Condition {
	all := slices.Clone(b.Status.Conditions)
	meta.SetStatusCondition(&all, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: is, Reason: reason, Message: message,
		ObservedGeneration: b.Generation, LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
	})
	return all
}

// budgetStatus is what a budget's pods amount to, which of them were evicted but
// are still there, and when it changes by itself.
func budgetStatus(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, need need, now time.Time) (s policyv1.PodDisruptionBudgetStatus, overdue []*corev1.Pod, again time.Duration) {
	s = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation, ExpectedPods: need.expected, DesiredHealthy: need.healthy}
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		at, evicted := b.Status.DisruptedPods[p.Name]
		if evicted && !p.CreationTimestamp.After(at.Time) { // else it is another one by that name
			if left := at.Add(deletionGrace).Sub(now); left > 0 {
				if s.DisruptedPods == nil {
					s.DisruptedPods = map[string]metav1.Time{}
				}
				s.DisruptedPods[p.Name] = at
				again = sooner(again, left)
				continue
			}
			overdue = append(overdue, p)
		}
		if core.PodReady(p) {
			s.CurrentHealthy++
		}
	}
	is, reason := metav1.ConditionFalse, policyv1.InsufficientPodsReason
	if need.expected > 0 && s.CurrentHealthy > s.DesiredHealthy { // no pods: those to come are safe until they are counted
		s.DisruptionsAllowed = s.CurrentHealthy - s.DesiredHealthy
		is, reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	s.Conditions = disruptionAllowed(b, is, reason, "", now)
	return s, overdue, again
}

// calm takes back that a pod is about to be removed, if nobody has done it in time.
func calm(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	p, ok := control.Get(c, core.Pod, key.Namespace, key.Name)
	if !ok || !targeted(p) {
		return 0, nil
	}
	if left := core.PodCondition(p, corev1.DisruptionTarget).LastTransitionTime.Add(deletionGrace).Sub(c.Now()); left > 0 {
		return left, nil
	}
	_, err := control.SetStatus(ctx, c, core.Pod, p, func(p *corev1.Pod) {
		*core.PodCondition(p, corev1.DisruptionTarget) = corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse,
			ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(c.Now()).Rfc3339Copy(),
		}
	})
	return 0, ignoreNotFound(err)
}

// targeted says whether a pod is said to be about to be deleted, and is not yet.
// The kubelet's own word holds however long it takes.
func targeted(p *corev1.Pod) bool {
	cond := core.PodCondition(p, corev1.DisruptionTarget)
	return cond != nil && cond.Status == corev1.ConditionTrue && cond.Reason != corev1.PodReasonTerminationByKubelet && active(p)
}

// sortedKeys turns a set of keys into a list that is the same every time.
func sortedKeys(set map[control.Key]bool) []control.Key {
	return slices.SortedFunc(maps.Keys(set), func(a, b control.Key) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
}
