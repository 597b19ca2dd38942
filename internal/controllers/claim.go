package controllers

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/control"
)

// claim returns the children that owner controls and its selector matches. On
// the way it adopts matching children that nothing controls, and releases those
// it controls that no longer match. An owner that is being deleted claims
// nothing new and lets nothing go. A child must pass also, too, if that is given.
func claim[P, C api.Object](ctx context.Context, c *control.Cluster, parent *api.Kind[P], child *api.Kind[C], owner P, sel labels.Selector, also ...func(C) bool) ([]C, error) {
	return claimMarking(ctx, c, parent, child, owner, sel, nil, also...)
}

// claimMarking is [claim] with something to be done to each child that is adopted.
func claimMarking[P, C api.Object](ctx context.Context, c *control.Cluster, parent *api.Kind[P], child *api.Kind[C], owner P, sel labels.Selector, mark func(C), also ...func(C) bool) ([]C, error) {
	deleting := owner.GetDeletionTimestamp() != nil
	matches := func(o C) bool {
		return sel.Matches(labels.Set(o.GetLabels())) && !slices.ContainsFunc(also, func(f func(C) bool) bool { return !f(o) })
	}
	var mine []C
	for _, o := range control.Owned(c, child, owner.GetUID()) {
		if matches(o) {
			mine = append(mine, o)
		} else if !deleting {
			if err := release(ctx, c, child, o, owner); err != nil {
				return nil, err
			}
		}
	}
	if deleting {
		return mine, nil
	}
	alive := false
	for _, o := range control.Loose(c, child, owner.GetNamespace()) {
		if o.GetDeletionTimestamp() != nil || !matches(o) {
			continue
		}
		if !alive { // its deletion may not have come through yet
			now, err := parent.Get(ctx, c, owner.GetNamespace(), owner.GetName())
			if apierrors.IsNotFound(err) {
				return mine, nil
			}
			if err != nil {
				return nil, err
			}
			if now.GetUID() != owner.GetUID() || now.GetDeletionTimestamp() != nil {
				return mine, nil
			}
			alive = true
		}
		next := api.Clone(o)
		next.SetOwnerReferences(append(next.GetOwnerReferences(), control.OwnerRef(parent, owner)))
		if mark != nil {
			mark(next)
		}
		got, err := child.Update(ctx, c, next)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		mine = append(mine, got)
	}
	return mine, nil
}

func release[C api.Object](ctx context.Context, c *control.Cluster, child *api.Kind[C], o C, owner api.Object) error {
	next := api.Clone(o)
	next.SetOwnerReferences(slices.DeleteFunc(next.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == owner.GetUID() }))
	_, err := child.Update(ctx, c, next)
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// ignoreTerminating leaves out that nothing can be made any more where the
// namespace is being emptied.
func ignoreTerminating(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// matching returns the keys of those objects in the namespace whose selector
// matches a child that nothing controls: they may want to adopt it.
func matching[P, C api.Object](parent *api.Kind[P], child *api.Kind[C], selector func(P) *metav1.LabelSelector) control.Watch {
	return control.On(child, func(c *control.Cluster, o C) (keys []control.Key) {
		if len(o.GetLabels()) == 0 || metav1.GetControllerOfNoCopy(o) != nil {
			return nil
		}
		for _, p := range control.All(c, parent, o.GetNamespace()) {
			s, err := metav1.LabelSelectorAsSelector(selector(p))
			if err == nil && !s.Empty() && s.Matches(labels.Set(o.GetLabels())) {
				keys = append(keys, control.KeyOf(p))
			}
		}
		return keys
	})
}
