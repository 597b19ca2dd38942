package apiextensions

import (
	"fmt"
	"maps"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// warnDefinition tells of what is taken but has no effect, or less than hoped
// for. What the old definition had already is not told again.
func warnDefinition(d, old *apiextensionsv1.CustomResourceDefinition) []string {
	var told []string
	if old != nil {
		told = warnings(&old.Spec)
	}
	return slices.DeleteFunc(warnings(&d.Spec), func(w string) bool { return slices.Contains(told, w) })
}

// warnings are those of all schemas, each once: of formats, then of lists.
func warnings(s *apiextensionsv1.CustomResourceDefinitionSpec) []string {
	formats, lists := map[string]bool{}, map[string]bool{}
	look := func(s *apiextensionsv1.JSONSchemaProps) {
		if s.Format != "" && !known(s.Format, s.Type) {
			formats[fmt.Sprintf("unrecognized format %q", s.Format)] = true
		}
		if s.XListType == nil || *s.XListType != "set" || s.Items == nil || s.Items.Schema == nil {
			return
		}
		if t := s.Items.Schema.Type; t == "object" || t == "array" {
			lists[fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", t)] = true
		}
	}
	for i := range s.Versions {
		if schema := s.Versions[i].Schema; schema != nil {
			visit(schema.OpenAPIV3Schema, look)
		}
	}
	return append(slices.Sorted(maps.Keys(formats)), slices.Sorted(maps.Keys(lists))...)
}

// known says whether values of a type are checked for a format.
func known(format, typ string) bool {
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Format: format, Type: []string{typ}}}
	return len(validation.GetUnrecognizedFormats(s, environment.DefaultCompatibilityVersion())) == 0
}

// visit calls f for a schema and all schemas inside it.
func visit(s *apiextensionsv1.JSONSchemaProps, f func(*apiextensionsv1.JSONSchemaProps)) {
	if s == nil {
		return
	}
	f(s)
	all := func(list []apiextensionsv1.JSONSchemaProps) {
		for i := range list {
			visit(&list[i], f)
		}
	}
	each := func(m map[string]apiextensionsv1.JSONSchemaProps) {
		for _, p := range m {
			visit(&p, f)
		}
	}
	if s.Items != nil {
		visit(s.Items.Schema, f)
		all(s.Items.JSONSchemas)
	}
	all(s.AllOf)
	all(s.AnyOf)
	all(s.OneOf)
	visit(s.Not, f)
	each(s.Properties)
	if s.AdditionalProperties != nil {
		visit(s.AdditionalProperties.Schema, f)
	}
	each(s.PatternProperties)
	if s.AdditionalItems != nil {
		visit(s.AdditionalItems.Schema, f)
	}
	each(s.Definitions)
	for _, d := range s.Dependencies {
		visit(d.Schema, f)
	}
}
