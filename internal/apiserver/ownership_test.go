package apiserver_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/apps"
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
	for _, c := range []struct{ manager, body, text string }{
		{"", "{}", "fieldManager: Required value"},
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
