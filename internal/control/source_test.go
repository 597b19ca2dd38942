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
