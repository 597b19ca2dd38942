package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/store/memory"
)

// seen is an object as clients see it: the same in JSON and in protobuf.
func seen[T api.Object](t testing.TB, s api.Handler, k *api.Kind[T], ns, name string) T {
	t.Helper()
	resp := must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Get, Resource: k.Def(), Namespace: ns, Name: name}))
	return public[T](t, k, resp.Item)
}

func public[T api.Object](t testing.TB, k *api.Kind[T], item *api.Item) T {
	t.Helper()
	form := must[[]byte](t)(item.JSON())
	o := k.Def().New().(T)
	if err := json.Unmarshal(form, o); err != nil {
		t.Fatal(err)
	}
	raw := must[[]byte](t)(item.RawProtobuf(nil))
	if n := must[int](t)(item.RawSize()); n != len(raw) {
		t.Errorf("RawSize is %d, of %d bytes", n, len(raw))
	}
	p := k.Def().New()
	if err := p.(interface{ Unmarshal([]byte) error }).Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	if a, b := entries(o), entries(p); a != b {
		t.Errorf("JSON shows\n%sprotobuf shows\n%s", a, b)
	}
	return o
}

// entries are the managedFields of an object, one a line.
func entries(o runtime.Object) string {
	var b strings.Builder
	for _, e := range o.(metav1.Object).GetManagedFields() {
		fmt.Fprintf(&b, "%s %s %s %s %s %s\n", e.Manager, e.Operation, e.APIVersion, e.Subresource, e.FieldsType, e.FieldsV1.GetRawString())
	}
	return b.String()
}

func wantEntries(t testing.TB, o metav1.Object, want ...string) {
	t.Helper()
	if got := entries(o.(runtime.Object)); got != strings.Join(want, "\n")+"\n" && (len(want) > 0 || got != "") {
		t.Errorf("got\n%swant\n%s", got, strings.Join(want, "\n"))
	}
}

// as asks in the name of a field manager.
func as(name string, h api.Handler) api.Handler {
	return api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		q := *r
		q.Options.FieldManager = name
		return h.Handle(ctx, &q)
	})
}

func TestWhoOwnsWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, memory.New(nil), nil)
		ctx, alice, bob := t.Context(), as("alice", s), as("bob", s)
		cm := configMap("a", "x")
		cm.Data = map[string]string{"one": "1", "two": "2"}
		must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, alice, cm))
		first := seen(t, s, core.ConfigMap, "a", "x")
		wantEntries(t, first, `alice Update v1  FieldsV1 {"f:data":{".":{},"f:one":{},"f:two":{}}}`)

		// Nothing changes: not even the time.
		time.Sleep(time.Minute)
		again := must[*corev1.ConfigMap](t)(core.ConfigMap.Update(ctx, bob, first.DeepCopy()))
		if again.ResourceVersion != first.ResourceVersion {
			t.Error("an update without a change wrote something")
		}
		wantEntries(t, seen(t, s, core.ConfigMap, "a", "x"), `alice Update v1  FieldsV1 {"f:data":{".":{},"f:one":{},"f:two":{}}}`)

		// Who changes a value owns it; what goes away is nobody's.
		next := first.DeepCopy()
		next.Data = map[string]string{"one": "bob's", "three": "3"}
		must[*corev1.ConfigMap](t)(core.ConfigMap.Update(ctx, bob, next))
		now := seen(t, s, core.ConfigMap, "a", "x")
		wantEntries(t, now, `alice Update v1  FieldsV1 {"f:data":{}}`, `bob Update v1  FieldsV1 {"f:data":{"f:one":{},"f:three":{}}}`)
		if d := now.ManagedFields[1].Time.Sub(now.ManagedFields[0].Time.Time); d != time.Minute {
			t.Errorf("the entries' times are %v apart", d)
		}
		// A patch that does not speak of it, one that does, and the way to forget it all.
		must[*corev1.ConfigMap](t)(core.ConfigMap.Patch(ctx, as("carol", s), "a", "x", "", types.MergePatchType, []byte(`{"data":{"one":null}}`)))
		wantEntries(t, seen(t, s, core.ConfigMap, "a", "x"), `alice Update v1  FieldsV1 {"f:data":{}}`, `bob Update v1  FieldsV1 {"f:data":{"f:three":{}}}`)
		must[*corev1.ConfigMap](t)(core.ConfigMap.Patch(ctx, bob, "a", "x", "", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/managedFields/0"}]`)))
		wantEntries(t, seen(t, s, core.ConfigMap, "a", "x"), `bob Update v1  FieldsV1 {"f:data":{"f:three":{}}}`)
		must[*corev1.ConfigMap](t)(core.ConfigMap.Patch(ctx, bob, "a", "x", "", types.MergePatchType, []byte(`{"metadata":{"managedFields":[{}]}}`)))
		wantEntries(t, seen(t, s, core.ConfigMap, "a", "x"))
		must[*corev1.ConfigMap](t)(core.ConfigMap.Patch(ctx, bob, "a", "x", "", types.MergePatchType, []byte(`{"data":{"four":"4"}}`)))
		wantEntries(t, seen(t, s, core.ConfigMap, "a", "x"))
	})
}

// What the server fills in, and what is done without a writer of the object, is nobody's.
func TestNobodyOwnsWhatTheServerDoes(t *testing.T) {
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Admit = admit.All(admit.Settings{}) })
	ctx := t.Context()
	if err := s.EnsureDefaults(ctx, cluster); err != nil {
		t.Fatal(err)
	}
	account(t, s, "default")
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
	made := must[*corev1.Service](t)(core.Service.Create(ctx, as("me", s), svc))
	if made.Spec.ClusterIP == "" || made.Spec.Ports[0].NodePort == 0 {
		t.Fatalf("%+v", made.Spec)
	}
	got := entries(seen(t, s, core.Service, "default", "s"))
	for _, no := range []string{"f:clusterIP", "f:nodePort"} {
		if strings.Contains(got, no) {
			t.Errorf("%s is owned: %s", no, got)
		}
	}
	for _, yes := range []string{`"f:type":{}`, `k:{\"port\":80,\"protocol\":\"TCP\"}`, `"f:sessionAffinity":{}`} {
		if !strings.Contains(got, yes) {
			t.Errorf("%s is not owned: %s", yes, got)
		}
	}
	must[*corev1.Pod](t)(core.Pod.Create(ctx, as("me", s), pod("default", "p", "")))
	before := entries(seen(t, s, core.Pod, "default", "p"))
	must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: "default", Name: "p", Sub: "binding",
		Object: &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}}))
	bound := seen(t, s, core.Pod, "default", "p")
	if bound.Spec.NodeName != "n1" || entries(bound) != before || strings.Contains(before, "f:status") {
		t.Errorf("before the binding\n%safter it\n%s", before, entries(bound))
	}
	for _, no := range []string{"f:volumes", "f:volumeMounts", "f:serviceAccount", "f:tolerations", "f:priority"} {
		if strings.Contains(before, no) {
			t.Errorf("%s, which admission filled in, is owned: %s", no, before)
		}
	}
	if !strings.Contains(before, `"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},`) {
		t.Errorf("%s", before)
	}
	// The status is its writer's; and a deletion changes nothing.
	b := must[*corev1.Pod](t)(core.Pod.Get(ctx, s, "default", "p")).DeepCopy()
	b.Status.Message = "here"
	must[*corev1.Pod](t)(core.Pod.UpdateStatus(ctx, as("kubelet", s), b))
	status := "kubelet Update v1 status FieldsV1 {\"f:status\":{\"f:message\":{}}}\n"
	if got := entries(seen(t, s, core.Pod, "default", "p")); !strings.Contains(got, status) || !strings.Contains(got, before) {
		t.Errorf("%s", got)
	}
	if err := core.Pod.Delete(ctx, s, "default", "p", api.Options{}); err != nil {
		t.Fatal(err)
	}
	if got := entries(seen(t, s, core.Pod, "default", "p")); !strings.Contains(got, status) || !strings.Contains(got, before) {
		t.Errorf("after the deletion: %s", got)
	}
}

// More than ten writers are not told apart: the oldest become one.
func TestAncientChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, memory.New(nil), nil)
		must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), as("maker", s), configMap("a", "x")))
		for i := range 12 {
			time.Sleep(time.Second)
			must[*corev1.ConfigMap](t)(core.ConfigMap.Patch(t.Context(), as(fmt.Sprint("writer-", i), s), "a", "x", "", types.MergePatchType,
				fmt.Appendf(nil, `{"data":{"k%d":"v"}}`, i)))
		}
		list := seen(t, s, core.ConfigMap, "a", "x").ManagedFields
		if len(list) != 10 || list[0].Manager != "ancient-changes" || list[9].Manager != "writer-11" ||
			!strings.Contains(list[0].FieldsV1.GetRawString(), `"f:k0":{},"f:k1":{},"f:k2":{}`) {
			t.Errorf("%d: %s", len(list), entries(seen(t, s, core.ConfigMap, "a", "x")))
		}
	})
}

// The one who made an object and did not apply it is in the way of one who applies.
func TestApplyAfterCreate(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Create, Resource: apps.Deployment.Def(), Namespace: "a", ContentType: api.MediaYAML,
		Body: fmt.Appendf(nil, intent, "", 3), Options: api.Options{FieldManager: "maker"}}))
	_, err := applyAs(t, s, "alice", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 4}}`, false)
	wantError(t, err, 409, metav1.StatusReasonConflict, `Apply failed with 1 conflict: conflict with "maker" using apps/v1: .spec.replicas`)
	must[*api.Response](t)(applyAs(t, s, "alice", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 4}}`, true))
	got := seen(t, s, apps.Deployment, "a", "d")
	if *got.Spec.Replicas != 4 || len(got.ManagedFields) != 2 || strings.Contains(got.ManagedFields[1].FieldsV1.GetRawString(), "replicas") {
		t.Errorf("%s", entries(got))
	}
	must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: apps.Deployment.Def(), Namespace: "a", Name: "d", Sub: "scale",
		Patch: types.MergePatchType, Body: []byte(`{"spec":{"replicas":7}}`), Options: api.Options{FieldManager: "scaler"}}))
	if got := entries(seen(t, s, apps.Deployment, "a", "d")); !strings.Contains(got, `scaler Update apps/v1 scale FieldsV1 {"f:spec":{"f:replicas":{}}}`) {
		t.Errorf("%s", got)
	}
}

func TestManagerNames(t *testing.T) {
	for user, want := range map[string]string{"system:node:n1": "kubelet", "system:kube-scheduler": "kube-scheduler", "": "unknown", "ann/x": "ann"} {
		s := start(t, memory.New(nil), nil)
		must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), api.As(api.User{Name: user}, s), func() *corev1.ConfigMap {
			c := configMap("a", "x")
			c.Data = map[string]string{"k": "v"}
			return c
		}()))
		if got := seen(t, s, core.ConfigMap, "a", "x").ManagedFields; len(got) != 1 || got[0].Manager != want {
			t.Errorf("%q: %+v", user, got)
		}
	}
}
