package owned

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A shape is what a Go type is to the ownership of fields.
type shape struct {
	form   form
	fields []member // of a record, by name
	elem   *shape   // of a mapping or a list
	keys   []member // of a list whose items have keys
	null   func(reflect.Value) bool
}

type form uint8

const (
	leaf    form = iota // owned as a whole
	record              // a struct, owned by field
	mapping             // owned by entry
	keyed               // a list, owned by item, each known by some of its fields
	set                 // a list of scalars, owned by item
)

// A member is a field of a struct under its JSON name.
type member struct {
	key       string // "f:" and the name
	name      string // as JSON, with a colon
	index     []int
	omitEmpty bool
	omitZero  func(reflect.Value) bool
	shape     *shape
	inZero    bool   // is there in the zero struct
	standard  string // of a list's key: what it is if it is absent, as JSON
}

// of returns the field's value in a struct, or what is absent.
func (m *member) of(v reflect.Value) value {
	if !v.IsValid() {
		return value{}
	}
	for _, i := range m.index {
		v = v.Field(i)
	}
	if m.omitEmpty && empty(v) || m.omitZero != nil && m.omitZero(v) {
		return value{}
	}
	return value{v, true}
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Pointer, reflect.Interface:
		return v.IsNil()
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// nullable are the types whose zero value is null in JSON.
var nullable = map[reflect.Type]func(reflect.Value) bool{
	reflect.TypeFor[metav1.Time](): func(v reflect.Value) bool {
		t := v.Interface().(metav1.Time)
		return t.IsZero()
	},
	reflect.TypeFor[metav1.MicroTime](): func(v reflect.Value) bool {
		t := v.Interface().(metav1.MicroTime)
		return t.IsZero()
	},
}

// plain follows pointers; what is null becomes the invalid value.
func (s *shape) plain(v reflect.Value) reflect.Value {
	for v.IsValid() && v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return reflect.Value{}
		}
		v = v.Elem()
	}
	if !v.IsValid() {
		return v
	}
	switch s.form {
	case mapping, keyed, set:
		if v.IsNil() {
			return reflect.Value{}
		}
	case leaf:
		if s.null != nil && s.null(v) {
			return reflect.Value{}
		}
	}
	return v
}

// none says whether there is nothing below a value.
func (s *shape) none(v reflect.Value) bool {
	if !v.IsValid() {
		return true
	}
	if s.form != record {
		return v.Len() == 0
	}
	for i := range s.fields {
		if s.fields[i].of(v).here {
			return false
		}
	}
	return true
}

// shared says whether two values are one in memory.
func (s *shape) shared(l, r reflect.Value) bool {
	if !l.IsValid() || !r.IsValid() {
		return false
	}
	switch l.Kind() {
	case reflect.Map:
		return l.Pointer() == r.Pointer()
	case reflect.Slice:
		return l.Len() == r.Len() && l.Pointer() == r.Pointer()
	case reflect.Struct:
		return l.CanAddr() && r.CanAddr() && l.Addr().Pointer() == r.Addr().Pointer()
	}
	return false
}

var shapes sync.Map // reflect.Type → *shape

// shapeOf returns the shape of a struct type that is an object's.
func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	b := builder{known: map[reflect.Type]*shape{}, lists: listing()}
	s := b.record(t)
	have, _ := shapes.LoadOrStore(t, s)
	return have.(*shape)
}

// listing is what the API's documentation says about lists, maps and structs
// that are not the usual: atomic for lists, by field and entry for the others.
// The file is written by the tests, from the schema that applies go by. Lines
// are: a type, a field or "." for the type itself, what it is, and a list's keys.
//
//go:embed lists.txt
var listsText string

type typeField struct{ typ, field string }

var listing = sync.OnceValue(func() map[typeField][]string {
	out := map[typeField][]string{}
	for line := range strings.Lines(listsText) {
		if w := strings.Fields(line); len(w) > 2 && w[0] != "#" {
			out[typeField{w[0], w[1]}] = w[2:]
		}
	}
	return out
})

type builder struct {
	known map[reflect.Type]*shape // records, which may hold themselves
	lists map[typeField][]string
}

func typeName(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }

var marshaler = reflect.TypeFor[json.Marshaler]()

// shape is the shape of a type, where said is what is said of the field it is in.
func (b *builder) shape(t reflect.Type, said []string) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	atomic := len(said) > 0 && said[0] == "atomic"
	if atomic || t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler) {
		return &shape{null: nullable[t]}
	}
	switch t.Kind() {
	case reflect.Struct:
		if own := b.lists[typeField{typeName(t), "."}]; len(own) > 0 && own[0] == "atomic" && len(said) == 0 {
			return &shape{}
		}
		return b.record(t)
	case reflect.Map:
		return &shape{form: mapping, elem: b.shape(t.Elem(), nil)}
	case reflect.Slice:
		if len(said) == 0 || t.Elem().Kind() == reflect.Uint8 {
			return &shape{}
		}
		s := &shape{form: set, elem: b.shape(t.Elem(), nil)}
		if said[0] == "map" {
			s.form = keyed
			s.keys = keysOf(b.record(direct(t.Elem())), said[1:])
		}
		return s
	}
	return &shape{}
}

func direct(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// keysOf returns the fields that a list's items are known by. One may be
// written with what stands for it if it is absent: protocol="TCP".
func keysOf(items *shape, names []string) (out []member) {
	for _, n := range names {
		name, standard, _ := strings.Cut(n, "=")
		for _, f := range items.fields {
			if f.key == "f:"+name {
				f.standard = standard
				out = append(out, f)
			}
		}
	}
	slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return out
}

func (b *builder) record(t reflect.Type) *shape {
	if s := b.known[t]; s != nil {
		return s
	}
	s := &shape{form: record}
	b.known[t] = s
	b.members(s, t, nil)
	zero := reflect.New(t).Elem()
	for i := range s.fields {
		s.fields[i].inZero = s.fields[i].of(zero).here
	}
	slices.SortFunc(s.fields, func(x, y member) int { return strings.Compare(x.key, y.key) })
	return s
}

func (b *builder) members(s *shape, t reflect.Type, at []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, has := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		index := append(slices.Clone(at), i)
		opts := strings.Split(options, ",")
		switch {
		case !f.IsExported() || name == "-":
			continue
		case slices.Contains(opts, "inline") || f.Anonymous && name == "":
			b.members(s, f.Type, index)
			continue
		case !has || name == "":
			name = f.Name
		}
		m := member{key: "f:" + name, name: `"` + name + `":`, index: index, omitEmpty: slices.Contains(opts, "omitempty"),
			shape: b.shape(f.Type, b.lists[typeField{typeName(t), name}])}
		if slices.Contains(opts, "omitzero") {
			m.omitZero = isZero(f.Type)
		}
		s.fields = append(s.fields, m)
	}
}

// isZero is what encoding/json takes for zero.
func isZero(t reflect.Type) func(reflect.Value) bool {
	type zeroer interface{ IsZero() bool }
	z := reflect.TypeFor[zeroer]()
	switch {
	case t.Kind() == reflect.Pointer:
		return reflect.Value.IsNil
	case t.Implements(z):
		return func(v reflect.Value) bool { return v.Interface().(zeroer).IsZero() }
	case reflect.PointerTo(t).Implements(z):
		return func(v reflect.Value) bool {
			if v.CanAddr() {
				return v.Addr().Interface().(zeroer).IsZero()
			}
			return v.IsZero()
		}
	}
	return reflect.Value.IsZero
}
