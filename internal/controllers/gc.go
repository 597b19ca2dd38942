package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

// GarbageCollector removes objects whose owners are all gone, over all kinds
// alike, and carries out what a delete says of the dependents: foreground
// (they go first), background (they go after), orphan (they stay).
func GarbageCollector(resources []*api.Resource) *control.Sweep {
	g := &collector{}
	for _, r := range resources {
		if !r.Virtual && r.Can(api.List) && r.Can(api.Watch) && r.Can(api.Delete) && r != core.Event.Def() {
			g.kinds = append(g.kinds, r)
		}
	}
	return &control.Sweep{Name: "garbage-collector", Kinds: g.kinds, Changed: g.changed, Reconcile: g.reconcile}
}

type collector struct{ kinds []*api.Resource }

// kindOf returns the resource that an owner reference speaks of, or nil.
func (g *collector) kindOf(ref *metav1.OwnerReference) *api.Resource {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil
	}
	for _, r := range g.kinds {
		if r.Group == gv.Group && r.Kind == ref.Kind {
			return r
		}
	}
	return nil
}

// known returns an owner that the engine has seen, and whether its kind and place can be.
func (g *collector) known(c *control.Cluster, o api.Object, ref *metav1.OwnerReference) (owner api.Object, kind *api.Resource) {
	kind = g.kindOf(ref)
	if kind == nil {
		return nil, nil
	}
	owner, ok := c.Find(kind, placeOf(kind, o), ref.Name)
	if !ok || owner.GetUID() != ref.UID {
		return nil, kind
	}
	return owner, kind
}

// placeOf is the namespace in which an owner of that kind is looked for.
func placeOf(kind *api.Resource, dependent api.Object) string {
	if kind.Scope == api.Cluster {
		return ""
	}
	return dependent.GetNamespace()
}

func has(o api.Object, finalizer string) bool { return slices.Contains(o.GetFinalizers(), finalizer) }

// holding says whether an object is being deleted and waits for its dependents.
func holding(o api.Object) bool {
	return o.GetDeletionTimestamp() != nil && has(o, metav1.FinalizerDeleteDependents)
}

func keyIn(kind *api.Resource, o api.Object) control.Key {
	return control.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

func (g *collector) changed(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
	if new != nil {
		if new.GetDeletionTimestamp() != nil && (has(new, metav1.FinalizerDeleteDependents) || has(new, metav1.FinalizerOrphanDependents)) {
			keys = append(keys, keyIn(kind, new))
		}
		refs := new.GetOwnerReferences()
		for i := range refs {
			owner, ownerKind := g.known(c, new, &refs[i])
			if owner == nil {
				keys = append(keys, keyIn(kind, new))
			} else if holding(owner) {
				keys = append(keys, keyIn(ownerKind, owner))
			}
		}
	}
	if old == nil {
		return keys
	}
	refs := old.GetOwnerReferences()
	for i := range refs {
		if owner, ownerKind := g.known(c, old, &refs[i]); owner != nil && holding(owner) {
			keys = append(keys, keyIn(ownerKind, owner))
		}
	}
	if new == nil || new.GetUID() != old.GetUID() {
		g.dependents(c, old.GetUID(), func(kind *api.Resource, d api.Object) { keys = append(keys, keyIn(kind, d)) })
	}
	return keys
}

func (g *collector) dependents(c *control.Cluster, uid types.UID, f func(kind *api.Resource, d api.Object)) {
	for _, kind := range g.kinds {
		for _, d := range c.Dependents(kind, uid) {
			f(kind, d)
		}
	}
}

func (g *collector) reconcile(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	o, ok := c.Find(key.Kind, key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	if o.GetDeletionTimestamp() != nil {
		switch {
		case has(o, metav1.FinalizerOrphanDependents):
			return 0, g.orphan(ctx, c, key.Kind, o)
		case has(o, metav1.FinalizerDeleteDependents):
			return 0, g.foreground(ctx, c, key.Kind, o)
		}
		return 0, nil
	}
	return g.collect(ctx, c, key.Kind, o)
}

// A dependent is an object that names another as its owner.
type dependent struct {
	kind *api.Resource
	obj  api.Object
}

// orphan takes the object out of its dependents' owners, and lets it go.
func (g *collector) orphan(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) error {
	all, err := g.owned(ctx, c, kind, o)
	if err != nil {
		return err
	}
	err = c.Each(len(all), func(i int) error {
		return disown(ctx, c, all[i].kind, all[i].obj, func(uid types.UID) bool { return uid == o.GetUID() })
	})
	if err != nil {
		return err
	}
	return unfinalize(ctx, c, kind, o, metav1.FinalizerOrphanDependents)
}

// owned asks the server itself for the dependents: one that the watches have
// not told of yet would be collected as soon as its owner is gone.
func (g *collector) owned(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) (all []dependent, err error) {
	ns := o.GetNamespace()
	for _, k := range g.kinds {
		if !k.Can(api.List) || kind.Scope == api.Namespaced && k.Scope == api.Cluster {
			continue
		}
		list, err := api.Untyped(k).List(ctx, c, ns, api.Selectors{})
		if err != nil {
			return nil, fmt.Errorf("look for dependents: %w", err)
		}
		for _, d := range list {
			if slices.ContainsFunc(d.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() }) {
				all = append(all, dependent{k, d})
			}
		}
	}
	return all, nil
}

// foreground removes the dependents that block the object, and then lets it go.
func (g *collector) foreground(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) (err error) {
	blocked := false
	g.dependents(c, o.GetUID(), func(kind *api.Resource, d api.Object) {
		if err != nil || !blocks(d, o.GetUID()) {
			return
		}
		blocked = true
		if d.GetDeletionTimestamp() == nil {
			_, err = g.collect(ctx, c, kind, d)
		}
	})
	if err != nil || blocked {
		return err
	}
	all, err := g.owned(ctx, c, kind, o)
	if err != nil || slices.ContainsFunc(all, func(d dependent) bool { return blocks(d.obj, o.GetUID()) }) {
		return err // the watch will tell of it
	}
	return unfinalize(ctx, c, kind, o, metav1.FinalizerDeleteDependents)
}

func blocks(d api.Object, uid types.UID) bool {
	return slices.ContainsFunc(d.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
		return r.UID == uid && r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
	})
}

// collect removes the object if none of its owners is left, and takes owners
// that are gone or going out of it if others stay.
func (g *collector) collect(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) (time.Duration, error) {
	gone, waiting, solid := map[types.UID]bool{}, map[types.UID]bool{}, 0
	refs := o.GetOwnerReferences()
	for i := range refs {
		ref := &refs[i]
		owner, ownerKind := g.known(c, o, ref)
		switch {
		case ownerKind == nil: // a kind that is not served now may come back
			c.Log.Debug("owner of an unknown kind", "apiVersion", ref.APIVersion, "kind", ref.Kind, "of", o.GetName())
			return time.Minute, nil
		case ownerKind.Scope == api.Namespaced && kind.Scope == api.Cluster:
			c.Eventf(o, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef [%s/%s, namespace: , name: %s, uid: %s] does not exist in namespace \"\"",
				ref.APIVersion, ref.Kind, ref.Name, ref.UID)
			return 0, nil
		case owner == nil:
			live, err := api.Untyped(ownerKind).Get(ctx, c, placeOf(ownerKind, o), ref.Name)
			switch {
			case apierrors.IsNotFound(err), err == nil && live.GetUID() != ref.UID:
				gone[ref.UID] = true
				continue
			case err != nil:
				return 0, fmt.Errorf("look for the owner: %w", err)
			}
			owner = live
		}
		if holding(owner) && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion {
			waiting[ref.UID] = true
		} else {
			solid++
		}
	}
	switch {
	case len(gone) == 0 && len(waiting) == 0:
		return 0, nil
	case solid > 0:
		return 0, disown(ctx, c, kind, o, func(uid types.UID) bool { return gone[uid] || waiting[uid] })
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case len(waiting) > 0:
		policy = g.policyBelow(c, o)
		if policy == "" { // the dependents wait for each other in a circle
			policy = metav1.DeletePropagationForeground
			if err := unblock(ctx, c, kind, o); err != nil {
				return 0, err
			}
		}
	case has(o, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case has(o, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	uid := o.GetUID()
	err := api.Untyped(kind).Delete(ctx, c, o.GetNamespace(), o.GetName(), api.Options{UID: &uid, Propagation: &policy})
	return 0, ignoreNotFound(err)
}

// policyBelow is how an object goes that blocks its owner: in the foreground if
// it has dependents itself; empty if one of those is already waiting.
func (g *collector) policyBelow(c *control.Cluster, o api.Object) metav1.DeletionPropagation {
	policy := metav1.DeletePropagationBackground
	g.dependents(c, o.GetUID(), func(_ *api.Resource, d api.Object) {
		if policy == "" {
			return
		}
		if policy = metav1.DeletePropagationForeground; holding(d) {
			policy = ""
		}
	})
	return policy
}

func disown(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object, drop func(types.UID) bool) error {
	next := api.Clone(o)
	next.SetOwnerReferences(slices.DeleteFunc(next.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return drop(r.UID) }))
	_, err := api.Untyped(kind).Update(ctx, c, next)
	return ignoreNotFound(err)
}

// unblock keeps an object from holding up its owners.
func unblock(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) error {
	next := api.Clone(o)
	refs := next.GetOwnerReferences()
	for i := range refs {
		no := false
		refs[i].BlockOwnerDeletion = &no
	}
	next.SetOwnerReferences(refs)
	_, err := api.Untyped(kind).Update(ctx, c, next)
	return ignoreNotFound(err)
}

func unfinalize(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object, finalizer string) error {
	next := api.Clone(o)
	next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizer }))
	_, err := api.Untyped(kind).Update(ctx, c, next)
	return ignoreNotFound(err)
}
