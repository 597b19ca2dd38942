package controllers

import (
	"context"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// burst is how many pods one reconcile makes or removes at the most.
const burst = 500

// ReplicaSet keeps as many pods of a template running as it is asked for.
var ReplicaSet = &control.Controller[*appsv1.ReplicaSet]{
	Name: "replicaset",
	For:  apps.ReplicaSet,
	Owns: []api.Definition{core.Pod},
	Watches: []control.Watch{
		matching(apps.ReplicaSet, core.Pod, func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector }),
	},
	Writes:    []api.Definition{core.Pod},
	Reconcile: reconcileReplicaSet,
}

func reconcileReplicaSet(ctx context.Context, c *control.Cluster, rs *appsv1.ReplicaSet) (time.Duration, error) {
	sel, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return 0, nil // validation keeps these out
	}
	pods, err := claim(ctx, c, apps.ReplicaSet, core.Pod, rs, sel)
	if err != nil {
		return 0, err
	}
	live, terminating := sortOut(pods)
	var failed error
	if rs.DeletionTimestamp == nil {
		failed = scaleReplicaSet(ctx, c, rs, live)
		live, terminating = sortOut(slices.DeleteFunc(control.Owned(c, core.Pod, rs.UID), func(p *corev1.Pod) bool {
			return !sel.Matches(labels.Set(p.Labels))
		}))
	}
	status, again := replicaSetStatus(rs, live, len(terminating), failed, c.Now())
	if _, err := control.SetStatus(ctx, c, apps.ReplicaSet, rs, func(rs *appsv1.ReplicaSet) { rs.Status = status }); err != nil {
		return 0, ignoreNotFound(err)
	}
	if apierrors.HasStatusCause(failed, corev1.NamespaceTerminatingCause) {
		return 0, nil // nothing can be made here any more
	}
	return again, failed
}

// sortOut tells the active pods from those on their way out. Pods that have
// finished are neither.
func sortOut(pods []*corev1.Pod) (live, terminating []*corev1.Pod) {
	for _, p := range pods {
		switch {
		case active(p):
			live = append(live, p)
		case p.DeletionTimestamp != nil && !finished(p):
			terminating = append(terminating, p)
		}
	}
	return live, terminating
}

func scaleReplicaSet(ctx context.Context, c *control.Cluster, rs *appsv1.ReplicaSet, live []*corev1.Pod) error {
	diff := int(*rs.Spec.Replicas) - len(live)
	if diff > 0 {
		ref := control.OwnerRef(apps.ReplicaSet, rs)
		_, err := createPods(ctx, c, rs, min(diff, burst), func(int) *corev1.Pod { return fromTemplate(&rs.Spec.Template, rs, ref) })
		return err
	}
	if diff == 0 {
		return nil
	}
	if diff = -diff; diff < len(live) {
		nodes := crowds(c, rs)
		leastUseful(live, func(p *corev1.Pod) int { return nodes[p.Spec.NodeName] }, c.Now())
	}
	return deletePods(ctx, c, rs, live[:min(diff, burst)])
}

// crowds counts the active pods on each node of all replica sets that rs's own
// controller owns: those of one deployment.
func crowds(c *control.Cluster, rs *appsv1.ReplicaSet) map[string]int {
	all := []*appsv1.ReplicaSet{rs}
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		all = control.Owned(c, apps.ReplicaSet, ref.UID)
	}
	n := map[string]int{}
	for _, r := range all {
		for _, p := range control.Owned(c, core.Pod, r.UID) {
			if active(p) {
				n[p.Spec.NodeName]++
			}
		}
	}
	return n
}

// replicaSetStatus is the status that a replica set's pods amount to, and when
// it changes by itself.
func replicaSetStatus(rs *appsv1.ReplicaSet, live []*corev1.Pod, terminating int, failed error, now time.Time) (appsv1.ReplicaSetStatus, time.Duration) {
	gone := int32(terminating)
	s := appsv1.ReplicaSetStatus{
		Replicas: int32(len(live)), ObservedGeneration: rs.Generation, TerminatingReplicas: &gone,
	}
	template := labels.Set(rs.Spec.Template.Labels).AsSelectorPreValidated()
	var again time.Duration
	for _, p := range live {
		if template.Matches(labels.Set(p.Labels)) {
			s.FullyLabeledReplicas++
		}
		if core.PodReady(p) {
			s.ReadyReplicas++
		}
		ok, wait := available(p, rs.Spec.MinReadySeconds, now)
		if ok {
			s.AvailableReplicas++
		}
		if wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	for _, cond := range rs.Status.Conditions {
		if cond.Type != appsv1.ReplicaSetReplicaFailure || failed != nil {
			s.Conditions = append(s.Conditions, cond)
		}
	}
	if failed != nil && len(s.Conditions) == 0 {
		reason := "FailedCreate"
		if int32(len(live)) > *rs.Spec.Replicas {
			reason = "FailedDelete"
		}
		s.Conditions = append(s.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason,
			Message: failed.Error(), LastTransitionTime: metav1.NewTime(now),
		})
	}
	return s, again
}
