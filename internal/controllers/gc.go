package controllers

import (
	"context"
	"errors"
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
func GarbageCollector(kinds control.Kinds) *control.Sweep {
	g := &collector{catalog{kinds: kinds, keep: func(r *api.Resource) bool {
		return !r.Virtual && r.Can(api.List) && r.Can(api.Watch) && r.Can(api.Delete) && r != core.Event.Def()
	}}}
	return &control.Sweep{Name: "garbage-collector", Kinds: g.kinds.all, Slim: true, Bare: true, Changed: g.changed, Reconcile: g.reconcile}
}

type collector struct{ kinds catalog }

// kindOf returns the resource that an owner reference speaks of, or nil if there
// is none now. All versions of a group are one.
func (g *collector) kindOf(ref *metav1.OwnerReference) *api.Resource {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil
	}
	return g.kinds.ofKind(gv.Group, ref.Kind)
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
		for _, d := range c.Dependents(old.GetUID()) {
			keys = append(keys, keyIn(d.Kind, d.Object))
		}
	}
	return keys
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

// orphan takes the object out of its dependents' owners, and lets it go.
func (g *collector) orphan(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) error {
	all, err := g.owned(ctx, c, kind, o)
	if err != nil {
		return err
	}
	err = c.Each(len(all), func(i int) error {
		return disown(ctx, c, all[i].Kind, all[i].Object, func(uid types.UID) bool { return uid == o.GetUID() })
	})
	if err != nil {
		return err
	}
	return unfinalize(ctx, c, kind, o, metav1.FinalizerOrphanDependents)
}

// owned asks the server itself for the dependents: one that the watches have
// not told of yet would be collected as soon as its owner is gone.
func (g *collector) owned(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) (all []control.Dependent, err error) {
	ns := o.GetNamespace()
	kinds, _ := g.kinds.all()
	for _, k := range kinds {
		if kind.Scope == api.Namespaced && k.Scope == api.Cluster {
			continue
		}
		list, err := api.Untyped(k).List(ctx, c, ns, api.Selectors{})
		if apierrors.IsNotFound(err) && g.kinds.named(k.Group, k.Resource) == nil {
			continue // the kind has gone meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("look for dependents: %w", err)
		}
		for _, d := range list {
			if slices.ContainsFunc(d.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() }) {
				all = append(all, control.Dependent{Kind: k, Object: d})
			}
		}
	}
	return all, nil
}

// foreground removes the dependents that block the object, and then lets it go.
func (g *collector) foreground(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) error {
	blocked := false
	for _, d := range c.Dependents(o.GetUID()) {
		if !blocks(d.Object, o.GetUID()) {
			continue
		}
		blocked = true
		if d.Object.GetDeletionTimestamp() != nil {
			continue
		}
		if _, err := g.collect(ctx, c, d.Kind, d.Object); err != nil {
			return err
		}
	}
	if blocked {
		return nil
	}
	all, err := g.owned(ctx, c, kind, o)
	if err != nil || slices.ContainsFunc(all, func(d control.Dependent) bool { return blocks(d.Object, o.GetUID()) }) {
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
			case apierrors.IsNotFound(err) && g.kindOf(ref) == nil: // the kind went this moment
				return time.Minute, nil
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
	below := c.Dependents(o.GetUID())
	switch {
	case slices.ContainsFunc(below, func(d control.Dependent) bool { return holding(d.Object) }):
		return ""
	case len(below) > 0:
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// rewrite changes an object of which perhaps only the metadata is known. It
// fails with a conflict if that is not its last state.
func rewrite(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object, change func(api.Object)) error {
	k := api.Untyped(kind)
	if bare(o) {
		whole, err := k.Get(ctx, c, o.GetNamespace(), o.GetName())
		if err != nil {
			return ignoreNotFound(err)
		}
		if whole.GetUID() != o.GetUID() {
			return nil // another of that name
		}
		if o.GetResourceVersion() != whole.GetResourceVersion() {
			return apierrors.NewConflict(kind.GroupResource(), o.GetName(), errors.New("the object has changed since it was looked at"))
		}
		o = whole
	}
	next := api.Clone(o)
	change(next)
	_, err := k.Update(ctx, c, next)
	return ignoreNotFound(err)
}

func disown(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object, drop func(types.UID) bool) error {
	return rewrite(ctx, c, kind, o, func(next api.Object) {
		next.SetOwnerReferences(slices.DeleteFunc(next.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return drop(r.UID) }))
	})
}

// unblock keeps an object from holding up its owners.
func unblock(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object) error {
	return rewrite(ctx, c, kind, o, func(next api.Object) {
		refs := next.GetOwnerReferences()
		for i := range refs {
			no := false
			refs[i].BlockOwnerDeletion = &no
		}
		next.SetOwnerReferences(refs)
	})
}

func unfinalize(ctx context.Context, c *control.Cluster, kind *api.Resource, o api.Object, finalizer string) error {
	return rewrite(ctx, c, kind, o, func(next api.Object) {
		next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizer }))
	})
}
