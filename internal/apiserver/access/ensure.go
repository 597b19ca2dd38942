package access

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
	"proa/internal/kinds/rbac"
)

// Ensure creates the default roles and bindings that are missing. To those that
// exist it adds the rules and subjects they lack, as every start of a Kubernetes
// API server does, unless their annotation rbac.authorization.kubernetes.io/autoupdate
// says otherwise; nothing is taken away.
func Ensure(ctx context.Context, h api.Handler) error {
	for _, o := range Defaults() {
		var err error
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			err = ensure(ctx, h, rbac.ClusterRole, o, func(have *rbacv1.ClusterRole) bool {
				return union(&have.Rules, o.Rules)
			})
		case *rbacv1.ClusterRoleBinding:
			err = ensure(ctx, h, rbac.ClusterRoleBinding, o, func(have *rbacv1.ClusterRoleBinding) bool {
				return union(&have.Subjects, o.Subjects)
			})
		}
		if err != nil {
			return fmt.Errorf("ensure the default role or binding %s: %w", o.GetName(), err)
		}
	}
	return nil
}

func ensure[T api.Object](ctx context.Context, h api.Handler, k *api.Kind[T], o T, mend func(T) bool) error {
	have, err := k.Get(ctx, h, "", o.GetName())
	if apierrors.IsNotFound(err) {
		_, err = k.Create(ctx, h, o)
		return err
	}
	if err != nil || have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] != "true" {
		return err
	}
	next := api.Clone(have)
	if !mend(next) {
		return nil
	}
	_, err = k.Update(ctx, h, next)
	return err
}

// union adds to list what it lacks of more, and says whether there was any.
func union[E any](list *[]E, more []E) (changed bool) {
next:
	for _, m := range more {
		for _, x := range *list {
			if equality.Semantic.DeepEqual(x, m) {
				continue next
			}
		}
		*list, changed = append(*list, m), true
	}
	return changed
}
