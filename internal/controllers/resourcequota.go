package controllers

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/quota"
)

// ResourceQuota shows in the status of each quota what its namespace uses. That
// the bounds are kept is the server's affair. Kinds are those that can be counted.
func ResourceQuota(kinds control.Kinds) *control.Sweep {
	q := &quotas{catalog{kinds: kinds, keep: func(r *api.Resource) bool {
		return !r.Virtual && r.Scope == api.Namespaced && r.Can(api.List) && r.Can(api.Watch) && r != core.Event.Def()
	}}}
	return &control.Sweep{Name: "resourcequota", Kinds: q.kinds.all, Slim: true, Bare: true, Changed: q.changed, Reconcile: q.reconcile}
}

type quotas struct{ kinds catalog }

// changed names the quotas whose numbers a change may change.
func (q *quotas) changed(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
	o := new
	if new == nil {
		o = old
	}
	if kind == core.ResourceQuota.Def() {
		keys = append(keys, control.KeyOf(o))
	}
	here := control.All(c, api.Untyped(core.ResourceQuota.Def()), o.GetNamespace())
	if len(here) == 0 || old != nil && new != nil && sameUsage(kind, old, new) {
		return keys
	}
	for _, r := range here {
		keys = append(keys, control.KeyOf(r))
	}
	return keys
}

// sameUsage says whether a change can not have changed what the object uses.
func sameUsage(kind *api.Resource, old, new api.Object) bool {
	gr := kind.GroupResource()
	if quota.Counts(gr) {
		return true
	}
	if bare(old) || bare(new) {
		return false
	}
	now := time.Time{} // pods that should have ended are looked at when they do
	return equality.Semantic.DeepEqual(quota.Usage(gr, old, now), quota.Usage(gr, new, now))
}

// bare says whether only the metadata of an object is known.
func bare(o api.Object) bool {
	_, ok := o.(*metav1.PartialObjectMetadata)
	return ok
}

func (q *quotas) reconcile(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	r, err := core.ResourceQuota.Get(ctx, c, key.Namespace, key.Name)
	if err != nil || r.DeletionTimestamp != nil {
		return 0, ignoreNotFound(err)
	}
	used := corev1.ResourceList{}
	for _, kind := range boundKinds(r) {
		if err := q.add(ctx, c, r, kind, used); err != nil {
			return 0, err
		}
	}
	_, err = control.SetStatus(ctx, c, core.ResourceQuota, r, func(r *corev1.ResourceQuota) {
		r.Status.Hard = r.Spec.Hard.DeepCopy()
		r.Status.Used = corev1.ResourceList{}
		for name := range r.Spec.Hard {
			r.Status.Used[name] = used[name]
		}
	})
	return 0, ignoreNotFound(err)
}

// boundKinds are the kinds whose objects a quota is about.
func boundKinds(r *corev1.ResourceQuota) (out []schema.GroupResource) {
	for name := range r.Spec.Hard {
		if gr := quota.KindOf(name); !slices.Contains(out, gr) {
			out = append(out, gr)
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupResource) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// add adds what the objects of a kind use to used.
func (q *quotas) add(ctx context.Context, c *control.Cluster, r *corev1.ResourceQuota, gr schema.GroupResource, used corev1.ResourceList) error {
	kind := q.kinds.named(gr.Group, gr.Resource)
	if kind == nil {
		return nil // there are none of those
	}
	all := control.All(c, api.Untyped(kind), r.Namespace)
	if !quota.Counts(gr) && slices.ContainsFunc(all, bare) {
		var err error
		if all, err = api.Untyped(kind).List(ctx, c, r.Namespace, api.Selectors{}); err != nil {
			return err
		}
	}
	for _, o := range all {
		if quota.Covers(r, o) {
			quota.Add(used, quota.Usage(gr, o, c.Now()))
		}
	}
	return nil
}
