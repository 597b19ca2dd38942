package apiserver_test

import (
	"fmt"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/apiextensions"
)

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: things, kind: Thing%s}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {a: {type: array, items: {type: integer}}}, default: {a: [1]}}}}}}
`

// Definitions are applied by a schema of their own, and deleted only when
// somebody has seen to their objects.
func TestDefinitions(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		m := must[*api.Response](t)
		r := apiextensions.CustomResourceDefinition.Def()
		apply := func(manager, names string) (*api.Response, error) {
			return s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: r, Name: "things.example.com", Patch: types.ApplyYAMLPatchType,
				Body: []byte(fmt.Sprintf(definition, names)), Options: api.Options{FieldManager: manager}})
		}
		d := m(apply("alice", ", shortNames: [th]")).Item.Public().(*apiextensionsv1.CustomResourceDefinition)
		if d.Generation != 1 || len(d.ManagedFields) != 1 || d.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply || d.Status.StoredVersions[0] != "v1" {
			t.Fatalf("%+v", d)
		}
		_, err := apply("bob", ", shortNames: [other]")
		wantError(t, err, 409, metav1.StatusReasonConflict, `conflict with "alice": .spec.names.shortNames`)
		_, err = apply("bob", ", shorts: [other]")
		wantError(t, err, 400, metav1.StatusReasonBadRequest, `.spec.names.shorts: field not declared in schema`)

		next := api.Clone(d)
		next.Spec.Names.Categories = []string{"all"}
		next = m(s.Handle(t.Context(), &api.Request{Verb: api.Update, Resource: r, Name: d.Name, Object: next, Options: api.Options{FieldManager: "carol"}})).Item.Public().(*apiextensionsv1.CustomResourceDefinition)
		if n := len(next.ManagedFields); next.Generation != 2 || n != 2 || next.ManagedFields[1].Manager != "carol" {
			t.Errorf("after an update: generation %d, %d owners", next.Generation, n)
		}
		next.ResourceVersion = ""
		_, err = s.Handle(t.Context(), &api.Request{Verb: api.Update, Resource: r, Name: d.Name, Object: next})
		wantError(t, err, 422, metav1.StatusReasonInvalid, "metadata.resourceVersion: Invalid value")

		gone := m(s.Handle(t.Context(), &api.Request{Verb: api.Delete, Resource: r, Name: d.Name}))
		o := gone.Item.Object().(*apiextensionsv1.CustomResourceDefinition)
		if gone.Deleted || o.DeletionTimestamp == nil || o.Generation != 2 || len(o.Finalizers) != 1 || !apiextensions.True(o, apiextensionsv1.Terminating) {
			t.Errorf("deleted: %+v", o)
		}
	})
}
