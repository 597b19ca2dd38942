package api

import (
	"reflect"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AsStored cuts the times in an object to what its stored form keeps of them: whole
// seconds, and whole microseconds of a MicroTime. What comes as bytes is so already; an
// object that a caller in this process has made may not be, and would then differ
// from what is read back later.
func AsStored(o Object) {
	v := reflect.ValueOf(o)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return
	}
	if cut := cutOf(v.Type().Elem()); cut != nil {
		cut(v.Elem())
	}
}

// A cutter cuts the times in a value that can be set.
type cutter func(reflect.Value)

var cutters sync.Map // of cutter, by reflect.Type

var (
	timeType  = reflect.TypeFor[metav1.Time]()
	microType = reflect.TypeFor[metav1.MicroTime]()
)

// cutOf is nil if no value of the type has a time in it.
func cutOf(t reflect.Type) cutter {
	if c, ok := cutters.Load(t); ok {
		return c.(cutter)
	}
	c := newCutter(t, map[reflect.Type]bool{})
	cutters.Store(t, c)
	return c
}

// newCutter makes one; of a type that contains itself, what is inside is left as it is:
// schemas do, and have no times.
func newCutter(t reflect.Type, within map[reflect.Type]bool) cutter {
	switch t {
	case timeType:
		return func(v reflect.Value) {
			if p := v.Addr().Interface().(*metav1.Time); p.Nanosecond() != 0 {
				p.Time = p.Truncate(time.Second)
			}
		}
	case microType:
		return func(v reflect.Value) {
			if p := v.Addr().Interface().(*metav1.MicroTime); p.Nanosecond()%1000 != 0 {
				p.Time = p.Truncate(time.Microsecond)
			}
		}
	}
	if within[t] {
		return nil
	}
	within[t] = true
	defer delete(within, t)
	switch t.Kind() {
	case reflect.Pointer:
		if inner := newCutter(t.Elem(), within); inner != nil {
			return func(v reflect.Value) {
				if !v.IsNil() {
					inner(v.Elem())
				}
			}
		}
	case reflect.Slice, reflect.Array:
		if inner := newCutter(t.Elem(), within); inner != nil {
			return func(v reflect.Value) {
				for i := range v.Len() {
					inner(v.Index(i))
				}
			}
		}
	case reflect.Struct:
		type field struct {
			i   int
			cut cutter
		}
		var fields []field
		for i := range t.NumField() {
			if !t.Field(i).IsExported() {
				continue
			}
			if inner := newCutter(t.Field(i).Type, within); inner != nil {
				fields = append(fields, field{i, inner})
			}
		}
		if fields != nil {
			return func(v reflect.Value) {
				for _, f := range fields {
					f.cut(v.Field(f.i))
				}
			}
		}
	}
	return nil
}
