package crd

import (
	"encoding/json"
	"fmt"
	"strings"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"proa/internal/api"
)

const (
	metaModels = "io.k8s.apimachinery.pkg.apis.meta.v1."
	schemas    = "#/components/schemas/"
)

// models are the version's definitions in OpenAPI, made anew on every call: the
// documents that are made of them are what is kept.
func (v *version) models(old bool) (*api.Models, error) {
	s, err := v.compiled()
	if err != nil {
		return nil, err
	}
	m := &api.Models{Name: modelPrefix(v.res.Group) + v.res.Version + "." + v.res.Kind,
		Needs: []string{metaModels + "ObjectMeta", metaModels + "ListMeta"}}
	m.List = modelPrefix(v.res.Group) + v.res.Version + "." + v.res.ListKind
	m.Definitions, err = v.definitions(m, s, old)
	return m, err
}

// modelPrefix is the group's name from behind, as definitions are named.
func modelPrefix(group string) string {
	out := ""
	for part := range strings.SplitSeq(group, ".") {
		out = part + "." + out
	}
	return out
}

func (v *version) definitions(m *api.Models, s *shape, old bool) (map[string]json.RawMessage, error) {
	object := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	switch {
	case s.structural == nil:
	case old:
		object = older(s.structural).ToKubeOpenAPI()
	default:
		object = s.structural.ToKubeOpenAPI()
	}
	if s.structural == nil || s.preserve {
		object.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	}
	embed(object, false)
	asResource(object)
	if n := len(v.res.Fields); n > 0 && !old {
		var fields []any
		for name := range v.res.Fields {
			fields = append(fields, map[string]any{"fieldPath": name})
		}
		object.AddExtension("x-kubernetes-selectable-fields", fields)
	}
	object.AddExtension("x-kubernetes-group-version-kind", v.kinds(v.res.Kind))

	list := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Required: []string{"items"},
		Description: fmt.Sprintf("%s is a list of %s", v.res.ListKind, v.res.Kind)}}
	items := spec.ArrayProperty(spec.RefSchema(schemas + m.Name))
	items.Description = fmt.Sprintf("List of %s. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", v.res.Resource)
	list.Properties = map[string]spec.Schema{"items": *items}
	asResource(list)
	list.Properties["metadata"] = reference(metaModels+"ListMeta", metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"])
	list.AddExtension("x-kubernetes-group-version-kind", v.kinds(v.res.ListKind))

	out := map[string]json.RawMessage{}
	for name, def := range map[string]*spec.Schema{m.Name: object, m.List: list} {
		b, err := json.Marshal(def)
		if err != nil {
			return nil, fmt.Errorf("write the schema of %s: %w", name, err)
		}
		out[name] = b
	}
	return out, nil
}

func (v *version) kinds(kind string) []any {
	return []any{map[string]any{"group": v.res.Group, "version": v.res.Version, "kind": kind}}
}

// reference is a schema that is another definition, with a description.
func reference(name, doc string) spec.Schema {
	s := spec.Schema{SchemaProps: spec.SchemaProps{Description: doc}}
	s.AllOf = []spec.Schema{*spec.RefSchema(schemas + name)}
	return s
}

// asResource adds what every object has.
func asResource(s *spec.Schema) {
	if s.Properties == nil {
		s.Properties = map[string]spec.Schema{}
	}
	text := func(field string) spec.Schema {
		p := *spec.StringProperty()
		p.Description = typeDocs[field]
		return p
	}
	s.Properties["apiVersion"], s.Properties["kind"] = text("apiVersion"), text("kind")
	s.Properties["metadata"] = reference(metaModels+"ObjectMeta", metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"])
}

var typeDocs = metav1.TypeMeta{}.SwaggerDoc()

// embed adds that wherever the schema has an object in an object.
func embed(s *spec.Schema, below bool) {
	if on, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource"); on && below {
		asResource(s)
	}
	for name, p := range s.Properties {
		embed(&p, true)
		s.Properties[name] = p
	}
	if s.Items != nil && s.Items.Schema != nil {
		embed(s.Items.Schema, true)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		embed(s.AdditionalProperties.Schema, true)
	}
}

// older is a schema without what OpenAPI v2, or clients that read it, cannot
// express: what may be null, or is of several types, or has unknown fields, is
// left open there.
func older(s *structural.Structural) *structural.Structural {
	out := s.DeepCopy()
	v := structural.Visitor{Structural: func(s *structural.Structural) bool {
		if n := s.ValueValidation; n != nil {
			n.AllOf, n.AnyOf, n.OneOf, n.Not = nil, nil, nil, nil
		}
		switch {
		case s.Nullable, s.XPreserveUnknownFields:
			s.Type, s.Nullable = "", false
			s.Items, s.Properties, s.AdditionalProperties = nil, nil, nil
			if s.ValueValidation != nil {
				s.ValueValidation.Required = nil
			}
		case s.XIntOrString:
			s.Type = ""
		}
		return true
	}}
	v.Visit(out)
	return out
}
