// Package rbac declares the kinds of rbac.authorization.k8s.io/v1.
package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
)

// Role is a set of permissions in one namespace.
var Role = &api.Kind[*rbacv1.Role]{
	API: "rbac.authorization.k8s.io/v1", Resource: "roles", Scope: api.Namespaced,
	Whole: true,
	Columns: []api.Column[*rbacv1.Role]{
		column.Name(column.Plain[*rbacv1.Role]), column.CreatedAt[*rbacv1.Role](),
	},
	Name:           segmentName,
	Validate:       func(r, _ *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
	CreateOnUpdate: true,
}

// ClusterRole is a set of permissions that can be given everywhere.
var ClusterRole = &api.Kind[*rbacv1.ClusterRole]{
	API: "rbac.authorization.k8s.io/v1", Resource: "clusterroles", Scope: api.Cluster,
	Whole: true,
	Columns: []api.Column[*rbacv1.ClusterRole]{
		column.Name(column.Plain[*rbacv1.ClusterRole]), column.CreatedAt[*rbacv1.ClusterRole](),
	},
	Name:           segmentName,
	Validate:       validateClusterRole,
	CreateOnUpdate: true,
}
