package controllers

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/kinds/policy"
)

// disruption knows which budgets and pods have to do with each other, so that
// neither a change nor a count looks at all of a namespace.
type disruption struct {
	kinds catalog

	mu     sync.Mutex
	guards map[string]map[string]*guard // by the budgets' namespace and name
}

// A guard is one budget's view of the pods.
type guard struct {
	uid        types.UID
	generation int64
	selector   labels.Selector
	invalid    error           // in place of a selector
	pods       map[string]bool // names of all pods that it is about, and of some that it was; nil: nobody has looked
}

func (g *guard) about(p *corev1.Pod) bool {
	return g.invalid == nil && g.selector.Matches(labels.Set(p.Labels))
}

// guard brings what is known of a budget up to date; nil if there is none. The
// caller holds the lock. Changes may be told out of order, so it looks itself.
func (d *disruption) guard(c *control.Cluster, ns, name string) *guard {
	b, ok := control.Get(c, policy.PodDisruptionBudget, ns, name)
	if !ok {
		delete(d.guards[ns], name)
		if len(d.guards[ns]) == 0 {
			delete(d.guards, ns)
		}
		return nil
	}
	g := d.guards[ns][name]
	if g == nil || g.uid != b.UID || g.generation != b.Generation {
		g = &guard{uid: b.UID, generation: b.Generation}
		g.selector, g.invalid = metav1.LabelSelectorAsSelector(b.Spec.Selector) // none: no pod; an empty one: every pod
		if d.guards[ns] == nil {
			d.guards[ns] = map[string]*guard{}
		}
		d.guards[ns][name] = g
	}
	return g
}

// pods are those that a budget is about, by name.
func (d *disruption) pods(c *control.Cluster, b *policyv1.PodDisruptionBudget) (out []*corev1.Pod, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.guard(c, b.Namespace, b.Name)
	if g == nil || g.invalid != nil {
		if g != nil {
			err = g.invalid
		}
		return nil, err
	}
	if g.pods == nil {
		g.pods = map[string]bool{}
		for _, p := range control.All(c, core.Pod, b.Namespace) {
			if g.about(p) {
				g.pods[p.Name] = true
			}
		}
	}
	for name := range g.pods {
		if p, ok := control.Get(c, core.Pod, b.Namespace, name); ok && g.about(p) {
			out = append(out, p)
		} else {
			delete(g.pods, name)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// changed returns the keys of the budgets that a change concerns, and that of a
// pod whose condition may have to be taken back.
func (d *disruption) changed(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch kind {
	case policy.PodDisruptionBudget.Def():
		o := new
		if o == nil {
			o = old
		}
		if d.guard(c, o.GetNamespace(), o.GetName()) != nil {
			keys = append(keys, control.KeyOf(o))
		}
		return keys
	case core.Pod.Def():
		was, _ := old.(*corev1.Pod)
		is, _ := new.(*corev1.Pod)
		if is != nil && targeted(is) {
			keys = append(keys, control.Key{Kind: kind, Namespace: is.Namespace, Name: is.Name})
		}
		return append(keys, d.podChanged(was, is)...)
	}
	if old != nil && new != nil && saysOf(kind, old) == saysOf(kind, new) {
		return nil
	}
	if new != nil {
		return d.guarding(podsUnder(c, new))
	}
	return d.guarding(podsUnder(c, old))
}

// podChanged returns the keys of the budgets that count a pod, or did, if the
// change makes a difference to them.
func (d *disruption) podChanged(was, is *corev1.Pod) []control.Key {
	if was != nil && is != nil && counts(was) == counts(is) && maps.Equal(was.Labels, is.Labels) {
		return nil
	}
	keys := map[control.Key]bool{}
	for i, p := range []*corev1.Pod{was, is} {
		if p == nil {
			continue
		}
		for name, g := range d.guards[p.Namespace] {
			if !g.about(p) {
				continue
			}
			keys[control.Key{Namespace: p.Namespace, Name: name}] = true
			if i == 1 && g.pods != nil {
				g.pods[p.Name] = true
			}
		}
	}
	return sortedKeys(keys)
}

// counts is all that a budget's status takes from a pod, but for its labels.
func counts(p *corev1.Pod) (s struct {
	uid, by         types.UID
	ready, deleting bool
}) {
	s.uid, s.ready, s.deleting = p.UID, core.PodReady(p), p.DeletionTimestamp != nil
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		s.by = ref.UID
	}
	return s
}

// saysOf is all that a budget's status takes from a controller of pods.
func saysOf(r *api.Resource, o api.Object) (s struct {
	uid, by  types.UID
	replicas int32
}) {
	s.uid = o.GetUID()
	if rs, ok := o.(*appsv1.ReplicaSet); ok {
		if ref := deploymentRef(rs); ref != nil {
			s.by = ref.UID // it has the word
			return s
		}
	}
	s.replicas = *r.Scale.Want(o)
	return s
}

// podsUnder are the pods that o controls, or the replica sets that it controls.
func podsUnder(c *control.Cluster, o api.Object) []*corev1.Pod {
	pods := control.Owned(c, core.Pod, o.GetUID())
	if _, ok := o.(*appsv1.Deployment); ok {
		for _, rs := range control.Owned(c, apps.ReplicaSet, o.GetUID()) {
			pods = append(pods, control.Owned(c, core.Pod, rs.UID)...)
		}
	}
	return pods
}

// guarding returns the keys of all budgets that are about one of the pods.
func (d *disruption) guarding(pods []*corev1.Pod) []control.Key {
	keys := map[control.Key]bool{}
	for _, p := range pods {
		for name, g := range d.guards[p.Namespace] {
			if key := (control.Key{Namespace: p.Namespace, Name: name}); !keys[key] && g.about(p) {
				keys[key] = true
			}
		}
	}
	return sortedKeys(keys)
}
