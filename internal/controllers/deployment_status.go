package controllers

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/control"
	"proa/internal/kinds/apps"
)

// Reasons of the Progressing condition that mean something to its next change.
const (
	reasonDone     = "NewReplicaSetAvailable"
	reasonUpdated  = "ReplicaSetUpdated"
	reasonTimedOut = "ProgressDeadlineExceeded"
	reasonPaused   = "DeploymentPaused"
	reasonResumed  = "DeploymentResumed"
)

func (r *rollout) condition(typ appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range r.conditions {
		if r.conditions[i].Type == typ {
			return &r.conditions[i]
		}
	}
	return nil
}

// setCondition changes a condition, unless it has this status and reason already.
func (r *rollout) setCondition(typ appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.c.Now())
	next := appsv1.DeploymentCondition{Type: typ, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	if old := r.condition(typ); old != nil {
		if old.Status == status && old.Reason == reason {
			return
		}
		if old.Status == status {
			next.LastTransitionTime = old.LastTransitionTime
		}
	}
	r.dropCondition(typ)
	r.conditions = append(r.conditions, next)
}

func (r *rollout) dropCondition(typ appsv1.DeploymentConditionType) {
	r.conditions = slices.DeleteFunc(r.conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == typ })
}

// hasDeadline says whether a rollout has to make progress in some time. The greatest
// number stands for no deadline, as the field has a default.
func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// notePause keeps the time of a pause out of the progress deadline.
func (r *rollout) notePause() {
	if !hasDeadline(r.d) {
		return
	}
	cond := r.condition(appsv1.DeploymentProgressing)
	if cond != nil && cond.Reason == reasonTimedOut {
		return
	}
	paused := cond != nil && cond.Reason == reasonPaused
	if r.d.Spec.Paused && !paused {
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	} else if !r.d.Spec.Paused && paused {
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// status is what the replica sets amount to, its conditions apart from Progressing included.
func (r *rollout) status() appsv1.DeploymentStatus {
	all := r.all()
	s := appsv1.DeploymentStatus{ObservedGeneration: r.d.Generation, CollisionCount: r.collisions}
	var failure *appsv1.ReplicaSetCondition
	terminating := int32(0)
	for _, rs := range all {
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
		if rs.Status.TerminatingReplicas != nil {
			terminating += *rs.Status.TerminatingReplicas
		}
		for i, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && (failure == nil || rs == r.new) {
				failure = &rs.Status.Conditions[i]
			}
		}
	}
	s.TerminatingReplicas = &terminating
	s.UnavailableReplicas = max(wanted(all)-s.AvailableReplicas, 0)
	if r.new != nil {
		s.UpdatedReplicas = r.new.Status.Replicas
	}
	if _, unavailable := fenceposts(r.d); s.AvailableReplicas >= *r.d.Spec.Replicas-unavailable {
		r.setCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.setCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	if failure != nil {
		r.setCondition(appsv1.DeploymentReplicaFailure, failure.Status, failure.Reason, failure.Message)
	} else {
		r.dropCondition(appsv1.DeploymentReplicaFailure)
	}
	return s
}

func (r *rollout) complete() bool {
	s := appsv1.DeploymentStatus{ObservedGeneration: r.d.Generation}
	for _, rs := range r.all() {
		s.Replicas += rs.Status.Replicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
	}
	if r.new != nil {
		s.UpdatedReplicas = r.new.Status.Replicas
	}
	return rolledOut(r.d, &s)
}

func rolledOut(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

// progressed says whether a status is further on than the one before it.
func progressed(old, new *appsv1.DeploymentStatus) bool {
	return new.UpdatedReplicas > old.UpdatedReplicas ||
		new.Replicas-new.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		new.ReadyReplicas > old.ReadyReplicas ||
		new.AvailableReplicas > old.AvailableReplicas
}

// finish writes the status, and says when the progress deadline has to be looked at.
func (r *rollout) finish(ctx context.Context) (time.Duration, error) {
	s := r.status()
	again := time.Duration(0)
	if !hasDeadline(r.d) {
		r.dropCondition(appsv1.DeploymentProgressing)
	} else if !r.d.Spec.Paused && r.d.DeletionTimestamp == nil {
		again = r.noteProgress(&s)
	}
	r.noteRollback()
	if err := r.writeStatus(ctx, s); err != nil {
		return again, err
	}
	if err := r.noteHealth(ctx, &s); err != nil {
		return again, ignoreNotFound(err)
	}
	return again, ignoreNotFound(r.rollBack(ctx))
}

func (r *rollout) writeStatus(ctx context.Context, s appsv1.DeploymentStatus) error {
	s.Conditions = r.conditions
	got, err := control.SetStatus(ctx, r.c, apps.Deployment, r.d, func(d *appsv1.Deployment) { d.Status = s })
	if err == nil {
		r.d = got
	}
	return ignoreNotFound(err)
}

func (r *rollout) noteProgress(s *appsv1.DeploymentStatus) (again time.Duration) {
	cond := r.condition(appsv1.DeploymentProgressing)
	if s.Replicas == s.UpdatedReplicas && cond != nil && cond.Reason == reasonDone {
		return 0
	}
	name, what := r.d.Name, "Deployment"
	if r.new != nil {
		name, what = r.new.Name, "ReplicaSet"
	}
	switch {
	case rolledOut(r.d, s):
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonDone, fmt.Sprintf("%s %q has successfully progressed.", what, name))
		return 0
	case progressed(&r.d.Status, s):
		next := metav1.NewTime(r.c.Now())
		since := next
		if cond != nil && cond.Status == corev1.ConditionTrue {
			since = cond.LastTransitionTime
		}
		r.dropCondition(appsv1.DeploymentProgressing)
		r.conditions = append(r.conditions, appsv1.DeploymentCondition{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reasonUpdated,
			Message: fmt.Sprintf("%s %q is progressing.", what, name), LastUpdateTime: next, LastTransitionTime: since,
		})
	case r.late() <= 0:
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, fmt.Sprintf("%s %q has timed out progressing.", what, name))
		return 0
	}
	if cond := r.condition(appsv1.DeploymentProgressing); cond == nil || cond.Reason == reasonTimedOut || cond.Reason == reasonDone {
		return 0
	}
	return r.late()
}

// late is the time left until the rollout counts as stuck.
func (r *rollout) late() time.Duration {
	cond := r.condition(appsv1.DeploymentProgressing)
	if cond == nil || cond.Reason == reasonDone {
		return time.Hour
	}
	if cond.Reason == reasonTimedOut {
		return 0
	}
	return cond.LastUpdateTime.Add(time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second).Sub(r.c.Now())
}
