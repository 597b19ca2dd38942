package owned

import (
	"encoding/json"
	"maps"
	"reflect"
	"strconv"

	"k8s.io/apimachinery/pkg/api/equality"
)

// A Delta is how an object differs from another.
type Delta struct {
	Added   Set // what only the new one has
	Changed Set // what both have, with other values
	Gone    Set // what only the old one has
}

// Touched is what the new object has or has otherwise.
func (d *Delta) Touched() Set { return d.Added.Union(d.Changed) }

// Empty says whether nothing differs.
func (d *Delta) Empty() bool { return d.Added.Empty() && d.Changed.Empty() && d.Gone.Empty() }

// Compare tells how new differs from old, two objects of one type, given as
// pointers to structs.
func Compare(old, new any) (d Delta) {
	l, r := reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem()
	var w walk
	w.members(shapeOf(r.Type()), value{l, true}, value{r, true})
	return Delta{w.added.kids, w.changed.kids, w.gone.kids}
}

// A value is one side of a comparison.
type value struct {
	v    reflect.Value // invalid if absent or null
	here bool
}

// A walk collects what differs at and below one path.
type walk struct{ added, changed, gone elem }

func (w *walk) leaf(s *shape, l, r value) {
	switch {
	case !l.here:
		w.added.member = true
	case !r.here:
		w.gone.member = true
	case !s.same(l, r):
		w.changed.member = true
	}
}

// into compares what is one step below.
func (w *walk) into(key string, s *shape, l, r value) {
	var k walk
	k.compare(s, l, r)
	w.take(key, &k)
}

func (w *walk) take(key string, k *walk) {
	w.added.kids.add(key, k.added.member, k.added.kids)
	w.changed.kids.add(key, k.changed.member, k.changed.kids)
	w.gone.kids.add(key, k.gone.member, k.gone.kids)
}

func (w *walk) sort() {
	w.added.kids.sort()
	w.changed.kids.sort()
	w.gone.kids.sort()
}

// compare compares two values of which at least one is there.
func (w *walk) compare(s *shape, l, r value) {
	l.v, r.v = s.plain(l.v), s.plain(r.v)
	if s.form == leaf || s.none(l.v) && s.none(r.v) {
		w.leaf(s, l, r)
		return
	}
	if s.shared(l.v, r.v) {
		return
	}
	switch s.form {
	case record:
		w.members(s, l, r)
	case mapping:
		w.entries(s, l, r)
	default:
		w.items(s, l, r)
	}
	switch {
	case !l.here:
		w.added.member = true
	case !r.here:
		w.gone.member = true
	}
}

func (w *walk) members(s *shape, l, r value) {
	for i := range s.fields {
		f := &s.fields[i]
		x, y := f.of(l.v), f.of(r.v)
		if x.here || y.here {
			w.into(f.key, f.shape, x, y)
		}
	}
}

func (w *walk) entries(s *shape, l, r value) {
	if sameStrings(l.v, r.v) {
		return
	}
	n := 0
	each := func(from, other reflect.Value, f func(k string, x, y value)) {
		if !from.IsValid() {
			return
		}
		for it := from.MapRange(); it.Next(); {
			y := value{}
			if other.IsValid() {
				if v := other.MapIndex(it.Key()); v.IsValid() {
					y = value{v, true}
				}
			}
			f(it.Key().String(), value{it.Value(), true}, y)
			n++
		}
	}
	each(r.v, l.v, func(k string, x, y value) { w.into("f:"+k, s.elem, y, x) })
	each(l.v, r.v, func(k string, x, y value) {
		if !y.here {
			w.into("f:"+k, s.elem, x, y)
		}
	})
	if n > 1 {
		w.sort()
	}
}

// sameStrings says whether both are maps of strings, and equal.
func sameStrings(l, r reflect.Value) bool {
	if !l.IsValid() || !r.IsValid() {
		return false
	}
	a, ok := l.Interface().(map[string]string)
	b, both := r.Interface().(map[string]string)
	return ok && both && maps.Equal(a, b)
}

// items compares lists whose items have keys, or are their own.
func (w *walk) items(s *shape, l, r value) {
	a, b := s.keyed(l.v), s.keyed(r.v)
	for i := range b {
		y := &b[i]
		if y.again {
			continue
		}
		var x *item
		// Items are mostly where they were.
		if i < len(a) && a[i].key == y.key && !a[i].again {
			x = &a[i]
		} else {
			x = find(a, y.key)
		}
		if x == nil {
			x = &item{}
		} else {
			x.met = true
		}
		w.pair(s, y.key, x, y)
	}
	for i := range a {
		if x := &a[i]; !x.met && !x.again {
			w.pair(s, x.key, x, &item{})
		}
	}
	w.sort()
}

// pair compares the items of one key. Several with the same key are as one value.
func (w *walk) pair(s *shape, key string, x, y *item) {
	var k walk
	switch {
	case x.more == nil && y.more == nil:
		k.compare(s.elem, x.value, y.value)
	case x.more != nil && y.more != nil:
		k.changed.member = !sameItems(s.elem, x, y)
	case x.more != nil:
		if y.here {
			k.compare(s.elem, value{}, y.value)
		}
		k.gone.member = true
	default:
		if x.here {
			k.compare(s.elem, x.value, value{})
		}
		k.added.member = true
	}
	w.take(key, &k)
}

func sameItems(s *shape, x, y *item) bool {
	if len(x.more) != len(y.more) || !s.same(x.value, y.value) {
		return false
	}
	for i := range x.more {
		if !s.same(value{x.more[i], true}, value{y.more[i], true}) {
			return false
		}
	}
	return true
}

// An item is an element of a list with its key.
type item struct {
	value
	key   string
	more  []reflect.Value // further ones of the same key
	again bool            // is among the more of another
	met   bool
}

func find(list []item, key string) *item {
	for i := range list {
		if list[i].key == key && !list[i].again {
			return &list[i]
		}
	}
	return nil
}

// keyed returns the items of a list with their keys.
func (s *shape) keyed(v reflect.Value) []item {
	if !v.IsValid() {
		return nil
	}
	list := make([]item, v.Len())
	for i := range list {
		it := &list[i]
		it.value = value{v.Index(i), true}
		it.key = s.keyOf(it.v)
		if first := find(list[:i], it.key); first != nil {
			first.more = append(first.more, it.v)
			it.again = true
		}
	}
	return list
}

func (s *shape) keyOf(v reflect.Value) string {
	v = s.elem.plain(v)
	if s.form == set {
		return "v:" + scalar(v)
	}
	b := make([]byte, 0, 48)
	b = append(b, "k:{"...)
	for i := range s.keys {
		k := &s.keys[i]
		x := k.of(v)
		text := k.standard
		if x.here {
			if p := k.shape.plain(x.v); p.IsValid() {
				text = scalar(p)
			}
		}
		if text == "" {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, k.name...)
		b = append(b, text...)
	}
	return string(append(b, '}'))
}

// scalar is a value as JSON.
func scalar(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); plain(s) {
			return `"` + s + `"`
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10)
	}
	b, err := json.Marshal(v.Interface())
	if err != nil {
		return "null"
	}
	return string(b)
}

// plain says whether nothing in s is escaped in JSON.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// same compares two present values as wholes.
func (s *shape) same(l, r value) bool {
	l.v, r.v = s.plain(l.v), s.plain(r.v)
	if !l.v.IsValid() || !r.v.IsValid() {
		return l.v.IsValid() == r.v.IsValid()
	}
	switch l.v.Kind() {
	case reflect.String:
		return l.v.String() == r.v.String()
	case reflect.Bool:
		return l.v.Bool() == r.v.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return l.v.Int() == r.v.Int()
	case reflect.Slice, reflect.Map:
		if l.v.IsNil() != r.v.IsNil() {
			return false
		}
	}
	if s.shared(l.v, r.v) {
		return true
	}
	return equality.Semantic.DeepEqual(l.v.Interface(), r.v.Interface())
}

func unquoteJSON(s string) (out string, err error) {
	err = json.Unmarshal([]byte(s), &out)
	return out, err
}
