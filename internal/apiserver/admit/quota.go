package admit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/quota"
)

// resourceQuota keeps each namespace within its quotas. What is used is what the
// state holds and what writes under way are about to add, in the order in which
// they came: two writes that only fit one by one do not both pass. Nothing is
// kept of it, so nothing can go wrong with a crash.
//
//	Reserve: the write takes its place in the order ──> Validate: does it fit?
func resourceQuota() *Step {
	q := &quotas{by: map[string]map[string]*corev1.ResourceQuota{}, open: map[string][]*underway{}}
	return &Step{
		Name: "ResourceQuota", For: []string{"*"}, Verbs: []api.Verb{api.Create, api.Update}, Subs: []string{"resize"},
		Reserve:  q.reserve,
		Keeps:    true,
		Validate: q.validate,
		Follow:   map[schema.GroupResource]func(old, new api.Object){corev1.Resource("resourcequotas"): q.follow},
	}
}

type quotas struct {
	mu   sync.RWMutex
	by   map[string]map[string]*corev1.ResourceQuota // by namespace and name
	open map[string][]*underway                      // writes by namespace, in the order in which they came
}

// An underway is a write that may add to what is used.
type underway struct {
	of  *Attributes
	gr  schema.GroupResource
	uid types.UID
	obj api.Object
}

func (q *quotas) follow(old, new api.Object) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if old != nil {
		delete(q.by[old.GetNamespace()], old.GetName())
		if len(q.by[old.GetNamespace()]) == 0 {
			delete(q.by, old.GetNamespace())
		}
	}
	if new != nil {
		ns := new.GetNamespace()
		if q.by[ns] == nil {
			q.by[ns] = map[string]*corev1.ResourceQuota{}
		}
		q.by[ns][new.GetName()] = new.(*corev1.ResourceQuota)
	}
}

// of are the quotas of a namespace, by name.
func (q *quotas) of(ns string) (out []*corev1.ResourceQuota) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	for _, r := range q.by[ns] {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *corev1.ResourceQuota) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (q *quotas) reserve(_ context.Context, a *Attributes) (func(bool), error) {
	ns := a.New.GetNamespace()
	q.mu.RLock()
	none := ns == "" || len(q.by[ns]) == 0
	q.mu.RUnlock()
	if none || len(more(a)) == 0 {
		return nil, nil
	}
	w := &underway{a, a.Resource.GroupResource(), a.New.GetUID(), a.New}
	q.mu.Lock()
	q.open[ns] = append(q.open[ns], w)
	q.mu.Unlock()
	return func(bool) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.open[ns] = slices.DeleteFunc(slices.Clone(q.open[ns]), func(o *underway) bool { return o == w })
		if len(q.open[ns]) == 0 {
			delete(q.open, ns)
		}
	}, nil
}

// more is what a write uses on top of what the object used before.
func more(a *Attributes) corev1.ResourceList {
	gr, now := a.Resource.GroupResource(), time.Now()
	use := quota.Usage(gr, a.New, now)
	if a.Old == nil {
		return use
	}
	for name, was := range quota.Usage(gr, a.Old, now) {
		is, ok := use[name]
		if is.Sub(was); !ok || is.Sign() <= 0 {
			delete(use, name)
		} else {
			use[name] = is
		}
	}
	return use
}

// before are the writes of a kind that came before this one, by object. A write
// to a subresource has no place in the order; it comes after all.
func (q *quotas) before(a *Attributes) (out map[types.UID]api.Object, found bool) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	out = map[types.UID]api.Object{}
	for _, w := range q.open[a.New.GetNamespace()] {
		if w.of == a {
			return out, true
		}
		if w.gr == a.Resource.GroupResource() {
			out[w.uid] = w.obj
		}
	}
	return out, a.Sub != ""
}

func (q *quotas) validate(_ context.Context, a *Attributes) error {
	others, found := q.before(a)
	if !found {
		return nil
	}
	add := more(a)
	if len(add) == 0 {
		return nil
	}
	for _, r := range q.of(a.New.GetNamespace()) {
		if !quota.Covers(r, a.New) {
			continue
		}
		if p, ok := a.New.(*corev1.Pod); ok && a.Verb == api.Create {
			if text := quota.Unsaid(r, p); text != "" {
				return forbidden(a, fmt.Errorf("failed quota: %s: must specify %s", r.Name, text))
			}
		}
		if err := fits(a, r, add, others); err != nil {
			return err
		}
	}
	return nil
}

// fits checks a write against one quota.
func fits(a *Attributes, r *corev1.ResourceQuota, add corev1.ResourceList, others map[types.UID]api.Object) error {
	bound := false
	for name := range add {
		_, ok := r.Spec.Hard[name]
		bound = bound || ok
	}
	if !bound {
		return nil
	}
	used, now := corev1.ResourceList{}, time.Now()
	count := func(o api.Object) {
		if quota.Covers(r, o) {
			quota.Add(used, quota.Usage(a.Resource.GroupResource(), o, now))
		}
	}
	for _, o := range others {
		count(o)
	}
	for o := range a.State.Objects(a.Resource.GroupResource(), a.New.GetNamespace()) {
		if others[o.GetUID()] == nil {
			count(o)
		}
	}
	var over []string
	for name, n := range add {
		hard, ok := r.Spec.Hard[name]
		sum := used[name].DeepCopy()
		if sum.Add(n); ok && sum.Cmp(hard) > 0 {
			over = append(over, string(name))
		}
	}
	if len(over) == 0 {
		return nil
	}
	slices.Sort(over)
	show := func(l corev1.ResourceList) string {
		var out []string
		for _, name := range over {
			v := l[corev1.ResourceName(name)]
			out = append(out, name+"="+v.String())
		}
		return strings.Join(out, ",")
	}
	return forbidden(a, fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", r.Name, show(add), show(used), show(r.Spec.Hard)))
}
