package sched

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Selectors are those of services and of controllers of pods. They say which
// pods belong together when a pod does not say it itself.
type Selectors struct {
	services map[string]map[string]labels.Set // by namespace and name
	owners   map[types.UID]labels.Selector
	changed  map[string]uint64 // how often, by namespace of services and UID of controllers
}

func newSelectors() Selectors {
	return Selectors{services: map[string]map[string]labels.Set{}, owners: map[types.UID]labels.Selector{}, changed: map[string]uint64{}}
}

// SetService takes in what a service selects; a service that selects nothing counts as none.
func (s *Selectors) SetService(namespace, name string, selector map[string]string) {
	if maps.Equal(s.services[namespace][name], selector) {
		return
	}
	s.changed[namespace]++
	if len(selector) == 0 {
		if delete(s.services[namespace], name); len(s.services[namespace]) == 0 {
			delete(s.services, namespace)
		}
		return
	}
	if s.services[namespace] == nil {
		s.services[namespace] = map[string]labels.Set{}
	}
	s.services[namespace][name] = selector
}

// SetOwner takes in what a controller of pods selects; nil forgets it.
func (s *Selectors) SetOwner(uid types.UID, selector *metav1.LabelSelector) {
	if selector == nil {
		delete(s.owners, uid)
		delete(s.changed, string(uid))
		return
	}
	sel, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || s.owners[uid] != nil && s.owners[uid].String() == sel.String() {
		return
	}
	s.owners[uid] = sel
	s.changed[string(uid)]++
}

// within says whether a set of labels has all those of another.
func within(want, have map[string]string) bool {
	for key, v := range want {
		if got, ok := have[key]; !ok || got != v {
			return false
		}
	}
	return true
}

// version is another one when what [Selectors.Of] says of a pod may be.
func (s *Selectors) version(p *Pod) [2]uint64 {
	v := [2]uint64{s.changed[p.Namespace]}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		v[1] = s.changed[string(ref.UID)]
	}
	return v
}

// Of returns what selects the pods that belong together with p: whatever its
// services and its controller have in common. It is nil if there are none.
func (s *Selectors) Of(p *Pod) labels.Selector {
	all := labels.Set{}
	for _, sel := range s.services[p.Namespace] {
		if within(sel, p.Labels) {
			maps.Copy(all, sel)
		}
	}
	out := labels.NewSelector()
	if len(all) > 0 {
		out = labels.SelectorFromSet(all)
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		if own := s.owners[ref.UID]; own != nil {
			reqs, _ := own.Requirements()
			out = out.Add(reqs...)
		}
	}
	if out.Empty() {
		return nil
	}
	return out
}
