package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/store/memory"
)

func applyAs(t testing.TB, s *apiserver.Server, manager, body string, force bool) (*api.Response, error) {
	t.Helper()
	return s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: apps.Deployment.Def(), Namespace: "a", Name: "d",
		Patch: types.ApplyYAMLPatchType, Body: []byte(body), Options: api.Options{FieldManager: manager, Force: force}})
}

const intent = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, labels: {one: "1"%s}}
spec:
  replicas: %d
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: c, image: i}]}
`

func TestServerSideApply(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		m := must[*api.Response](t)
		first := m(applyAs(t, s, "alice", fmt.Sprintf(intent, `, two: "2"`, 3), false))
		d := first.Item.Object().(*appsv1.Deployment)
		if first.Code != 201 || *d.Spec.Replicas != 3 || d.Generation != 1 || len(d.ManagedFields) != 1 ||
			d.ManagedFields[0].Manager != "alice" || d.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
			t.Fatalf("%d %+v", first.Code, d)
		}
		again := m(applyAs(t, s, "alice", fmt.Sprintf(intent, `, two: "2"`, 3), false))
		if again.Item.Revision != first.Item.Revision {
			t.Error("applying the same again wrote something")
		}
		// What the applier no longer names goes away.
		less := m(applyAs(t, s, "alice", fmt.Sprintf(intent, "", 3), false)).Item.Object()
		if l := less.GetLabels(); len(l) != 1 || l["one"] != "1" {
			t.Errorf("labels %v", l)
		}
		// Somebody else's value is a conflict, until it is forced.
		_, err := applyAs(t, s, "bob", fmt.Sprintf(intent, "", 5), false)
		wantError(t, err, 409, metav1.StatusReasonConflict, `conflict with "alice": .spec.replicas`)
		forced := m(applyAs(t, s, "bob", fmt.Sprintf(intent, "", 5), true)).Item.Object().(*appsv1.Deployment)
		if *forced.Spec.Replicas != 5 || forced.Generation != 2 {
			t.Errorf("%+v", forced)
		}
		// A plain write takes over what it changes.
		m(s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: apps.Deployment.Def(), Namespace: "a", Name: "d", Sub: "scale",
			Patch: types.MergePatchType, Body: []byte(`{"spec":{"replicas":7}}`), Options: api.Options{FieldManager: "scaler"}}))
		_, err = applyAs(t, s, "bob", fmt.Sprintf(intent, "", 5), false)
		wantError(t, err, 409, metav1.StatusReasonConflict, `conflict with "scaler"`)
	})
}

func TestApplyRefusals(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	_, err := applyAs(t, s, "", "{}", false)
	wantError(t, err, 422, metav1.StatusReasonInvalid, `PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch`)
	for _, c := range []struct{ manager, body, text string }{
		{"m", "{", "error decoding YAML"},
		{"m", "[]", "an object is needed"},
		{"m", "{apiVersion: v1, kind: Deployment}", "Incorrect version specified in apply patch"},
		{"m", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: other}}", "does not match the name on the URL"},
		{"m", "{apiVersion: apps/v1, kind: Deployment, spec: {foo: 1}}", ".spec.foo: field not declared in schema"},
		{"m", "{apiVersion: apps/v1, kind: Deployment, metadata: {managedFields: []}}", "metadata.managedFields must be nil"},
	} {
		_, err := applyAs(t, s, c.manager, c.body, false)
		wantError(t, err, 400, metav1.StatusReasonBadRequest, c.text)
	}
}

// What is written twice is refused, warned of or ignored, as the caller wants.
func TestApplyWithDuplicates(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	apply := func(validation string) (*api.Response, error) {
		return s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: core.ConfigMap.Def(), Namespace: "a", Name: "c", Patch: types.ApplyYAMLPatchType,
			Body: []byte("{apiVersion: v1, kind: ConfigMap, data: {k: v, k: w}}"), Options: api.Options{FieldManager: "m", FieldValidation: validation}})
	}
	_, err := apply("Strict")
	wantError(t, err, 400, metav1.StatusReasonBadRequest, "error strict decoding YAML")
	if resp, err := apply("Warn"); err != nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], `key "k" already set in map`) {
		t.Errorf("%+v, %v", resp, err)
	}
	if resp, err := apply("Ignore"); err != nil || len(resp.Warnings) != 0 {
		t.Errorf("%+v, %v", resp, err)
	}
}

// The replicas are owned in the scale as in its parent.
func TestApplyScale(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	must[*api.Response](t)(applyAs(t, s, "alice", fmt.Sprintf(intent, "", 3), false))
	scale := func(manager string, replicas int, force bool) (*api.Response, error) {
		return s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: apps.Deployment.Def(), Namespace: "a", Name: "d", Sub: "scale", Patch: types.ApplyYAMLPatchType,
			Body:    fmt.Appendf(nil, "{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: d, namespace: a}, spec: {replicas: %d}}", replicas),
			Options: api.Options{FieldManager: manager, Force: force}})
	}
	_, err := scale("bob", 5, false)
	wantError(t, err, 409, metav1.StatusReasonConflict, `Apply failed with 1 conflict: conflict with "alice": .spec.replicas`)
	resp := must[*api.Response](t)(scale("bob", 5, true))
	wantEntries(t, resp.Object, `bob Apply autoscaling/v1 scale FieldsV1 {"f:spec":{"f:replicas":{}}}`)
	d := seen(t, s, apps.Deployment, "a", "d")
	if got := entries(d); *d.Spec.Replicas != 5 || !strings.Contains(got, `bob Apply apps/v1 scale FieldsV1 {"f:spec":{"f:replicas":{}}}`) ||
		strings.Count(got, "f:replicas") != 1 {
		t.Errorf("%s", got)
	}
	before := d.ResourceVersion
	must[*api.Response](t)(scale("bob", 5, false))
	if now := seen(t, s, apps.Deployment, "a", "d"); now.ResourceVersion != before {
		t.Errorf("applying the same again wrote something: %s", entries(now))
	}
	// A scale that is put takes the replicas over.
	must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Update, Resource: apps.Deployment.Def(), Namespace: "a", Name: "d", Sub: "scale",
		ContentType: api.MediaJSON, Body: []byte(`{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"d","namespace":"a"},"spec":{"replicas":6}}`),
		Options: api.Options{FieldManager: "carol"}}))
	got := must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Get, Resource: apps.Deployment.Def(), Namespace: "a", Name: "d", Sub: "scale"}))
	wantEntries(t, got.Object, `carol Update autoscaling/v1 scale FieldsV1 {"f:spec":{"f:replicas":{}}}`)
}

// kubectl takes over what it applied before on the client's side.
func TestMigrationFromClientSideApply(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	last := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"a"},"data":{"k":"v"}}`
	cm := configMap("a", "c", "k", "v")
	cm.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": last}
	must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), as("kubectl-client-side-apply", s), cm))
	apply := func(manager, value string) error {
		_, err := s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: core.ConfigMap.Def(), Namespace: "a", Name: "c", Patch: types.ApplyYAMLPatchType,
			Body: fmt.Appendf(nil, "{apiVersion: v1, kind: ConfigMap, data: {k: %s}}", value), Options: api.Options{FieldManager: manager}})
		return err
	}
	wantError(t, apply("other", "w"), 409, metav1.StatusReasonConflict, `conflict with "kubectl-client-side-apply" using v1: .data.k`)
	if err := apply("kubectl", "w"); err != nil {
		t.Error(err)
	}
}
