package access

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// rbacOf evaluates objects without following a server.
func rbacOf(objs ...api.Object) *RBAC {
	r := &RBAC{roles: map[string][]rbacv1.PolicyRule{}, roleBindings: map[string]*rbacv1.RoleBinding{}, clusterBindings: map[string]*rbacv1.ClusterRoleBinding{}}
	for _, o := range objs {
		switch o := o.(type) {
		case *rbacv1.Role:
			r.roles[key(o)] = o.Rules
		case *rbacv1.ClusterRole:
			r.roles[key(o)] = o.Rules
		case *rbacv1.RoleBinding:
			r.roleBindings[key(o)] = o
		case *rbacv1.ClusterRoleBinding:
			r.clusterBindings[key(o)] = o
		}
	}
	return r
}

func inNamespace(ns, name, kind, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}}
}

// TestDefaultRoles asks what a user of Kubernetes would expect of the roles everyone knows.
func TestDefaultRoles(t *testing.T) {
	sa := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "app", Name: "bot"}
	r := rbacOf(append(Defaults(),
		inNamespace("app", "v", "ClusterRole", "view", user("viewer")),
		inNamespace("app", "e", "ClusterRole", "edit", user("editor")),
		inNamespace("app", "a", "ClusterRole", "admin", user("boss")),
		inNamespace("app", "s", "ClusterRole", "view", sa))...)
	everyone := []string{api.GroupAuthenticated}
	for _, tt := range []struct {
		user string
		ask  string // verb group/resource/sub namespace, or verb /path
		want bool
	}{
		{"viewer", "list pods app", true},
		{"viewer", "get pods/log app", true},
		{"viewer", "list pods other", false},
		{"viewer", "list pods", false},
		{"viewer", "get secrets app", false},
		{"viewer", "create pods app", false},
		{"viewer", "get roles.rbac.authorization.k8s.io app", false},
		{"viewer", "list deployments.apps app", true},
		{"viewer", "list endpointslices.discovery.k8s.io app", true},
		{"editor", "create deployments.apps app", true},
		{"editor", "patch deployments.apps/scale app", true},
		{"editor", "get secrets app", true},
		{"editor", "create pods/exec app", true},
		{"editor", "create roles.rbac.authorization.k8s.io app", false},
		{"editor", "delete namespaces app", false},
		{"editor", "update resourcequotas app", false},
		{"boss", "create rolebindings.rbac.authorization.k8s.io app", true},
		{"boss", "list nodes", false},
		{"system:serviceaccount:app:bot", "list services app", true},
		{"system:serviceaccount:app:other", "list services app", false},
		{"anyone", "get /openapi/v3", true},
		{"anyone", "get /apis/apps/v1", true},
		{"anyone", "create selfsubjectaccessreviews.authorization.k8s.io", true},
		{"anyone", "get /metrics", false},
		{"anyone", "get /", false},
		{api.UserScheduler, "create pods/binding app", true},
		{api.UserScheduler, "create pods app", false},
	} {
		a := attributes(tt.ask)
		a.User = api.User{Name: tt.user, Groups: everyone}
		if got, _ := r.Authorize(t.Context(), a); got != tt.want {
			t.Errorf("%s: %s = %v, want %v", tt.user, tt.ask, got, tt.want)
		}
	}
	if ok, _ := r.Authorize(t.Context(), Attributes{User: Anonymous, Verb: "get", Path: "/livez"}); !ok {
		t.Error("anonymous may not ask /livez")
	}
	if ok, _ := r.Authorize(t.Context(), Attributes{User: Anonymous, Verb: "get", Path: "/api"}); ok {
		t.Error("anonymous may ask /api")
	}
	if ok, _ := r.Authorize(t.Context(), Attributes{User: api.User{Name: "root", Groups: []string{api.GroupMasters}}, Verb: "anything", Resource: "x"}); !ok {
		t.Error("masters may not do everything")
	}
}

// attributes reads "verb resource[.group][/sub] [namespace]" or "verb /path".
func attributes(s string) (a Attributes) {
	f := strings.Fields(s)
	a.Verb = f[0]
	if strings.HasPrefix(f[1], "/") {
		a.Path = f[1]
		return a
	}
	if len(f) > 2 {
		a.Namespace = f[2]
	}
	res, sub, _ := strings.Cut(f[1], "/")
	a.Sub = sub
	a.Resource, a.Group, _ = strings.Cut(res, ".")
	return a
}

func TestResourceNames(t *testing.T) {
	r := rbacOf(
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "one"}, Rules: []rbacv1.PolicyRule{rule("get list", "core", "configmaps", "settings")}},
		inNamespace("a", "one", "Role", "one", user("u")))
	for name, want := range map[string]bool{"settings": true, "other": false, "": false} {
		got, _ := r.Authorize(t.Context(), Attributes{User: api.User{Name: "u"}, Verb: "get", Namespace: "a", Resource: "configmaps", Name: name})
		if got != want {
			t.Errorf("get configmaps %q = %v", name, got)
		}
	}
	q := &api.Request{Verb: api.List, Resource: core.ConfigMap.Def(), Namespace: "a", User: api.User{Name: "u"},
		Select: api.WithField("metadata.name", "settings")}
	if ok, _ := r.Authorize(t.Context(), AttributesOf(q)); !ok {
		t.Error("a list of one name by field selector is not judged by that name")
	}
}

// TestNamespaceItself checks that a role in a namespace reaches the namespace's own object, and no other.
func TestNamespaceItself(t *testing.T) {
	r := rbacOf(append(Defaults(), inNamespace("app", "v", "ClusterRole", "view", user("viewer")))...)
	for _, tt := range []struct {
		req  api.Request
		want bool
	}{
		{api.Request{Verb: api.Get, Name: "app"}, true},
		{api.Request{Verb: api.Get, Name: "other"}, false},
		{api.Request{Verb: api.List}, false},
		{api.Request{Verb: api.Create, Name: "app"}, false},
	} {
		tt.req.Resource, tt.req.User = core.Namespace.Def(), api.User{Name: "viewer"}
		if got, _ := r.Authorize(t.Context(), AttributesOf(&tt.req)); got != tt.want {
			t.Errorf("%s namespace %q = %v", tt.req.Verb, tt.req.Name, got)
		}
	}
}

// TestForbiddenText keeps the words that users search for.
func TestForbiddenText(t *testing.T) {
	h := Authorize(api.HandlerFunc(nil), rbacOf())
	for _, tt := range []struct {
		req  api.Request
		want string
	}{
		{api.Request{Verb: api.List, Resource: core.Pod.Def(), Namespace: "x"},
			`pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "x"`},
		{api.Request{Verb: api.Get, Resource: core.Node.Def(), Name: "n"},
			`nodes "n" is forbidden: User "u" cannot get resource "nodes" in API group "" at the cluster scope`},
		{api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: "x", Name: "p", Sub: "exec"},
			`pods "p" is forbidden: User "u" cannot create resource "pods/exec" in API group "" in the namespace "x"`},
		{api.Request{Verb: "get", Path: "/metrics"}, `forbidden: User "u" cannot get path "/metrics"`},
	} {
		tt.req.User = api.User{Name: "u"}
		_, err := h.Handle(t.Context(), &tt.req)
		if !apierrors.IsForbidden(err) || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

// TestAgainstBruteForce compares the index with a search through every binding.
func TestAgainstBruteForce(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	pick := func(s ...string) string { return s[rnd.IntN(len(s))] }
	for range 60 {
		var objs []api.Object
		for i := range 4 {
			objs = append(objs,
				&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: pick("a", "b"), Name: fmt.Sprint("r", i)},
					Rules: []rbacv1.PolicyRule{rule(pick("get", "list get", "*"), pick("core", "apps", "*"), pick("pods", "pods/log", "*", "*/log"))}},
				clusterRole(fmt.Sprint("c", i), rule(pick("get", "watch", "*"), pick("core", "*"), pick("pods", "nodes", "*"), pick("", "p"))))
		}
		subject := func() rbacv1.Subject {
			if rnd.IntN(2) == 0 {
				return user(pick("u", "v"))
			}
			return group(pick("g", "h"))
		}
		for i := range 5 {
			objs = append(objs, inNamespace(pick("a", "b"), fmt.Sprint("b", i), pick("Role", "ClusterRole"), fmt.Sprint(pick("r", "c"), rnd.IntN(4)), subject()))
		}
		b := bound(fmt.Sprint("c", rnd.IntN(4)), subject())
		objs = append(objs, b)
		r := rbacOf(objs...)
		for range 200 {
			a := Attributes{User: api.User{Name: pick("u", "v", "w"), Groups: []string{pick("g", "h", "i")}},
				Verb: pick("get", "list", "watch"), Namespace: pick("a", "b", ""), Group: pick("", "apps"),
				Resource: pick("pods", "nodes"), Sub: pick("", "log"), Name: pick("", "p", "q")}
			got, _ := r.Authorize(t.Context(), a)
			if want := brute(objs, a); got != want {
				t.Fatalf("seed %d: %+v = %v, want %v", seed, a, got, want)
			}
		}
	}
}

// brute decides as the documentation reads, without an index.
func brute(objs []api.Object, a Attributes) bool {
	rules := func(kind, ns, name string) []rbacv1.PolicyRule {
		var found []rbacv1.PolicyRule
		for _, o := range objs {
			switch o := o.(type) {
			case *rbacv1.Role:
				if kind == "Role" && o.Namespace == ns && o.Name == name {
					found = o.Rules // the last one of a name, as in a store
				}
			case *rbacv1.ClusterRole:
				if kind == "ClusterRole" && o.Name == name {
					found = o.Rules
				}
			}
		}
		return found
	}
	last := map[string]api.Object{}
	for _, o := range objs {
		last[fmt.Sprintf("%T %s", o, key(o))] = o
	}
	for _, o := range last {
		var subjects []rbacv1.Subject
		var rs []rbacv1.PolicyRule
		switch o := o.(type) {
		case *rbacv1.RoleBinding:
			if o.Namespace != a.Namespace {
				continue
			}
			subjects, rs = o.Subjects, rules(o.RoleRef.Kind, o.Namespace, o.RoleRef.Name)
		case *rbacv1.ClusterRoleBinding:
			subjects, rs = o.Subjects, rules("ClusterRole", "", o.RoleRef.Name)
		}
		for _, s := range subjects {
			if !(s.Kind == "User" && s.Name == a.User.Name || s.Kind == "Group" && a.User.In(s.Name)) {
				continue
			}
			for _, r := range rs {
				if literally(r, a) {
					return true
				}
			}
		}
	}
	return false
}

func literally(r rbacv1.PolicyRule, a Attributes) bool {
	in := func(list []string, ok ...string) bool {
		for _, x := range list {
			for _, y := range ok {
				if x == y {
					return true
				}
			}
		}
		return false
	}
	resources := []string{"*", a.Resource}
	if a.Sub != "" {
		resources = []string{"*", a.Resource + "/" + a.Sub, "*/" + a.Sub}
	}
	return in(r.Verbs, "*", a.Verb) && in(r.APIGroups, "*", a.Group) && in(r.Resources, resources...) &&
		(len(r.ResourceNames) == 0 || in(r.ResourceNames, a.Name))
}

func BenchmarkAuthorize(b *testing.B) {
	objs := Defaults()
	for i := range 1000 {
		objs = append(objs, inNamespace(fmt.Sprint("ns", i), "view", "ClusterRole", "view", user(fmt.Sprint("u", i))))
	}
	r := rbacOf(objs...)
	a := attributes("list pods ns500")
	a.User = api.User{Name: "u500", Groups: []string{api.GroupAuthenticated}}
	for b.Loop() {
		if ok, _ := r.Authorize(b.Context(), a); !ok {
			b.Fatal("refused")
		}
	}
}

// TestWebSocketIsNoReading refuses a GET that begins a WebSocket into a pod to
// those who may only read.
func TestWebSocketIsNoReading(t *testing.T) {
	r := rbacOf(
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "look"}, Rules: []rbacv1.PolicyRule{rule("get", "core", "pods pods/log pods/exec pods/attach pods/portforward")}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "enter"}, Rules: []rbacv1.PolicyRule{rule("get create", "core", "pods/exec")}},
		inNamespace("a", "look", "Role", "look", user("looker")), inNamespace("a", "enter", "Role", "enter", user("worker")))
	h := Authorize(api.HandlerFunc(func(context.Context, *api.Request) (*api.Response, error) { return &api.Response{}, nil }), r)
	for _, tt := range []struct {
		user, sub string
		want      bool
	}{{"looker", "log", true}, {"looker", "exec", false}, {"looker", "attach", false}, {"looker", "portforward", false}, {"worker", "exec", true}} {
		_, err := h.Handle(t.Context(), &api.Request{Verb: api.Get, Resource: core.Pod.Def(), Namespace: "a", Name: "p", Sub: tt.sub, User: api.User{Name: tt.user}})
		if (err == nil) != tt.want || err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("%s: GET pods/%s: %v", tt.user, tt.sub, err)
		}
	}
}
