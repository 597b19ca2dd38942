package control

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
)

// What controllers read, out of what the sources keep.

func typed[T api.Object](objs []api.Object, keep func(api.Object) bool) []T {
	out := make([]T, 0, len(objs))
	for _, o := range objs {
		if keep == nil || keep(o) {
			out = append(out, o.(T))
		}
	}
	return out
}

// Get reads one object of a kind that the engine watches; false if there is none.
func Get[T api.Object](c *Cluster, k *api.Kind[T], ns, name string) (t T, ok bool) {
	o, ok := c.engine.source(k.Def()).get(ns, name)
	if !ok {
		return t, false
	}
	return o.(T), true
}

// All reads the objects of a watched kind in a namespace, or everywhere if ns
// is empty, in key order.
func All[T api.Object](c *Cluster, k *api.Kind[T], ns string) []T {
	return typed[T](c.engine.source(k.Def()).list(ns), nil)
}

// Having reads the objects of a watched kind whose declared field, such as
// spec.nodeName, has a value, in key order.
func Having[T api.Object](c *Cluster, k *api.Kind[T], field, value string) []T {
	return typed[T](c.engine.source(k.Def()).having(field, value), nil)
}

// Any says whether there is an object of a watched kind of which ok is true. ok is
// asked in no order, and asks nothing of the cluster itself.
func Any[T api.Object](c *Cluster, k *api.Kind[T], ok func(T) bool) bool {
	return c.engine.source(k.Def()).any(func(o api.Object) bool { return ok(o.(T)) })
}

// Owned reads the objects of a watched kind that the object of that UID controls.
func Owned[T api.Object](c *Cluster, k *api.Kind[T], uid types.UID) []T {
	return typed[T](c.engine.source(k.Def()).ownedBy(uid), func(o api.Object) bool {
		ref := metav1.GetControllerOfNoCopy(o)
		return ref != nil && ref.UID == uid
	})
}

// Loose reads the objects of a watched kind in a namespace that nothing controls.
func Loose[T api.Object](c *Cluster, k *api.Kind[T], ns string) []T {
	return typed[T](c.engine.source(k.Def()).uncontrolled(ns), nil)
}

func (s *source) get(ns, name string) (api.Object, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.objs[ns][name]
	return s.object(ns, name, e), ok
}

// list returns the objects of a namespace, or of all if ns is empty, in key order.
func (s *source) list(ns string) (out []api.Object) {
	s.mu.RLock()
	if ns != "" {
		for name, e := range s.objs[ns] {
			out = append(out, s.object(ns, name, e))
		}
	} else {
		for ns, names := range s.objs {
			for name, e := range names {
				out = append(out, s.object(ns, name, e))
			}
		}
	}
	s.mu.RUnlock()
	return sorted(out)
}

func (s *source) keyed(keys map[Key]bool) (out []api.Object) {
	for k := range keys {
		out = append(out, s.object(k.Namespace, k.Name, s.objs[k.Namespace][k.Name]))
	}
	return sorted(out)
}

func (s *source) ownedBy(uid types.UID) []api.Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keyed(s.owned[uid])
}

func (s *source) uncontrolled(ns string) []api.Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keyed(s.loose[ns])
}

// declared is the index of a declared field.
type declared string

// having returns the objects whose field has a value, out of an index that is made
// when it is first asked for.
func (s *source) having(field, value string) []api.Object {
	kind := s.kind.Load()
	of := kind.Fields[field]
	if of == nil {
		panic("control: " + field + " is no field of " + kind.Kind)
	}
	return s.indexed(declared(field), func(o api.Object) []string { return []string{of(o)} }, value)
}

// any says whether ok is true of one of the objects.
func (s *source) any(ok func(api.Object) bool) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for ns, names := range s.objs {
		for name, e := range names {
			if ok(s.object(ns, name, e)) {
				return true
			}
		}
	}
	return false
}

func sorted(objs []api.Object) []api.Object {
	slices.SortFunc(objs, func(a, b api.Object) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return objs
}
