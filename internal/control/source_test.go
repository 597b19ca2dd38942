package control

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// What is had by a field is what a look at every object finds, whatever has
// happened to them, before and after the index was made.
func TestHaving(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	s := newSource(core.Pod.Def(), &owners{})
	objs := map[string]*corev1.Pod{}
	check := func() {
		t.Helper()
		for i := range 4 {
			node := fmt.Sprint(i)
			var want, got []string
			for name, p := range objs {
				if p.Spec.NodeName == node {
					want = append(want, name)
				}
			}
			for _, o := range s.having("spec.nodeName", node) {
				got = append(got, o.GetName())
			}
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Fatalf("seed %d: on node %s are %v, not %v", seed, node, got, want)
			}
		}
	}
	for i := range 500 {
		name := fmt.Sprint("p", r.IntN(20))
		if old := objs[name]; old != nil && r.IntN(3) == 0 {
			s.drop(nil, old)
			delete(s.objs["d"], name)
			delete(objs, name)
		} else {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: fmt.Sprint(r.IntN(4))}}
			s.put(nil, p, int64(i+1))
			objs[name] = p
		}
		if i > 100 {
			check()
		}
	}
	if !s.any(func(o api.Object) bool { return o.GetName() == slices.Sorted(maps.Keys(objs))[0] }) || s.any(func(api.Object) bool { return false }) {
		t.Error("any does not ask of all")
	}
}

// A list that was on its way while the watch went on brings nothing back: nobody
// would say again that it is gone.
func TestLateList(t *testing.T) {
	s := newSource(core.Pod.Def(), &owners{})
	pod := func(name string, rev int) api.Object {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(name), ResourceVersion: fmt.Sprint(rev)}}
	}
	list := func(rev int64, objs ...api.Object) []change {
		return s.saw(api.Change[api.Object]{Reset: true, All: objs, Revision: rev})
	}
	has := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, o := range s.list("") {
			got = append(got, o.GetName())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v are there, want %v", when, got, want)
		}
	}
	list(1, pod("a", 1))
	s.saw(api.Change[api.Object]{Type: watch.Added, Object: pod("b", 2), Revision: 2})
	s.saw(api.Change[api.Object]{Type: watch.Deleted, Object: pod("a", 3), Revision: 3})
	has("by the watch", "b")
	if got := list(2, pod("a", 1), pod("b", 2)); len(got) > 0 {
		t.Errorf("a late list changes %v", got)
	}
	has("after a late list", "b")
	if got := list(3, pod("b", 2)); len(got) > 0 {
		t.Errorf("a list of what is known changes %v", got)
	}
	if got := list(5, pod("c", 4)); len(got) != 2 {
		t.Errorf("a newer list changes %v", got)
	}
	has("after a newer list", "c")
}

// What an index finds is what a look at every object finds, whatever has happened to them.
func TestIndex(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	s := newSource(core.Pod.Def(), &owners{})
	names := func(o api.Object) []string { return o.(*corev1.Pod).Finalizers }
	objs := map[string]*corev1.Pod{}
	for i := range 500 {
		name := fmt.Sprint("p", r.IntN(20))
		if old := objs[name]; old != nil && r.IntN(3) == 0 {
			s.drop(nil, old)
			delete(objs, name)
		} else {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(name)}}
			for range r.IntN(4) {
				p.Finalizers = append(p.Finalizers, fmt.Sprint(r.IntN(4)))
			}
			s.put(nil, p, int64(i+1))
			objs[name] = p
		}
		for v := range 4 {
			if i < 100 {
				break
			}
			value := fmt.Sprint(v)
			var want, got []string
			for name, p := range objs {
				if slices.Contains(p.Finalizers, value) {
					want = append(want, name)
				}
			}
			for _, o := range s.indexed("test", names, value) {
				got = append(got, o.GetName())
			}
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s have %v, not %v", seed, value, got, want)
			}
		}
	}
}
