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

// Deployment rolls a template out through replica sets, one per revision.
var Deployment = &control.Controller[*appsv1.Deployment]{
	Name: "deployment",
	For:  apps.Deployment,
	Owns: []api.Definition{apps.ReplicaSet},
	Watches: []control.Watch{
		matching(apps.Deployment, apps.ReplicaSet, func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector }),
		control.On(core.Pod, recreating),
	},
	Writes:    []api.Definition{apps.ReplicaSet},
	Reconcile: reconcileDeployment,
}

// recreating is the key of the Recreate deployment that a pod belongs to: it
// waits for the last old pod.
func recreating(c *control.Cluster, p *corev1.Pod) []control.Key {
	rs := metav1.GetControllerOfNoCopy(p)
	if rs == nil || rs.Kind != "ReplicaSet" {
		return nil
	}
	set, ok := control.Get(c, apps.ReplicaSet, p.Namespace, rs.Name)
	if !ok {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil || ref.Kind != "Deployment" {
		return nil
	}
	d, ok := control.Get(c, apps.Deployment, p.Namespace, ref.Name)
	if !ok || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return []control.Key{control.KeyOf(d)}
}

// A rollout is one look at a deployment and its replica sets.
type rollout struct {
	c   *control.Cluster
	d   *appsv1.Deployment
	new *appsv1.ReplicaSet   // the one of the current template; nil if there is none yet
	old []*appsv1.ReplicaSet // the others, oldest first

	conditions []appsv1.DeploymentCondition // as they are to be
	collisions *int32
}

func reconcileDeployment(ctx context.Context, c *control.Cluster, d *appsv1.Deployment) (time.Duration, error) {
	sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return 0, nil
	}
	if sel.Empty() {
		c.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		_, err := control.SetStatus(ctx, c, apps.Deployment, d, func(d *appsv1.Deployment) { d.Status.ObservedGeneration = d.Generation })
		return 0, err
	}
	sets, err := claim(ctx, c, apps.Deployment, apps.ReplicaSet, d, sel)
	if err != nil {
		return 0, err
	}
	r := newRollout(c, d, sets)
	if d.DeletionTimestamp == nil {
		r.notePause()
		err = r.advance(ctx, sel)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	if err != nil {
		// What went wrong is told in the status; the error still counts.
		r.writeStatus(ctx, r.status())
		return 0, err
	}
	return r.finish(ctx)
}

func newRollout(c *control.Cluster, d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *rollout {
	sets = slices.Clone(sets)
	slices.SortStableFunc(sets, olderFirst)
	r := &rollout{c: c, d: d, conditions: slices.Clone(d.Status.Conditions), collisions: d.Status.CollisionCount}
	for _, rs := range sets {
		if r.new == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			r.new = rs
		} else {
			r.old = append(r.old, rs)
		}
	}
	return r
}

// all is every replica set, the new one last.
func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.new == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.new)
}

// advance takes the next step of the rollout.
func (r *rollout) advance(ctx context.Context, sel labels.Selector) error {
	if r.d.Spec.Paused {
		if err := r.syncRevision(ctx, false); err != nil {
			return err
		}
		if err := r.scale(ctx); err != nil {
			return err
		}
		return r.cleanup(ctx)
	}
	if r.resized() {
		if err := r.syncRevision(ctx, false); err != nil {
			return err
		}
		return r.scale(ctx)
	}
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.recreate(ctx, sel)
	}
	return r.roll(ctx)
}

// resized says whether the deployment's size changed since its replica sets
// were last scaled.
func (r *rollout) resized() bool {
	for _, rs := range r.all() {
		if *rs.Spec.Replicas == 0 {
			continue
		}
		if n, ok := number(rs, desiredAnnotation); ok && n != *r.d.Spec.Replicas {
			return true
		}
	}
	return false
}

// roll replaces old pods by new ones, within maxSurge and maxUnavailable.
func (r *rollout) roll(ctx context.Context) error {
	if err := r.syncRevision(ctx, true); err != nil {
		return err
	}
	if want := newReplicas(r.d, r.all(), r.new, r.extra()); want != *r.new.Spec.Replicas {
		return r.resize(ctx, r.new, want)
	}
	for _, s := range shrinkOld(r.d, r.new, r.old) {
		if err := r.resize(ctx, s.set, s.size); err != nil {
			return err
		}
	}
	if r.complete() {
		return r.cleanup(ctx)
	}
	return nil
}

// extra is how many more pods there are than the replica sets are to have: one that
// was made smaller has yet to remove them.
func (r *rollout) extra() (n int32) {
	for _, rs := range r.all() {
		live := int32(0)
		for _, p := range control.Owned(r.c, core.Pod, rs.UID) {
			if active(p) {
				live++
			}
		}
		n += max(live-*rs.Spec.Replicas, 0)
	}
	return n
}

// recreate ends every old pod before the first new one starts.
func (r *rollout) recreate(ctx context.Context, sel labels.Selector) error {
	if err := r.syncRevision(ctx, false); err != nil {
		return err
	}
	shrunk := false
	for _, rs := range r.old {
		if *rs.Spec.Replicas > 0 {
			shrunk = true
			if err := r.resize(ctx, rs, 0); err != nil {
				return err
			}
		}
	}
	if shrunk || r.oldPodsLeft(sel) {
		return nil
	}
	if r.new == nil {
		if err := r.syncRevision(ctx, true); err != nil {
			return err
		}
	}
	if *r.new.Spec.Replicas != *r.d.Spec.Replicas {
		return r.resize(ctx, r.new, *r.d.Spec.Replicas)
	}
	if r.complete() {
		return r.cleanup(ctx)
	}
	return nil
}

func (r *rollout) oldPodsLeft(sel labels.Selector) bool {
	for _, rs := range r.old {
		if rs.Status.Replicas > 0 {
			return true
		}
		for _, p := range control.Owned(r.c, core.Pod, rs.UID) {
			if !core.PodFinished(p) && sel.Matches(labels.Set(p.Labels)) {
				return true
			}
		}
	}
	return false
}

// cleanup removes old replica sets beyond the history limit, oldest revision first.
func (r *rollout) cleanup(ctx context.Context) error {
	if r.d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	old := slices.DeleteFunc(slices.Clone(r.old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	n := len(old) - int(*r.d.Spec.RevisionHistoryLimit)
	if n <= 0 {
		return nil
	}
	slices.SortStableFunc(old, byRevision)
	for _, rs := range old[:n] {
		if rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		if err := apps.ReplicaSet.Delete(ctx, r.c, rs.Namespace, rs.Name, api.Options{UID: &rs.UID}); ignoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}
