package api

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A Resource is a Kind with its Go type erased: all that the server needs to
// know. Built-in kinds and custom resource definitions both become Resources,
// and nothing past this point can tell them apart. No function field is nil
// except Scale, Grace and Do. Scale, and the parts of Subs, take the hub's objects.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	ListKind   string
	Singular   string
	Scope      Scope
	Short      []string
	Categories []string
	Verbs      []Verb
	Virtual    bool

	Columns []Column[Object] // the whole table, Name and Age included
	Fields  map[string]func(Object) string

	New   func() Object // an empty object that names its kind
	Codec Codec

	ValidName      func(name string, prefix bool) []string
	Default        func(Object)
	Prepare        func(new, old Object)
	Fills          bool // Prepare may fill in more than the status of a new object
	Validate       func(new, old Object) field.ErrorList
	Warn           func(new, old Object) []string
	HasStatus      bool
	PrepareStatus  func(new, old Object)
	ValidateStatus func(new, old Object) field.ErrorList
	Generation     bool // metadata.generation grows with every change of the spec

	Scale *Scale[Object]
	Subs  map[string]*Sub
	Do    SubFunc

	Grace          func(obj Object, asked *int64) int64
	Deleting       func(Object)
	Held           func(Object) bool
	Propagation    metav1.DeletionPropagation
	Conditional    bool
	CreateOnUpdate bool
	Versioned      bool
	TTL            time.Duration
	Types          string

	// Hub is set if this is a further version or group of another resource: its
	// objects are stored as the hub's. See [View].
	Hub *Hub
	// Family is set if this is a version of a custom resource.
	Family *Family
	// Edition is another text whenever a custom resource's definition is another.
	Edition string
	// Models are the definitions of its OpenAPI v3, or v2 if old; the published ones if nil.
	Models func(old bool) (*Models, error)

	Deprecated string // a warning for everybody who uses this version; empty if it is not deprecated

	CopyStatus func(dst, src Object)  // dst.status = src.status; shares memory with src
	CopySpec   func(dst, src Object)  // everything but status, metadata and type; shares memory with src
	SpecEqual  func(a, b Object) bool // everything but status, metadata and type
}

// GroupKind is the kind's name in errors.
func (r *Resource) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: r.Group, Kind: r.Kind}
}

// ServesStatus says whether there is a /status. A review has a status, but it is
// not kept.
func (r *Resource) ServesStatus() bool { return r.HasStatus && !r.Virtual }

// Stored is the resource whose objects are kept for this one: itself, unless it
// is a view, or a version that is not the one for storage.
func (r *Resource) Stored() *Resource {
	switch {
	case r.Hub != nil:
		return r.Hub.Resource
	case r.Family != nil:
		return r.Family.Storage
	}
	return r
}

// GVK is the kind with its version.
func (r *Resource) GVK() schema.GroupVersionKind { return r.GroupVersion().WithKind(r.Kind) }

// SupportsField returns why field selectors of the resource cannot have a field, or nil.
func (r *Resource) SupportsField(name string) error {
	switch {
	case r.Fields[name] != nil, name == "metadata.name", name == "metadata.namespace" && (r.Scope == Namespaced || len(r.Fields) == 0):
		return nil
	case r.Group == "batch" && r.Resource == "jobs":
		return fmt.Errorf("field label %q not supported for Job", name)
	case len(r.Fields) == 0 && r.Family == nil:
		return fmt.Errorf("%q is not a known field selector: only %q, %q", name, "metadata.name", "metadata.namespace")
	}
	return fmt.Errorf("field label not supported: %s", name)
}

// Can says whether the resource serves a verb.
func (r *Resource) Can(v Verb) bool { return slices.Contains(r.Verbs, v) }

// Path is the URL path of the resource in a namespace, or of the whole resource if ns is empty.
func (r *Resource) Path(ns string) string {
	p := "/apis/" + r.Group + "/" + r.Version
	if r.Group == "" {
		p = "/api/" + r.Version
	}
	if ns != "" {
		p += "/namespaces/" + ns
	}
	return p + "/" + r.Resource
}

func (k *Kind[T]) erase() *Resource {
	gv, err := schema.ParseGroupVersion(k.API)
	if err != nil {
		panic(fmt.Sprintf("kind %s: %v", k.Resource, err))
	}
	typ := reflect.TypeFor[T]().Elem()
	r := &Resource{
		GroupVersionResource: gv.WithResource(k.Resource),
		Kind:                 typ.Name(),
		ListKind:             typ.Name() + "List",
		Singular:             k.Singular,
		Scope:                k.Scope,
		Short:                k.Short,
		Categories:           k.Categories,
		Verbs:                k.Verbs,
		Virtual:              k.Virtual,
		Columns:              k.columns(),
		Fields:               map[string]func(Object) string{},
		HasStatus:            k.Status,
		Generation:           k.Status && !k.Ungenerated,
		Subs:                 k.Sub,
		Do:                   k.Do,
		Propagation:          k.Propagation,
		Conditional:          k.Conditional,
		CreateOnUpdate:       k.CreateOnUpdate,
		Versioned:            k.Versioned,
		TTL:                  k.TTL,
		Types:                k.Types,
		Models:               k.Models,
		ValidName:            k.Name,
		Default:              func(Object) {},
		Prepare:              pair(k.Prepare),
		PrepareStatus:        pair(k.PrepareStatus),
		Validate:             check(k.Validate),
		ValidateStatus:       check(k.ValidateStatus),
		Warn:                 func(_, _ Object) []string { return nil },
		Deleting:             func(Object) {},
		Held:                 func(Object) bool { return false },
	}
	if r.Singular == "" {
		r.Singular = strings.ToLower(r.Kind)
	}
	if r.Verbs == nil {
		r.Verbs = AllVerbs
		if r.Virtual {
			r.Verbs = []Verb{Create}
		}
	}
	if r.Propagation == "" {
		r.Propagation = metav1.DeletePropagationBackground
	}
	if r.ValidName == nil {
		r.ValidName = apivalidation.NameIsDNSSubdomain
	}
	gvk := gv.WithKind(r.Kind)
	r.New = func() Object {
		o := reflect.New(typ).Interface().(Object)
		o.GetObjectKind().SetGroupVersionKind(gvk)
		return o
	}
	codec := newProtobufCodec(r.New)
	if k.Restore != nil {
		codec.restore = func(o Object) { k.Restore(o.(T)) }
	}
	if k.Alike != nil {
		codec.alikes = newAlikes(k.Alike, r.New)
	}
	r.Codec = codec
	for name, f := range k.Fields {
		r.Fields[name] = func(o Object) string { return f(o.(T)) }
	}
	if k.Default != nil {
		r.Default = func(o Object) { k.Default(o.(T)) }
	}
	if k.Warn != nil {
		r.Warn = func(new, old Object) []string { return k.Warn(new.(T), orNil[T](old)) }
	}
	if k.Grace != nil {
		r.Grace = func(o Object, asked *int64) int64 { return k.Grace(o.(T), asked) }
	}
	if k.Deleting != nil {
		r.Deleting = func(o Object) { k.Deleting(o.(T)) }
	}
	if k.Held != nil {
		r.Held = func(o Object) bool { return k.Held(o.(T)) }
	}
	if s := k.Scale; s != nil {
		r.Scale = &Scale[Object]{
			Want:     func(o Object) *int32 { return s.Want(o.(T)) },
			SetWant:  func(o Object, n int32) { s.SetWant(o.(T), n) },
			Have:     func(o Object) int32 { return s.Have(o.(T)) },
			Selector: func(o Object) string { return s.Selector(o.(T)) },
		}
	}
	r.Deprecated = deprecated(r.New(), gvk)
	r.parts(typ)
	return r
}

// deprecated is the warning that the published type of a version asks for.
func deprecated(o Object, gvk schema.GroupVersionKind) string {
	d, ok := o.(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return ""
	}
	major, minor := d.APILifecycleDeprecated()
	out := fmt.Sprintf("%s %s is deprecated in v%d.%d+", gvk.GroupVersion(), gvk.Kind, major, minor)
	if r, ok := o.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		by := r.APILifecycleReplacement()
		out += fmt.Sprintf("; use %s %s", by.GroupVersion(), by.Kind)
	}
	return out
}

// columns is the whole table: Name, the kind's own columns, Age, the wide ones.
func (k *Kind[T]) columns() (out []Column[Object]) {
	add := func(c Column[T]) {
		out = append(out, Column[Object]{Name: c.Name, Type: c.Type, Format: c.Format, Doc: c.Doc, Wide: c.Wide,
			Cell: func(o Object) any { return c.Cell(o.(T)) }})
	}
	if k.Whole {
		for _, c := range k.Columns {
			add(c)
		}
		return out
	}
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	out = append(out, Column[Object]{Name: "Name", Type: "string", Format: "name", Doc: docs["name"],
		Cell: func(o Object) any { return o.GetName() }})
	for _, c := range k.Columns {
		if !c.Wide {
			add(c)
		}
	}
	out = append(out, Column[Object]{Name: "Age", Type: "string", Doc: docs["creationTimestamp"],
		Cell: func(o Object) any { return Age(o.GetCreationTimestamp()) }})
	for _, c := range k.Columns {
		if c.Wide {
			add(c)
		}
	}
	return out
}

// parts fills in the functions that treat status and the rest apart.
func (r *Resource) parts(typ reflect.Type) {
	var rest []int
	status := -1
	for i := range typ.NumField() {
		switch f := typ.Field(i); {
		case f.Name == "TypeMeta" || f.Name == "ObjectMeta":
		case f.Name == "Status" && r.HasStatus:
			status = i
		default:
			rest = append(rest, i)
		}
	}
	r.CopyStatus = func(dst, src Object) {
		if status >= 0 {
			reflect.ValueOf(dst).Elem().Field(status).Set(reflect.ValueOf(src).Elem().Field(status))
		}
	}
	r.CopySpec = func(dst, src Object) {
		d, s := reflect.ValueOf(dst).Elem(), reflect.ValueOf(src).Elem()
		for _, i := range rest {
			d.Field(i).Set(s.Field(i))
		}
	}
	r.SpecEqual = func(a, b Object) bool {
		x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
		for _, i := range rest {
			if !equality.Semantic.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
				return false
			}
		}
		return true
	}
}

func pair[T Object](f func(new, old T)) func(new, old Object) {
	if f == nil {
		return func(_, _ Object) {}
	}
	return func(new, old Object) { f(new.(T), orNil[T](old)) }
}

func check[T Object](f func(new, old T) field.ErrorList) func(new, old Object) field.ErrorList {
	if f == nil {
		return func(_, _ Object) field.ErrorList { return nil }
	}
	return func(new, old Object) field.ErrorList { return f(new.(T), orNil[T](old)) }
}

func orNil[T Object](o Object) (t T) {
	if o != nil {
		t = o.(T)
	}
	return t
}
