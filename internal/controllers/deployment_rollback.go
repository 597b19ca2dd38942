package controllers

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/apps"
)

// Annotations of ours on deployments: see docs/howto/releases.md.
const (
	rollbackChoice   = "proa.dev/rollback"       // "on-deadline": a rollout that misses its progress deadline is taken back
	configChoice     = "proa.dev/config-rollout" // "gated": so is one that a ConfigMap or Secret has caused, with these
	rolledBackRecord = "proa.dev/rolled-back"    // what was taken back last: "from SET to SET"
	configRecord     = "proa.dev/config"         // the hash of the configuration in use; on the pod template, too
	configUndo       = "proa.dev/config-undo"    // the hash of the configuration that is being taken back
	healthyRecord    = "proa.dev/healthy"        // on a replica set that was rolled out whole: with which configuration
)

// conditionRolledBack says of a guarded deployment that its rollout was taken
// back (True) or could not be (False).
const conditionRolledBack appsv1.DeploymentConditionType = "RolledBack"

// guarded says whether rollouts are taken back that do not become healthy.
func guarded(d *appsv1.Deployment) bool {
	return d.Annotations[rollbackChoice] == "on-deadline" || configGated(d)
}

func configGated(d *appsv1.Deployment) bool { return d.Annotations[configChoice] == "gated" }

// rolledBack are the replica sets between which the last rollback was.
func rolledBack(d *appsv1.Deployment) (from, to string) {
	if f := strings.Fields(d.Annotations[rolledBackRecord]); len(f) == 4 {
		return f[1], f[3]
	}
	return "", ""
}

// noteHealth remembers of the new replica set that it was rolled out whole: that
// is what a rollback may go back to.
func (r *rollout) noteHealth(ctx context.Context, s *appsv1.DeploymentStatus) error {
	if r.new == nil || !guarded(r.d) || r.d.DeletionTimestamp != nil || *r.d.Spec.Replicas == 0 || !rolledOut(r.d, s) {
		return nil
	}
	with := r.d.Annotations[configRecord]
	if with == "" {
		with = "yes"
	}
	if r.new.Annotations[healthyRecord] == with {
		return nil
	}
	next := api.Clone(r.new)
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, healthyRecord, with)
	got, err := apps.ReplicaSet.Update(ctx, r.c, next)
	if err == nil {
		r.replace(got)
	}
	return err
}

// lastHealthy is the latest of the old replica sets that were rolled out whole.
func (r *rollout) lastHealthy() (best *appsv1.ReplicaSet) {
	for _, rs := range r.old {
		if rs.Annotations[healthyRecord] != "" && rs.DeletionTimestamp == nil && (best == nil || byRevision(rs, best) > 0) {
			best = rs
		}
	}
	return best
}

// missed says whether the present rollout, and not one before it, has missed its deadline.
func (r *rollout) missed() bool {
	cond := r.condition(appsv1.DeploymentProgressing)
	return r.new != nil && cond != nil && cond.Reason == reasonTimedOut && strings.Contains(cond.Message, strconv.Quote(r.new.Name))
}

// noteRollback brings the condition up to date.
func (r *rollout) noteRollback() {
	from, to := rolledBack(r.d)
	switch {
	case guarded(r.d) && r.new != nil && r.new.Name == to:
		r.setCondition(conditionRolledBack, corev1.ConditionTrue, reasonTimedOut,
			fmt.Sprintf("ReplicaSet %q missed its progress deadline; the template of %q was put back.", from, to))
	case guarded(r.d) && r.missed() && r.lastHealthy() == nil:
		r.setCondition(conditionRolledBack, corev1.ConditionFalse, "NothingHealthy", "No earlier revision that was rolled out whole is left to go back to.")
	default:
		r.dropCondition(conditionRolledBack)
	}
}

// rollBack puts the template of the last healthy revision back, as somebody with
// kubectl would. What was put back is not taken back in its turn: if that is not
// healthy either, the fault is elsewhere.
func (r *rollout) rollBack(ctx context.Context) error {
	if !guarded(r.d) || !r.missed() || r.d.Spec.Paused || r.d.DeletionTimestamp != nil {
		return nil
	}
	good := r.lastHealthy()
	if _, to := rolledBack(r.d); good == nil || to == r.new.Name {
		return nil
	}
	next := api.Clone(r.d)
	next.Spec.Template = *good.Spec.Template.DeepCopy()
	next.Spec.Template.Labels = maps.Clone(without(good.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey))
	next.Annotations[rolledBackRecord] = fmt.Sprintf("from %s to %s", r.new.Name, good.Name)
	if was, bad := good.Annotations[healthyRecord], next.Annotations[configRecord]; configGated(r.d) && was != "yes" && bad != "" && was != bad {
		next.Annotations[configRecord], next.Annotations[configUndo] = was, bad
	}
	const cause = "kubernetes.io/change-cause" // it is the revision's, not the deployment's
	if why := good.Annotations[cause]; why != "" {
		next.Annotations[cause] = why
	} else {
		delete(next.Annotations, cause)
	}
	bad := r.new.Name
	got, err := apps.Deployment.Update(ctx, r.c, next)
	if err != nil {
		return err
	}
	r.d = got
	r.c.Eventf(r.d, corev1.EventTypeWarning, "RolledBack", "Replica set %s missed the progress deadline of %ds; put back the template of %s", bad, *r.d.Spec.ProgressDeadlineSeconds, good.Name)
	return nil
}
