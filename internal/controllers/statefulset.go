package controllers

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// StatefulSet keeps pods that each have an ordinal, and with it a name and
// claims that outlive them. There is never more than one pod of an ordinal: its
// name is taken until it is gone.
//
//	observe: pods and revisions ──> decide: planStateful ──> act: claims, then pods
var StatefulSet = &control.Controller[*appsv1.StatefulSet]{
	Name: "statefulset",
	For:  apps.StatefulSet,
	Owns: []api.Definition{core.Pod, apps.ControllerRevision},
	Watches: []control.Watch{
		matching(apps.StatefulSet, core.Pod, statefulSelector),
		matching(apps.StatefulSet, apps.ControllerRevision, statefulSelector),
		control.On(core.PersistentVolumeClaim, claimants),
		roomFor(apps.StatefulSet, func(s *appsv1.StatefulSet) bool { return s.Status.Replicas < *s.Spec.Replicas }),
	},
	Writes:    []api.Definition{core.Pod, core.PersistentVolumeClaim, apps.ControllerRevision},
	Reconcile: reconcileStatefulSet,
}

func statefulSelector(s *appsv1.StatefulSet) *metav1.LabelSelector { return s.Spec.Selector }

// A stateful is one look at a stateful set.
type stateful struct {
	c               *control.Cluster
	set             *appsv1.StatefulSet
	history         history[*appsv1.StatefulSet]
	current, update string                  // names of revisions
	was             *corev1.PodTemplateSpec // the template of the current revision
	pods            []*corev1.Pod
	plan            statefulPlan
}

func reconcileStatefulSet(ctx context.Context, c *control.Cluster, s *appsv1.StatefulSet) (time.Duration, error) {
	sel, err := metav1.LabelSelectorAsSelector(s.Spec.Selector)
	if err != nil {
		return 0, nil
	}
	member := func(p *corev1.Pod) bool { return ordinalOf(s, p.Name) >= 0 }
	pods, err := claim(ctx, c, apps.StatefulSet, core.Pod, s, sel, member)
	if err != nil {
		return 0, err
	}
	r := &stateful{c: c, set: s, pods: pods, current: s.Status.CurrentRevision, update: s.Status.UpdateRevision}
	r.history = history[*appsv1.StatefulSet]{c: c, kind: apps.StatefulSet, owner: s, template: &s.Spec.Template,
		hashLabel: "controllerrevision.kubernetes.io/hash", collisions: s.Status.CollisionCount}
	if err = r.history.load(ctx, sel); err != nil {
		return 0, err
	}
	var failed error
	if s.DeletionTimestamp == nil {
		failed = r.advance(ctx)
		r.pods = slices.DeleteFunc(control.Owned(c, core.Pod, s.UID), func(p *corev1.Pod) bool { return !member(p) })
	}
	status, again := r.status(c.Now())
	if _, err := control.SetStatus(ctx, c, apps.StatefulSet, s, func(s *appsv1.StatefulSet) { s.Status = status }); err != nil {
		return 0, ignoreNotFound(err)
	}
	if failed != nil || s.DeletionTimestamp != nil {
		return 0, ignoreTerminating(failed)
	}
	live := map[string]bool{status.CurrentRevision: true, status.UpdateRevision: true}
	for _, p := range r.pods {
		live[revisionOfPod(p)] = true
	}
	err = r.history.prune(ctx, s.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool { return live[r.Name] })
	return again, err
}

// advance takes the next step.
func (r *stateful) advance(ctx context.Context) error {
	newest, err := r.history.newest(ctx)
	if err != nil {
		return err
	}
	r.update = newest.Name
	current := r.history.named(r.current)
	if current == nil {
		current, r.current = newest, newest.Name
	}
	if r.was, err = revisionTemplate(current); err != nil {
		return err
	}
	r.plan = planStateful(r.set, r.pods, r.current, r.update, r.c.Now())
	if err := r.keepClaims(ctx); err != nil {
		return err
	}
	if err := r.create(ctx); err != nil {
		return err
	}
	return r.remove(ctx)
}

// status is what the pods amount to, and when that changes by itself. Once every
// pod is of the new revision and ready, that is the current one.
func (r *stateful) status(now time.Time) (s appsv1.StatefulSetStatus, again time.Duration) {
	s = appsv1.StatefulSetStatus{
		ObservedGeneration: r.set.Generation, CurrentRevision: r.current, UpdateRevision: r.update,
		CollisionCount: r.history.collisions, Conditions: r.set.Status.Conditions,
	}
	for _, p := range r.pods {
		s.Replicas++
		if core.PodReady(p) {
			s.ReadyReplicas++
		}
		ok, wait := available(p, r.set.Spec.MinReadySeconds, now)
		if ok {
			s.AvailableReplicas++
		}
		again = sooner(again, wait)
		if p.DeletionTimestamp != nil {
			continue
		}
		of := revisionOfPod(p)
		s.CurrentReplicas += int32(truth(of == s.CurrentRevision))
		s.UpdatedReplicas += int32(truth(of == s.UpdateRevision))
	}
	want := *r.set.Spec.Replicas
	if r.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && s.UpdatedReplicas == want && s.ReadyReplicas == want && s.Replicas == want {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
	return s, again
}

// ordinalOf is the ordinal that the name of a pod or claim gives it in the set
// after the prefix; negative if it is none of the set's.
func ordinalOf(s *appsv1.StatefulSet, name string) int { return ordinalAfter(s.Name+"-", name) }

func ordinalAfter(prefix, name string) int {
	digits, ok := strings.CutPrefix(name, prefix)
	n, err := strconv.ParseUint(digits, 10, 31)
	if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
		return -1
	}
	return int(n)
}

// span is the ordinals that a set is to have: from first up to but without end.
func span(s *appsv1.StatefulSet) (first, end int) {
	if o := s.Spec.Ordinals; o != nil {
		first = int(o.Start)
	}
	return first, first + int(*s.Spec.Replicas)
}
