package owned

import (
	"reflect"
	"slices"
	"strings"
	"sync"
)

// A printer writes which paths an object has as the text of FieldsV1, in one
// pass over the object and without making a [Set]: answers to creates need it.
// What it writes is what Compare with the zero object tells as touched.
type printer struct {
	b    []byte
	part string // until the top is left: see appendPaths
	told *told
}

// appendPaths appends the paths of obj, a pointer to a struct, that are not among those
// to skip; nothing if there is none. part is the step to what it has in common with
// others, of whose paths told knows the text.
func appendPaths(b []byte, obj any, told *told, part string) []byte {
	start := len(b)
	p := printer{b: append(b, '{'), part: part, told: told}
	v := reflect.ValueOf(obj).Elem()
	p.members(shapeOf(v.Type()), v, true, told.skip)
	if len(p.b) == start+1 {
		return b
	}
	return append(p.b, '}')
}

var texts = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// pathsText is appendPaths into a string.
func pathsText(obj any, told *told, part string) string {
	b := texts.Get().(*[]byte)
	defer texts.Put(b)
	*b = appendPaths((*b)[:0], obj, told, part)
	return string(*b)
}

// A side is what stands on the other side of what is printed.
type side uint8

const (
	absent side = iota
	zero        // the type's zero value
)

// members prints the fields of a struct, which may be beside the zero struct.
func (p *printer) members(s *shape, v reflect.Value, besideZero bool, skip Set) {
	if !v.IsValid() {
		return
	}
	part := p.part
	p.part = "" // only at the top
	for i := range s.fields {
		f := &s.fields[i]
		y := f.of(v)
		if !y.here {
			continue
		}
		other := absent
		if besideZero && f.inZero {
			other = zero
		}
		if f.key == part {
			p.told.print(p, func() { p.path(f.key, f.shape, other, y.v, skip) })
			continue
		}
		p.path(f.key, f.shape, other, y.v, skip)
	}
}

// path prints the path that ends with key, and those that go on from there.
func (p *printer) path(key string, s *shape, other side, v reflect.Value, skip Set) {
	var without elem
	if !skip.Empty() {
		if without = skip.find(key); without.all {
			return
		}
	}
	given := v
	v = s.plain(v)
	if s.form == leaf || s.none(v) {
		if without.member || other == zero && sameAsZero(s, given) {
			return
		}
		p.key(key)
		p.b = append(p.b, '{', '}')
		return
	}
	start := len(p.b)
	p.key(key)
	p.b = append(p.b, '{')
	member := other == absent && !without.member
	if member {
		p.b = append(p.b, `".":{}`...)
	}
	open := len(p.b)
	switch s.form {
	case record:
		p.members(s, v, other == zero && given.Kind() != reflect.Pointer, without.kids)
	case mapping:
		p.entries(s, v, without.kids)
	default:
		p.items(s, v, without.kids)
	}
	switch {
	case len(p.b) > open:
		p.b = append(p.b, '}')
	case member:
		p.b = append(p.b[:open-len(`".":{}`)], '}')
	default:
		p.b = p.b[:start]
	}
}

// comma parts what comes next from what is there.
func (p *printer) comma() {
	if p.b[len(p.b)-1] != '{' {
		p.b = append(p.b, ',')
	}
}

func (p *printer) key(key string) {
	p.comma()
	p.b = append(appendString(p.b, key), ':')
}

// sameAsZero says whether a value is equal to its type's zero value.
func sameAsZero(s *shape, v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.IsZero()
	}
	return s.same(value{reflect.Zero(v.Type()), true}, value{v, true})
}

func (p *printer) entries(s *shape, v reflect.Value, skip Set) {
	if m, ok := v.Interface().(map[string]string); ok && s.elem.form == leaf && skip.Empty() {
		var few [16]string
		keys := few[:0]
		for k := range m {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			p.comma()
			p.b = append(p.b, `"f:`...)
			p.b = append(appendRest(p.b, k), `:{}`...)
		}
		return
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, k := range keys {
		p.path("f:"+k.String(), s.elem, absent, v.MapIndex(k), skip)
	}
}

// items prints a list's items. Several of one key are one path.
func (p *printer) items(s *shape, v reflect.Value, skip Set) {
	type item struct {
		key string
		at  int
	}
	list := make([]item, v.Len())
	for i := range list {
		list[i] = item{s.keyOf(v.Index(i)), i}
	}
	byKey := func(a, b item) int { return order(a.key, b.key) }
	if !slices.IsSortedFunc(list, byKey) {
		slices.SortStableFunc(list, byKey)
	}
	for i := 0; i < len(list); {
		n := i + 1
		for n < len(list) && list[n].key == list[i].key {
			n++
		}
		switch without := skip.find(list[i].key); {
		case n == i+1:
			p.path(list[i].key, s.elem, absent, v.Index(list[i].at), skip)
		case !without.all && !without.member:
			p.key(list[i].key)
			p.b = append(p.b, '{', '}')
		}
		i = n
	}
}

// find returns the step of a key, the zero elem if there is none.
func (s Set) find(key string) elem {
	for i := range s.elems {
		if s.elems[i].key == key {
			return s.elems[i]
		}
	}
	return elem{}
}
