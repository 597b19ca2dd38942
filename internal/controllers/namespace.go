package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

// Namespace empties namespaces that are being deleted: pods first, then
// everything else, and then lets go of the namespace itself.
func Namespace(kinds control.Kinds) *control.Controller[*corev1.Namespace] {
	content := &catalog{kinds: kinds, keep: func(r *api.Resource) bool {
		return r.Scope == api.Namespaced && !r.Virtual && r.Can(api.List) && r.Can(api.DeleteCollection)
	}}
	return &control.Controller[*corev1.Namespace]{
		Name: "namespace",
		For:  core.Namespace,
		Any:  true,
		Watches: []control.Watch{control.On(core.Pod, func(c *control.Cluster, p *corev1.Pod) []control.Key {
			n, ok := control.Get(c, core.Namespace, "", p.Namespace)
			if !ok || n.DeletionTimestamp == nil {
				return nil
			}
			return []control.Key{control.KeyOf(n)}
		})},
		Reconcile: func(ctx context.Context, c *control.Cluster, n *corev1.Namespace) (time.Duration, error) {
			if n.DeletionTimestamp == nil || !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
				return 0, nil
			}
			now, _ := content.all()
			return emptyNamespace(ctx, c, now, n)
		},
	}
}

// namedRemainders is how many objects of a kind the conditions call by name.
const namedRemainders = 3

// A remainder is what is left in a namespace.
type remainder struct {
	counts     map[*api.Resource]int
	names      map[*api.Resource][]string // the first few
	finalizers map[string]int
	failures   []string
}

func emptyNamespace(ctx context.Context, c *control.Cluster, content []*api.Resource, n *corev1.Namespace) (time.Duration, error) {
	left := &remainder{counts: map[*api.Resource]int{}, names: map[*api.Resource][]string{}, finalizers: map[string]int{}}
	left.clear(ctx, c, core.Pod.Def(), n.Name)
	if left.counts[core.Pod.Def()] == 0 && len(left.failures) == 0 {
		for _, r := range content {
			if r != core.Pod.Def() {
				left.clear(ctx, c, r, n.Name)
			}
		}
	}
	n, err := control.SetStatus(ctx, c, core.Namespace, n, func(n *corev1.Namespace) {
		n.Status.Phase = corev1.NamespaceTerminating
		left.describe(&n.Status, c.Now())
	})
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil
	case err != nil:
		return 0, err
	case len(left.failures) > 0:
		return 0, fmt.Errorf("empty the namespace: %s", strings.Join(left.failures, "; "))
	case len(left.counts) > 0:
		return time.Second, nil // held by finalizers; the last pod comes back by itself
	}
	next := api.Clone(n)
	next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = c.Handle(ctx, &api.Request{Verb: api.Update, Resource: core.Namespace.Def(), Name: n.Name, Sub: "finalize", Object: next})
	return 0, ignoreNotFound(err)
}

// clear removes all objects of a kind, and counts those that stay.
func (l *remainder) clear(ctx context.Context, c *control.Cluster, r *api.Resource, ns string) {
	k := api.Untyped(r)
	all, err := k.List(ctx, c, ns, api.Selectors{})
	if err == nil && len(all) > 0 {
		background := metav1.DeletePropagationBackground
		_, err = c.Handle(ctx, &api.Request{Verb: api.DeleteCollection, Resource: r, Namespace: ns, Options: api.Options{Propagation: &background}})
		if err == nil {
			all, err = k.List(ctx, c, ns, api.Selectors{})
		}
	}
	if apierrors.IsNotFound(err) {
		return // the kind has gone meanwhile
	}
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("%s: %v", r.Resource, err))
		return
	}
	for _, o := range all {
		if l.counts[r]++; l.counts[r] <= namedRemainders {
			l.names[r] = append(l.names[r], o.GetName())
		} else if l.counts[r] == namedRemainders+1 {
			l.names[r] = append(l.names[r], "…")
		}
		for _, f := range o.GetFinalizers() {
			l.finalizers[f]++
		}
	}
}

// describe says in the namespace's conditions what its deletion waits for.
func (l *remainder) describe(s *corev1.NamespaceStatus, now time.Time) {
	set := func(typ corev1.NamespaceConditionType, bad bool, reason, message string) {
		next := corev1.NamespaceCondition{Type: typ, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now).Rfc3339Copy()}
		if bad {
			next.Status = corev1.ConditionTrue
		}
		for i, old := range s.Conditions {
			if old.Type == typ {
				if old.Status == next.Status {
					next.LastTransitionTime = old.LastTransitionTime
				}
				s.Conditions[i] = next
				return
			}
		}
		s.Conditions = append(s.Conditions, next)
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, false, "ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "ParsedGroupVersions", "All legacy kube types successfully parsed")
	if len(l.failures) > 0 {
		set(corev1.NamespaceDeletionContentFailure, true, "ContentDeletionFailed", "Failed to delete all resource types, "+fmt.Sprintf("%d remaining: %s", len(l.failures), strings.Join(l.failures, ", ")))
	} else {
		set(corev1.NamespaceDeletionContentFailure, false, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	}
	if len(l.counts) > 0 {
		var parts []string
		for r, n := range l.counts {
			parts = append(parts, fmt.Sprintf("%s.%s has %d resource instances (%s)", r.Resource, r.Group, n, strings.Join(l.names[r], ", ")))
		}
		slices.Sort(parts)
		set(corev1.NamespaceContentRemaining, true, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(parts, ", "))
	} else {
		set(corev1.NamespaceContentRemaining, false, "ContentRemoved", "All content successfully removed")
	}
	if len(l.finalizers) > 0 {
		var parts []string
		for f, n := range l.finalizers {
			parts = append(parts, fmt.Sprintf("%s in %d resource instances", f, n))
		}
		slices.Sort(parts)
		set(corev1.NamespaceFinalizersRemaining, true, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(parts, ", "))
	} else {
		set(corev1.NamespaceFinalizersRemaining, false, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	}
}
