package control

import (
	"proa/internal/api"
)

// An Index finds the objects of a watched kind by values that they have, as
// [Having] does by declared fields: a look costs what it finds. It is made when it
// is first asked, and kept in step with every change and own write.
type Index[T api.Object] struct {
	Kind *api.Kind[T]
	Of   func(T) []string // the values of an object, each once; it looks at nothing else
}

// Find reads the objects that have a value, in key order.
func (x *Index[T]) Find(c *Cluster, value string) []T {
	return typed[T](c.engine.source(x.Kind.Def()).indexed(x, x.values, value), nil)
}

// values is Of of any object.
func (x *Index[T]) values(o api.Object) []string { return x.Of(o.(T)) }

// A valueIndex has the objects by each of their values.
type valueIndex struct {
	of func(api.Object) []string
	by map[string]map[Key]bool
}

func (v valueIndex) add(o api.Object, key Key) {
	for _, value := range v.of(o) {
		addTo(v.by, value, key)
	}
}

func (v valueIndex) remove(o api.Object, key Key) {
	for _, value := range v.of(o) {
		removeFrom(v.by, value, key)
	}
}

// indexed returns the objects that have a value in the index of that name.
func (s *source) indexed(id any, of func(api.Object) []string, value string) []api.Object {
	s.mu.RLock()
	v, ok := s.indexes[id]
	if ok {
		defer s.mu.RUnlock()
		return s.keyed(v.by[value])
	}
	s.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok = s.indexes[id]; !ok {
		if s.slim.Load() {
			panic("control: too little is kept of " + s.kind.Load().Kind + " for an index")
		}
		v = valueIndex{of, map[string]map[Key]bool{}}
		for ns, names := range s.objs {
			for name, e := range names {
				v.add(s.object(ns, name, e), Key{nil, ns, name})
			}
		}
		if s.indexes == nil {
			s.indexes = map[any]valueIndex{}
		}
		s.indexes[id] = v
	}
	return s.keyed(v.by[value])
}
