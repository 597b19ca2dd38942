package api

import (
	"fmt"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A View serves the objects of a stored kind in a further version, or another
// group, as Go type T. What is stored, indexed and validated is an H, the hub;
// all that the view does not say is the hub's: verbs, names, columns,
// subresources. Like a [Kind] it is a [Definition], one of the listed ones.
type View[T, H Object] struct {
	API string   // group and version
	Of  *Kind[H] // the hub

	// To and From convert. Neither changes what it is given; the result may share
	// memory with it. An object must come through From and To as it was, but for
	// what the user cannot tell apart.
	To   func(T) H
	From func(H) T

	Default  func(T)                          // fill in what was left out, before To and the hub's Default
	Validate func(new, old H) field.ErrorList // in place of the hub's, for writes in this version; old is nil on create

	// Fields is what field selectors can match, by the hub's names for it; the
	// hub's if nil.
	Fields map[string]string

	once sync.Once
	def  *Resource
}

// A Hub says how the objects of a view are stored.
type Hub struct {
	*Resource
	To       func(Object) Object // from a private object of the view, with the view's defaults; takes it over
	From     func(Object) Object // to the view; the result must not be changed
	Default  func(Object)        // the view's own defaults
	Validate func(new, old Object) field.ErrorList
	Fields   map[string]string // the hub's names for Resource.Fields
}

// Def returns the erased form of v, always the same one. Its functions take
// objects of the view; whoever stores objects converts them first: see
// [Resource.Hub].
func (v *View[T, H]) Def() *Resource {
	v.once.Do(func() { v.def = v.erase() })
	return v.def
}

func (v *View[T, H]) erase() *Resource {
	gv, err := schema.ParseGroupVersion(v.API)
	if err != nil {
		panic(fmt.Sprintf("view of %s: %v", v.Of.Resource, err))
	}
	hub := v.Of.Def()
	r := *hub
	r.GroupVersionResource = gv.WithResource(hub.Resource)
	typ := reflect.TypeFor[T]().Elem()
	gvk := gv.WithKind(hub.Kind)
	r.New = func() Object {
		o := reflect.New(typ).Interface().(Object)
		o.GetObjectKind().SetGroupVersionKind(gvk)
		return o
	}
	r.Codec = newProtobufCodec(r.New)
	h := &Hub{Resource: hub, Default: func(Object) {}, Validate: hub.Validate, Fields: v.Fields}
	r.Hub = h
	h.From = func(o Object) Object {
		w := v.From(o.(H))
		w.GetObjectKind().SetGroupVersionKind(gvk)
		return w
	}
	h.To = func(o Object) Object {
		h.Default(o)
		s := v.To(o.(T))
		s.GetObjectKind().SetGroupVersionKind(hub.GVK())
		return s
	}
	if v.Default != nil {
		h.Default = func(o Object) { v.Default(o.(T)) }
	}
	if v.Validate != nil {
		h.Validate = check(v.Validate)
	}
	if h.Fields == nil {
		h.Fields = map[string]string{}
		for name := range hub.Fields {
			h.Fields[name] = name
		}
	}
	r.Deprecated = deprecated(r.New(), gvk)
	r.through(h)
	r.parts(typ)
	return &r
}

// through gives r the hub's functions, for objects of the view.
func (r *Resource) through(h *Hub) {
	to := func(o Object) Object {
		if o == nil {
			return nil
		}
		return h.To(Clone(o))
	}
	// change lets f change the view's object through the hub's.
	change := func(o Object, f func(Object)) {
		s := to(o)
		f(s)
		back := Clone(h.From(s))
		reflect.ValueOf(o).Elem().Set(reflect.ValueOf(back).Elem())
	}
	hub := h.Resource
	r.Fields = map[string]func(Object) string{}
	for name, as := range h.Fields {
		get := hub.Fields[as]
		r.Fields[name] = func(o Object) string { return get(to(o)) }
	}
	r.Columns = make([]Column[Object], len(hub.Columns))
	for i, c := range hub.Columns {
		cell := c.Cell
		c.Cell = func(o Object) any { return cell(to(o)) }
		r.Columns[i] = c
	}
	r.Default = func(o Object) { change(o, hub.Default) }
	r.Prepare = func(new, old Object) { change(new, func(s Object) { hub.Prepare(s, to(old)) }) }
	r.PrepareStatus = func(new, old Object) { change(new, func(s Object) { hub.PrepareStatus(s, to(old)) }) }
	r.Deleting = func(o Object) { change(o, hub.Deleting) }
	r.Validate = func(new, old Object) field.ErrorList { return h.Validate(to(new), to(old)) }
	r.ValidateStatus = func(new, old Object) field.ErrorList { return hub.ValidateStatus(to(new), to(old)) }
	r.Warn = func(new, old Object) []string { return hub.Warn(to(new), to(old)) }
	r.Held = func(o Object) bool { return hub.Held(to(o)) }
	if hub.Grace != nil {
		r.Grace = func(o Object, asked *int64) int64 { return hub.Grace(to(o), asked) }
	}
}
