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
var ReplicaSet = replicating("replicaset", apps.ReplicaSet, &replicas[*appsv1.ReplicaSet]{
	kind: apps.ReplicaSet,
	as:   func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSet { return rs },
	set:  func(rs *appsv1.ReplicaSet, s appsv1.ReplicaSetStatus) { rs.Status = s },
})

// ReplicationController is what came before ReplicaSet, and works as that does.
var ReplicationController = replicating("replication", core.ReplicationController, &replicas[*corev1.ReplicationController]{
	kind: core.ReplicationController,
	as:   controllerAsSet,
	set:  setControllerStatus,
})

// A replicas knows how to look at an object as a replica set.
type replicas[T api.Object] struct {
	kind *api.Kind[T]
	as   func(T) *appsv1.ReplicaSet
	set  func(T, appsv1.ReplicaSetStatus)
}

// lacks says whether pods could not be made for o.
func (r *replicas[T]) lacks(o T) bool {
	return slices.ContainsFunc(r.as(o).Status.Conditions, func(c appsv1.ReplicaSetCondition) bool {
		return c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue
	})
}

func replicating[T api.Object](name string, kind *api.Kind[T], r *replicas[T]) *control.Controller[T] {
	return &control.Controller[T]{
		Name: name,
		For:  kind,
		Owns: []api.Definition{core.Pod},
		Watches: []control.Watch{
			matching(kind, core.Pod, func(o T) *metav1.LabelSelector { return r.as(o).Spec.Selector }),
			roomFor(kind, r.lacks),
		},
		Writes:    []api.Definition{core.Pod},
		Reconcile: r.reconcile,
	}
}

func controllerAsSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector: metav1.SetAsLabelSelector(rc.Spec.Selector)},
	}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message})
	}
	return rs
}

func setControllerStatus(rc *corev1.ReplicationController, s appsv1.ReplicaSetStatus) {
	rc.Status = corev1.ReplicationControllerStatus{Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas,
		ReadyReplicas: s.ReadyReplicas, AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration}
	for _, c := range s.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message})
	}
}

func (r *replicas[T]) reconcile(ctx context.Context, c *control.Cluster, o T) (time.Duration, error) {
	rs := r.as(o)
	sel, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil || sel.Empty() {
		return 0, nil // validation keeps these out
	}
	pods, err := claim(ctx, c, r.kind, core.Pod, o, sel)
	if err != nil {
		return 0, err
	}
	live, terminating := sortOut(pods)
	var failed error
	if rs.DeletionTimestamp == nil {
		failed = r.scale(ctx, c, o, rs, live)
		live, terminating = sortOut(slices.DeleteFunc(control.Owned(c, core.Pod, rs.UID), func(p *corev1.Pod) bool {
			return !sel.Matches(labels.Set(p.Labels))
		}))
	}
	status, again := replicaSetStatus(rs, live, len(terminating), failed, c.Now())
	if _, err := control.SetStatus(ctx, c, r.kind, o, func(o T) { r.set(o, status) }); err != nil {
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
		case p.DeletionTimestamp != nil && !core.PodFinished(p):
			terminating = append(terminating, p)
		}
	}
	return live, terminating
}

func (r *replicas[T]) scale(ctx context.Context, c *control.Cluster, o T, rs *appsv1.ReplicaSet, live []*corev1.Pod) error {
	diff := int(*rs.Spec.Replicas) - len(live)
	if diff > 0 {
		ref := control.OwnerRef(r.kind, o)
		_, err := createPods(ctx, c, o, min(diff, burst), func(int) *corev1.Pod { return fromTemplate(&rs.Spec.Template, o, ref) })
		return err
	}
	if diff == 0 {
		return nil
	}
	if diff = -diff; diff < len(live) {
		nodes := crowds(c, rs)
		leastUseful(live, func(p *corev1.Pod) int { return nodes[p.Spec.NodeName] }, c.Now())
	}
	return deletePods(ctx, c, o, live[:min(diff, burst)])
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
		again = sooner(again, wait)
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
