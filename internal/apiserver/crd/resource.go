package crd

import (
	"fmt"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeversion "k8s.io/apimachinery/pkg/version"

	"proa/internal/api"
)

func age(t metav1.Time) string { return api.Age(t) }

// resource is what the server is to know of the version.
func (v *version) resource(c *apiextensionsv1.CustomResourceDefinition, spec *apiextensionsv1.CustomResourceDefinitionVersion) *api.Resource {
	n := v.def.names
	gv := schema.GroupVersion{Group: c.Spec.Group, Version: spec.Name}
	r := &api.Resource{
		GroupVersionResource: gv.WithResource(n.Plural),
		Kind:                 n.Kind, ListKind: n.ListKind, Singular: n.Singular, Short: n.ShortNames, Categories: n.Categories,
		Scope:       api.Scope(c.Spec.Scope == apiextensionsv1.NamespaceScoped),
		Verbs:       api.AllVerbs,
		Columns:     columns(spec.AdditionalPrinterColumns),
		Fields:      selectable(spec.SelectableFields),
		Codec:       codec{v},
		HasStatus:   v.status,
		Generation:  true,
		Propagation: metav1.DeletePropagationBackground,
		Conditional: true,
		Family:      v.def.Family,
		ValidName:   apivalidation.NameIsDNSSubdomain,
		Deleting:    func(api.Object) {},
		Held:        func(api.Object) bool { return false },
		Models:      v.models,
		Edition:     fmt.Sprintf("%s/%d", c.UID, c.Generation),
		Deprecated:  deprecated(c, spec),
	}
	r.New = func() api.Object {
		o := &Object{Fields: map[string]any{}, of: v}
		o.SetGroupVersionKind(r.GVK())
		return o
	}
	v.rules(r)
	v.parts(r)
	if v.scale != nil {
		r.Scale = v.scale.functions()
	}
	return r
}

// rules gives the resource what the schema says of its objects.
func (v *version) rules(r *api.Resource) {
	r.Default = func(o api.Object) { v.must().setDefaults(o.(*Object).Fields) }
	r.Prepare = func(_, _ api.Object) {}
	r.Validate = func(new, old api.Object) field.ErrorList {
		return v.must().validate(new.(*Object), orNil(old), v.scale)
	}
	r.PrepareStatus = func(new, old api.Object) {
		n, o := new.(*Object), old.(*Object)
		owners, rv := n.ManagedFields, n.ResourceVersion
		o.ObjectMeta.DeepCopyInto(&n.ObjectMeta)
		n.ManagedFields, n.ResourceVersion = owners, rv
	}
	r.ValidateStatus = func(new, old api.Object) field.ErrorList {
		return v.must().validateStatus(new.(*Object), old.(*Object), v.scale)
	}
	r.Warn = warn
}

func orNil(o api.Object) *Object {
	if o == nil {
		return nil
	}
	return o.(*Object)
}

// parts fills in the functions that treat status and the rest apart.
func (v *version) parts(r *api.Resource) {
	r.CopyStatus = func(dst, src api.Object) {
		d := dst.(*Object)
		if s, ok := src.(*Object).Fields["status"]; ok {
			d.Fields["status"] = runtime.DeepCopyJSONValue(s)
		} else {
			delete(d.Fields, "status")
		}
	}
	r.CopySpec = func(dst, src api.Object) {
		d := dst.(*Object)
		status, ok := d.Fields["status"]
		d.Fields = runtime.DeepCopyJSON(src.(*Object).Fields)
		delete(d.Fields, "status")
		if ok {
			d.Fields["status"] = status
		}
	}
	r.SpecEqual = func(a, b api.Object) bool {
		return equality.Semantic.DeepEqual(a.(*Object).Fields, b.(*Object).Fields)
	}
}

// warn is about finalizers whose names others might choose, too.
func warn(new, old api.Object) (out []string) {
	var had []string
	if old != nil {
		had = old.GetFinalizers()
	}
	for _, f := range slices.Sorted(slices.Values(new.GetFinalizers())) {
		if slices.Contains(had, f) {
			continue
		}
		for _, msg := range utilvalidation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", f, msg))
		}
		if strings.Contains(f, "/") || slices.Contains([]string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, "kubernetes"}, f) {
			continue
		}
		path := ""
		if strings.Contains(f, ".") {
			path = " including a path (/)"
		}
		out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name%s to avoid accidental conflicts with other finalizer writers", f, path))
	}
	return out
}

// deprecated is what those are told who use a version that is deprecated.
func deprecated(c *apiextensionsv1.CustomResourceDefinition, spec *apiextensionsv1.CustomResourceDefinitionVersion) string {
	switch {
	case !spec.Deprecated:
		return ""
	case spec.DeprecationWarning != nil:
		return *spec.DeprecationWarning
	}
	msg := fmt.Sprintf("%s/%s %s is deprecated", c.Spec.Group, spec.Name, c.Spec.Names.Kind)
	best := ""
	for _, w := range c.Spec.Versions {
		if w.Served && !w.Deprecated && kubeversion.CompareKubeAwareVersionStrings(spec.Name, w.Name) < 0 &&
			(best == "" || kubeversion.CompareKubeAwareVersionStrings(best, w.Name) < 0) {
			best = w.Name
		}
	}
	if best != "" {
		msg += fmt.Sprintf("; use %s/%s %s", c.Spec.Group, best, c.Spec.Names.Kind)
	}
	return msg
}

// selectable are the fields that selectors can name.
func selectable(list []apiextensionsv1.SelectableField) map[string]func(api.Object) string {
	out := make(map[string]func(api.Object) string, len(list))
	for _, f := range list {
		p := newPath(f.JSONPath)
		out[strings.TrimPrefix(f.JSONPath, ".")] = func(o api.Object) string { return p.selected(o.(*Object)) }
	}
	return out
}

// columns are the table of a version: Name and what it asks for, or Age.
func columns(list []apiextensionsv1.CustomResourceColumnDefinition) []api.Column[api.Object] {
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	if len(list) == 0 {
		list = []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Age", Type: "date", Description: docs["creationTimestamp"], JSONPath: ".metadata.creationTimestamp"}}
	}
	out := []api.Column[api.Object]{{Name: "Name", Type: "string", Format: "name", Doc: docs["name"],
		Cell: func(o api.Object) any { return o.GetName() }}}
	for _, c := range list {
		doc := c.Description
		if doc == "" {
			doc = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		p := newPath(c.JSONPath)
		out = append(out, api.Column[api.Object]{Name: c.Name, Type: c.Type, Format: c.Format, Doc: doc, Wide: c.Priority > 0, Priority: c.Priority,
			Cell: func(o api.Object) any { return cell(p, c.Type, o.(*Object)) }})
	}
	return out
}

// cell is what a column shows of an object; nil if it has nothing of that type there.
func cell(p *path, typ string, o *Object) any {
	v, ok := p.of(o)
	if !ok {
		return nil
	}
	switch typ {
	case "string":
		if s, ok := p.print(v); ok {
			return s
		}
	case "integer":
		switch n := v.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		}
	case "number":
		switch n := v.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := v.(bool); ok {
			return b
		}
	case "date":
		return date(v)
	}
	return nil
}

// functions are the scale as the server has it. Want is nil where there is no
// replica count.
func (c *scale) functions() *api.Scale[api.Object] {
	return &api.Scale[api.Object]{
		Want: func(o api.Object) *int32 {
			n, ok := c.want.number(o.(*Object))
			if !ok {
				return nil
			}
			return new(int32(n))
		},
		SetWant: func(o api.Object, n int32) { c.want.set(o.(*Object), int64(n)) },
		Have: func(o api.Object) int32 {
			n, _ := c.have.number(o.(*Object))
			return int32(n)
		},
		Selector: func(o api.Object) string {
			if c.selector == nil {
				return ""
			}
			return c.selector.selected(o.(*Object))
		},
		Path: c.want.text,
	}
}
