package apiserver_test

import (
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/kinds/coordination"
	"proa/internal/kinds/core"
	"proa/internal/kinds/rbac"
	"proa/internal/store/memory"
)

// judging starts a server with the default roles, where boss is admin of the
// namespace default, and returns it as it is and as others see it.
func judging(t *testing.T) (inside api.Handler, as func(name string, group ...string) api.Handler) {
	r := access.NewRBAC()
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Admit = r.Steps() })
	for _, o := range access.Defaults() {
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			must[*rbacv1.ClusterRole](t)(rbac.ClusterRole.Create(t.Context(), s, o))
		case *rbacv1.ClusterRoleBinding:
			must[*rbacv1.ClusterRoleBinding](t)(rbac.ClusterRoleBinding.Create(t.Context(), s, o))
		}
	}
	must[*rbacv1.RoleBinding](t)(rbac.RoleBinding.Create(t.Context(), s, binding("boss", "ClusterRole", "admin")))
	r.Follow(t.Context(), s, func(err error) { t.Error(err) })
	<-r.Ready()
	h := access.Authorize(s, r)
	return s, func(name string, group ...string) api.Handler {
		return api.As(api.User{Name: name, Groups: append(group, api.GroupAuthenticated)}, h)
	}
}

func binding(who, kind, role string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: who + "-" + role},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: who}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}}
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Rules: rules}
}

var (
	readsPods  = rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	readsNodes = rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}
)

func TestNobodyGrantsMoreThanHeHolds(t *testing.T) {
	_, as := judging(t)
	ctx, boss, root := t.Context(), as("boss"), as("root", api.GroupMasters)
	refused := func(what string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "not currently held") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := rbac.RoleBinding.Create(ctx, boss, binding("friend", "ClusterRole", "cluster-admin"))
	refused("an admin of a namespace bound cluster-admin", err)
	_, err = rbac.Role.Create(ctx, boss, role("nodes", readsNodes))
	refused("a role with a right that its writer lacks", err)

	// What he holds he may give.
	mine := must[*rbacv1.Role](t)(rbac.Role.Create(ctx, boss, role("pods", readsPods)))
	must[*rbacv1.RoleBinding](t)(rbac.RoleBinding.Create(ctx, boss, binding("friend", "ClusterRole", "edit")))
	must[*rbacv1.RoleBinding](t)(rbac.RoleBinding.Create(ctx, boss, binding("friend", "Role", "pods")))
	if _, err := rbac.RoleBinding.Create(ctx, boss, binding("friend", "Role", "none")); !apierrors.IsNotFound(err) {
		t.Errorf("bound a role that is not there: %v", err)
	}

	more := mine.DeepCopy()
	more.Rules = append(more.Rules, readsNodes)
	_, err = rbac.Role.Update(ctx, boss, more)
	refused("an update that adds a right", err)

	// Others' roles: he may label them, not bind them, unless told that he may.
	theirs := must[*rbacv1.Role](t)(rbac.Role.Create(ctx, root, role("nodes", readsNodes))).DeepCopy()
	theirs.Labels = map[string]string{"seen": "yes"}
	must[*rbacv1.Role](t)(rbac.Role.Update(ctx, boss, theirs))
	_, err = rbac.RoleBinding.Create(ctx, boss, binding("friend", "Role", "nodes"))
	refused("bound a role above his own", err)
	must[*rbacv1.Role](t)(rbac.Role.Create(ctx, root, role("binder",
		rbacv1.PolicyRule{Verbs: []string{"bind"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles"}, ResourceNames: []string{"nodes"}})))
	must[*rbacv1.RoleBinding](t)(rbac.RoleBinding.Create(ctx, root, binding("boss", "Role", "binder")))
	awaitAllowed(t, func() error {
		_, err := rbac.RoleBinding.Create(ctx, boss, binding("friend", "Role", "nodes"))
		return err
	})
}

// awaitAllowed tries until the roles that were just written are known.
func awaitAllowed(t *testing.T, try func() error) {
	t.Helper()
	for {
		err := try()
		if err == nil {
			return
		}
		if !apierrors.IsForbidden(err) || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestCreateByAnotherVerb asks for the right to create of those who apply or put
// what is not there.
func TestCreateByAnotherVerb(t *testing.T) {
	inside, as := judging(t)
	ctx, root, changer := t.Context(), as("root", api.GroupMasters), as("changer")
	must[*rbacv1.Role](t)(rbac.Role.Create(ctx, root, role("changer", rbacv1.PolicyRule{Verbs: []string{"get", "patch", "update"},
		APIGroups: []string{"", "coordination.k8s.io"}, Resources: []string{"configmaps", "leases"}})))
	must[*rbacv1.RoleBinding](t)(rbac.RoleBinding.Create(ctx, root, binding("changer", "Role", "changer")))
	apply := func(h api.Handler, name string) error {
		_, err := h.Handle(ctx, &api.Request{Verb: api.Patch, Patch: types.ApplyYAMLPatchType, Resource: core.ConfigMap.Def(), Namespace: "default", Name: name,
			Body:    []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"},"data":{"k":"v"}}`),
			Options: api.Options{FieldManager: "test"}})
		return err
	}
	must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, inside, configMap("default", "there")))
	if err := apply(inside, "trusted"); err != nil {
		t.Errorf("a part of the process is judged: %v", err)
	}
	awaitAllowed(t, func() error { return apply(changer, "there") })
	if err := apply(changer, "new"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cannot create") {
		t.Errorf("an apply created without the right to: %v", err)
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "new"}}
	if _, err := coordination.Lease.Update(ctx, changer, lease); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cannot create") {
		t.Errorf("an update created without the right to: %v", err)
	}
	must[*coordinationv1.Lease](t)(coordination.Lease.Update(ctx, root, lease))
}
