package crd

import (
	"fmt"
	"strings"
	"sync"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// merging is what server-side apply knows of a definition, made on first use.
type merging struct {
	once sync.Once
	conv managedfields.TypeConverter
	err  error
}

func (m *merging) of(d *Definition) func() (managedfields.TypeConverter, error) {
	return func() (managedfields.TypeConverter, error) {
		m.once.Do(func() { m.conv, m.err = d.converter() })
		return m.conv, m.err
	}
}

// converter knows the objects of all versions.
func (d *Definition) converter() (managedfields.TypeConverter, error) {
	models := map[string]*spec.Schema{}
	for _, v := range d.versions {
		s, err := v.compiled()
		if err != nil {
			return nil, err
		}
		m := &spec.Schema{}
		if s.structural != nil {
			m = bare(s.structural).ToKubeOpenAPI()
		}
		if m.Properties == nil {
			m.Properties = map[string]spec.Schema{}
		}
		if s.structural == nil || s.structural.XPreserveUnknownFields || s.preserve {
			m.AddExtension("x-kubernetes-preserve-unknown-fields", true)
		}
		m.Properties["apiVersion"], m.Properties["kind"] = *spec.StringProperty(), *spec.StringProperty()
		m.Properties["metadata"] = metadataModel
		m.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{
			"group": v.res.Group, "version": v.res.Version, "kind": v.res.Kind}})
		models[v.name+"."+v.res.Kind] = m
	}
	c, err := managedfields.NewTypeConverter(models, false)
	if err != nil {
		return nil, fmt.Errorf("make the schema of applies for %s: %w", d.Name, err)
	}
	return converter{c}, nil
}

// bare is a schema without what does not matter to ownership.
func bare(s *structural.Structural) *structural.Structural {
	out := s.DeepCopy()
	v := structural.Visitor{Structural: func(s *structural.Structural) bool {
		s.Description, s.Title = "", ""
		s.ValueValidation, s.ValidationExtensions = nil, structural.ValidationExtensions{}
		s.Nullable = false
		return true
	}}
	v.Visit(out)
	return out
}

// metadataModel is what applies know of metadata.
var metadataModel = func() spec.Schema {
	text := *spec.StringProperty()
	list := func(items spec.Schema, typ string, keys ...any) spec.Schema {
		s := *spec.ArrayProperty(&items)
		s.AddExtension("x-kubernetes-list-type", typ)
		if len(keys) > 0 {
			s.AddExtension("x-kubernetes-list-map-keys", keys)
		}
		return s
	}
	object := func(fields map[string]spec.Schema) spec.Schema {
		return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Properties: fields}}
	}
	owner := object(map[string]spec.Schema{"apiVersion": text, "kind": text, "name": text, "uid": text,
		"controller": *spec.BoolProperty(), "blockOwnerDeletion": *spec.BoolProperty()})
	owner.AddExtension("x-kubernetes-map-type", "atomic")
	fields := map[string]spec.Schema{
		"labels": *spec.MapProperty(&text), "annotations": *spec.MapProperty(&text),
		"finalizers": list(text, "set"), "ownerReferences": list(owner, "map", "uid"),
		"managedFields": list(object(map[string]spec.Schema{}), "atomic"),
		"generation":    *spec.Int64Property(), "deletionGracePeriodSeconds": *spec.Int64Property(),
	}
	for _, name := range strings.Fields("name generateName namespace selfLink uid resourceVersion creationTimestamp deletionTimestamp") {
		fields[name] = text
	}
	return object(fields)
}()

// A converter hands the library the content of objects.
type converter struct{ managedfields.TypeConverter }

func (c converter) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if x, ok := o.(*Object); ok {
		o = &unstructured.Unstructured{Object: x.UnstructuredContent()}
	}
	return c.TypeConverter.ObjectToTyped(o, opts...)
}

// replicas are the fields of the scale, by version.
func (d *Definition) replicas() managedfields.ResourcePathMappings {
	out := managedfields.ResourcePathMappings{}
	for _, v := range d.versions {
		var at fieldpath.Path
		if v.scale != nil {
			for _, step := range v.scale.want.steps {
				at = append(at, fieldpath.PathElement{FieldName: &step})
			}
		}
		out[v.res.GroupVersion().String()] = at
	}
	return out
}

// validMetadata checks what a webhook may have changed.
func validMetadata(o *Object) error {
	at := field.NewPath("metadata")
	errs := metav1validation.ValidateLabels(o.Labels, at.Child("labels"))
	return append(errs, apivalidation.ValidateAnnotations(o.Annotations, at.Child("annotations"))...).ToAggregate()
}
