package apiserver_test

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/kinds/authorization"
	"proa/internal/kinds/coordination"
	"proa/internal/kinds/core"
	"proa/internal/kinds/rbac"
	"proa/internal/pki"
	"proa/internal/store/memory"
)

// A guarded server has all authorizers, and the default roles.
type guarded struct {
	*apiserver.Server
	by access.Authorizer
}

func guard(t *testing.T, objs ...api.Object) *guarded {
	t.Helper()
	r, nodes := access.NewRBAC(), &access.Nodes{}
	signer := must[*pki.Signer](t)(pki.OpenSigner(t.TempDir(), "sa", "https://issuer"))
	authn := &access.Authenticator{Signer: signer, Audiences: []string{"https://issuer"}, Now: time.Now}
	g := &guarded{by: access.Either(nodes, r)}
	r.All = g.by
	g.Server = start(t, memory.New(nil), func(c *apiserver.Config) {
		c.Admit, c.Subs = r.Steps(), authn.Subs()
		for k, f := range r.Subs() {
			c.Subs[k] = f
		}
	})
	nodes.Handler, authn.Handler = g.Server, g.Server
	for _, o := range append(access.Defaults(), objs...) {
		stored, _ := g.Kinds()
		for _, k := range stored {
			if o.GetObjectKind().GroupVersionKind() == k.GVK() || sameType(k.New(), o) {
				must[api.Object](t)(api.Untyped(k).Create(t.Context(), g.Server, o))
				break
			}
		}
	}
	r.Follow(t.Context(), g.Server, func(err error) { t.Error(err) })
	<-r.Ready()
	return g
}

func (g *guarded) as(name string, groups ...string) api.Handler {
	return api.As(api.User{Name: name, Groups: append(groups, api.GroupAuthenticated)}, access.Authorize(g.Server, g.by))
}

func (g *guarded) node(name string) api.Handler { return g.as("system:node:"+name, api.GroupNodes) }

// wantForbidden checks a 403 and a part of its text.
func wantForbidden(t *testing.T, err error, text string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want 403 with %q", err, text)
	}
}

func secret(ns, name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
}

// TestNodeReadsWhatItsPodsUse gives a node what its pods need, while they are there, and nothing else.
func TestNodeReadsWhatItsPodsUse(t *testing.T) {
	web := pod("a", "web", "n1")
	web.Spec.ServiceAccountName = "bot"
	web.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	web.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}
	web.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "claim"}, Spec: corev1.PersistentVolumeClaimSpec{
		VolumeName: "pv", AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": gi(1)}}}}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}, Capacity: corev1.ResourceList{"storage": gi(1)},
		ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "a", Name: "claim"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d.example.com", VolumeHandle: "h",
			NodePublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "key"}}}}}
	g := guard(t, web, pod("a", "other", "n2"), claim, pv, secret("a", "pull"), secret("a", "private"), secret("storage", "key"),
		configMap("a", "env"), configMap("a", "none"), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "bot"}})
	ctx, n1, n2 := t.Context(), g.node("n1"), g.node("n2")

	must[*corev1.Secret](t)(core.Secret.Get(ctx, n1, "a", "pull"))
	must[*corev1.Secret](t)(core.Secret.Get(ctx, n1, "storage", "key"))
	must[*corev1.ConfigMap](t)(core.ConfigMap.Get(ctx, n1, "a", "env"))
	must[*corev1.PersistentVolumeClaim](t)(core.PersistentVolumeClaim.Get(ctx, n1, "a", "claim"))
	must[*corev1.PersistentVolume](t)(core.PersistentVolume.Get(ctx, n1, "", "pv"))
	must[*corev1.ServiceAccount](t)(core.ServiceAccount.Get(ctx, n1, "a", "bot"))
	if list := must[[]*corev1.Secret](t)(core.Secret.List(ctx, n1, "a", api.WithField("metadata.name", "pull"))); len(list) != 1 {
		t.Errorf("%d secrets", len(list))
	}
	must[[]*corev1.Pod](t)(core.Pod.List(ctx, n1, "", api.WithField("spec.nodeName", "n1")))

	none := func(_ any, err error) { t.Helper(); wantForbidden(t, err, "no relationship found between node") }
	none(core.Secret.Get(ctx, n2, "a", "pull"))
	none(core.Secret.Get(ctx, n1, "a", "private"))
	none(core.Secret.Get(ctx, n1, "storage", "pull"))
	none(core.ConfigMap.Get(ctx, n1, "a", "none"))
	none(core.PersistentVolume.Get(ctx, n2, "", "pv"))
	none(core.Pod.Get(ctx, n2, "a", "web"))
	_, err := core.Secret.List(ctx, n1, "a", api.Selectors{})
	wantForbidden(t, err, `secrets is forbidden: User "system:node:n1" cannot list resource "secrets" in API group "" in the namespace "a": No Object name found`)
	_, err = core.Secret.Create(ctx, n1, secret("a", "new"))
	wantForbidden(t, err, "can only read resources of this type")
	_, err = core.Pod.List(ctx, n1, "", api.Selectors{})
	wantForbidden(t, err, "can only list/watch pods with spec.nodeName field selector")
	_, err = core.PersistentVolumeClaim.List(ctx, n1, "a", api.Selectors{})
	wantForbidden(t, err, "can only get individual resources of this type")

	// When the pod has ended, so has the right.
	p := must[*corev1.Pod](t)(core.Pod.Get(ctx, n1, "a", "web")).DeepCopy()
	p.Status.Phase = corev1.PodSucceeded
	must[*corev1.Pod](t)(core.Pod.UpdateStatus(ctx, n1, p))
	none(core.Secret.Get(ctx, n1, "a", "pull"))
}

func TestNodeWritesItsOwn(t *testing.T) {
	mine := pod("a", "mine", "n1")
	mine.Spec.ServiceAccountName = "bot"
	g := guard(t, mine, pod("a", "theirs", "n2"), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "bot"}})
	ctx, n1 := t.Context(), g.node("n1")
	node := func(name string, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	must[*corev1.Node](t)(core.Node.Create(ctx, n1, node("n1", map[string]string{corev1.LabelHostname: "n1", "mine": "x"})))
	_, err := core.Node.Create(ctx, n1, node("n2", nil))
	wantForbidden(t, err, `node "n1" is not allowed to modify node "n2"`)
	_, err = core.Node.Get(ctx, n1, "", "n2")
	wantForbidden(t, err, "only its own Node object")
	now := must[*corev1.Node](t)(core.Node.Get(ctx, n1, "", "n1")).DeepCopy()
	now.Labels["node-restriction.kubernetes.io/zone"] = "safe"
	_, err = core.Node.Update(ctx, n1, now)
	wantForbidden(t, err, "is not allowed to modify labels: node-restriction.kubernetes.io/zone")
	now = must[*corev1.Node](t)(core.Node.Get(ctx, n1, "", "n1")).DeepCopy()
	now.Spec.Taints = []corev1.Taint{{Key: "k", Effect: "NoSchedule"}}
	_, err = core.Node.Update(ctx, n1, now)
	wantForbidden(t, err, `node "n1" is not allowed to modify taints`)
	wantForbidden(t, core.Node.Delete(ctx, n1, "", "n1", api.Options{}), `cannot delete resource "nodes"`)

	lease := func(ns, name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	}
	must[*coordinationv1.Lease](t)(coordination.Lease.Create(ctx, n1, lease(corev1.NamespaceNodeLease, "n1")))
	_, err = coordination.Lease.Create(ctx, n1, lease(corev1.NamespaceNodeLease, "n2"))
	wantForbidden(t, err, "can only access node lease with the same name as the requesting node")
	_, err = coordination.Lease.Create(ctx, n1, lease("default", "n1"))
	wantForbidden(t, err, `can only access leases in the "kube-node-lease" system namespace`)

	_, err = core.Pod.Create(ctx, n1, pod("a", "new", "n1"))
	wantForbidden(t, err, `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`)
	mirror := pod("a", "static", "n1")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
	must[*corev1.Pod](t)(core.Pod.Create(ctx, n1, mirror))
	wantForbidden(t, core.Pod.Delete(ctx, n1, "a", "theirs", api.Options{}), `node "n1" can only delete pods with spec.nodeName set to itself`)
	theirs := must[*corev1.Pod](t)(core.Pod.Get(ctx, g.Server, "a", "theirs")).DeepCopy()
	theirs.Status.Phase = corev1.PodFailed
	_, err = core.Pod.UpdateStatus(ctx, n1, theirs)
	wantForbidden(t, err, `node "n1" can only update pod status for pods with spec.nodeName set to itself`)

	// Tokens are for its pods.
	token := func(h api.Handler, ref *authenticationv1.BoundObjectReference, audiences ...string) error {
		_, err := h.Handle(ctx, &api.Request{Verb: api.Create, Resource: core.ServiceAccount.Def(), Namespace: "a", Name: "bot", Sub: "token",
			Object: &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref, Audiences: audiences}}})
		return err
	}
	p := must[*corev1.Pod](t)(core.Pod.Get(ctx, n1, "a", "mine"))
	bound := func(name string, uid types.UID) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: uid}
	}
	if err := token(n1, bound("mine", p.UID)); err != nil {
		t.Error(err)
	}
	wantForbidden(t, token(n1, nil), "node requested token not bound to a pod")
	wantForbidden(t, token(n1, bound("theirs", theirs.UID)), "node requested token bound to a pod scheduled on a different node")
	wantForbidden(t, token(n1, bound("mine", p.UID), "vault"), `audience "vault" not found in pod spec volume`)
	wantForbidden(t, token(g.node("n3"), bound("mine", p.UID)), "no relationship found between node 'n3' and this object")
}

func TestImpersonation(t *testing.T) {
	allow := func(resources string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{"", "authentication.k8s.io"}, Resources: strings.Fields(resources), ResourceNames: names}
	}
	g := guard(t,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "acts"}, Rules: []rbacv1.PolicyRule{allow("users groups", "ann", "staff"), allow("userextras/scopes", "read"), allow("uids", "u1"), allow("serviceaccounts")}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "acts"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "acts"},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "boss"}}})
	f := access.Impersonate(g.by)
	boss := api.User{Name: "boss", Groups: []string{api.GroupAuthenticated}}
	header := func(kv ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Add(kv[i], kv[i+1])
		}
		return h
	}
	u, err := f(t.Context(), boss, header("Impersonate-User", "ann", "Impersonate-Group", "staff", "Impersonate-Uid", "u1", "Impersonate-Extra-Scopes", "read"))
	if err != nil || u.Name != "ann" || u.UID != "u1" || strings.Join(u.Groups, " ") != "staff system:authenticated" || u.Extra["scopes"][0] != "read" {
		t.Errorf("%+v, %v", u, err)
	}
	u, err = f(t.Context(), boss, header("Impersonate-User", "system:serviceaccount:a:bot"))
	if err != nil || strings.Join(u.Groups, " ") != "system:serviceaccounts system:serviceaccounts:a system:authenticated" {
		t.Errorf("%+v, %v", u, err)
	}
	for _, c := range []struct {
		headers []string
		text    string
	}{
		{[]string{"Impersonate-User", "root"}, `users "root" is forbidden: User "boss" cannot impersonate resource "users" in API group "" at the cluster scope`},
		{[]string{"Impersonate-User", "ann", "Impersonate-Group", "system:masters"}, `groups "system:masters" is forbidden: User "boss" cannot impersonate resource "groups" in API group "" at the cluster scope`},
		{[]string{"Impersonate-User", "ann", "Impersonate-Uid", "u2"}, `uids.authentication.k8s.io "u2" is forbidden: User "boss" cannot impersonate resource "uids" in API group "authentication.k8s.io" at the cluster scope`},
		{[]string{"Impersonate-User", "ann", "Impersonate-Extra-Scopes", "write"}, `userextras.authentication.k8s.io "write" is forbidden: User "boss" cannot impersonate resource "userextras/scopes"`},
	} {
		_, err := f(t.Context(), boss, header(c.headers...))
		wantForbidden(t, err, c.text)
	}
	if _, err := f(t.Context(), boss, header("Impersonate-Group", "staff")); err == nil || !strings.Contains(err.Error(), "without impersonating a user") {
		t.Error(err)
	}
}

// A review tells what would be decided, by all who decide, and why.
func TestReviews(t *testing.T) {
	g := guard(t,
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "dangling"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "none"},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "ann"}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "see"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "bot"}}})
	ask := func(user string, groups []string, x authorizationv1.ResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
		t.Helper()
		r := must[*authorizationv1.SubjectAccessReview](t)(authorization.SubjectAccessReview.Create(t.Context(), g.Server,
			&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: groups, ResourceAttributes: &x}}))
		return r.Status
	}
	pods := authorizationv1.ResourceAttributes{Namespace: "a", Verb: "list", Resource: "pods"}
	if st := ask("system:serviceaccount:a:bot", nil, pods); !st.Allowed || st.Reason != `RBAC: allowed by RoleBinding "see/a" of ClusterRole "view" to ServiceAccount "bot/a"` {
		t.Errorf("%+v", st)
	}
	if st := ask("ann", nil, pods); st.Allowed || st.Reason != `RBAC: clusterrole.rbac.authorization.k8s.io "none" not found` {
		t.Errorf("%+v", st)
	}
	node := []string{api.GroupNodes}
	if st := ask("system:node:n1", node, pods); st.Allowed || st.Reason != "can only list/watch pods with spec.nodeName field selector" {
		t.Errorf("%+v", st)
	}
	pods.FieldSelector = &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{"n1"}}}}
	if st := ask("system:node:n1", node, pods); !st.Allowed {
		t.Errorf("%+v", st)
	}
	if _, err := rbac.ClusterRole.List(context.Background(), g.as("ann"), "", api.Selectors{}); err == nil ||
		err.Error() != `clusterroles.rbac.authorization.k8s.io is forbidden: User "ann" cannot list resource "clusterroles" in API group "rbac.authorization.k8s.io" at the cluster scope: RBAC: clusterrole.rbac.authorization.k8s.io "none" not found` {
		t.Error(err)
	}
}

func gi(n int64) resource.Quantity { return *resource.NewQuantity(n<<30, resource.BinarySI) }

func sameType(a, b api.Object) bool { return reflect.TypeOf(a) == reflect.TypeOf(b) }
