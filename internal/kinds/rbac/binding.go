package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/fill"
)

// RoleBinding gives the permissions of a role to subjects, in its namespace.
var RoleBinding = &api.Kind[*rbacv1.RoleBinding]{
	API: "rbac.authorization.k8s.io/v1", Resource: "rolebindings", Scope: api.Namespaced,
	Columns: bindingColumns(func(b *rbacv1.RoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects }),
	Default: func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Name:    segmentName,
	Validate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
		errs := validateBinding(b.RoleRef, b.Subjects, []string{"Role", "ClusterRole"}, true)
		if old != nil {
			errs = append(errs, validateSameRole(b.RoleRef, old.RoleRef)...)
		}
		return errs
	},
	CreateOnUpdate: true,
}

// ClusterRoleBinding gives the permissions of a cluster role to subjects, everywhere.
var ClusterRoleBinding = &api.Kind[*rbacv1.ClusterRoleBinding]{
	API: "rbac.authorization.k8s.io/v1", Resource: "clusterrolebindings", Scope: api.Cluster,
	Columns: bindingColumns(func(b *rbacv1.ClusterRoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects }),
	Default: func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Name:    segmentName,
	Validate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
		errs := validateBinding(b.RoleRef, b.Subjects, []string{"ClusterRole"}, false)
		if old != nil {
			errs = append(errs, validateSameRole(b.RoleRef, old.RoleRef)...)
		}
		return errs
	},
	CreateOnUpdate: true,
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	fill.Zero(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if k := subjects[i].Kind; k == rbacv1.UserKind || k == rbacv1.GroupKind {
			fill.Zero(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

func bindingColumns[T api.Object](of func(T) (rbacv1.RoleRef, []rbacv1.Subject)) []api.Column[T] {
	subjects := func(kind string) func(T) string {
		return func(b T) string {
			var out []string
			_, all := of(b)
			for _, s := range all {
				switch {
				case s.Kind != kind:
				case kind == rbacv1.ServiceAccountKind:
					out = append(out, s.Namespace+"/"+s.Name)
				default:
					out = append(out, s.Name)
				}
			}
			return strings.Join(out, ", ")
		}
	}
	return []api.Column[T]{
		api.Col("Role", func(b T) string { ref, _ := of(b); return ref.Kind + "/" + ref.Name }),
		api.Wide("Users", subjects(rbacv1.UserKind)),
		api.Wide("Groups", subjects(rbacv1.GroupKind)),
		api.Wide("ServiceAccounts", subjects(rbacv1.ServiceAccountKind)),
	}
}
