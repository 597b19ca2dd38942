package control

import (
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// Kinds tells which resources are stored now, one of each group and name, and
// gives a channel that is closed when that has changed; nil if it never does.
// The resource of a kind may be another after a change: of the same group,
// version and name it is the same kind, with another definition.
type Kinds func() (now []*api.Resource, changed <-chan struct{})

// Fixed is the Kinds of a list that never changes.
func Fixed(list ...*api.Resource) Kinds {
	return func() ([]*api.Resource, <-chan struct{}) { return list, nil }
}

// A sweeping is a [Sweep] at work: its kinds come and go.
type sweeping struct {
	cluster *Cluster
	sweep   *Sweep
	changed <-chan struct{}
	list    []*api.Resource
	have    map[schema.GroupVersionResource]bool // what is in it
}

// differing is what two lists hold between what they begin and what they end with alike.
func differing(a, b []*api.Resource) (inA, inB []*api.Resource) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

// refresh follows the kinds that a sweep has now, and no others. A kind whose
// definition alone is another is followed on as it was.
func (e *Engine) refresh(w *sweeping) {
	now, changed := w.sweep.Kinds()
	w.changed = changed
	before, after := differing(w.list, now)
	w.list = now
	want := make(map[schema.GroupVersionResource]bool, len(after))
	var begun, late, ended []*source
	e.mu.Lock()
	for _, r := range after {
		id := r.GroupVersionResource
		want[id] = true
		s := e.sources[id]
		switch {
		case s == nil:
			s = e.add(r)
			begun = append(begun, s)
		case !w.have[id]:
			late = append(late, s)
		}
		s.kind.Store(r)
		if !w.have[id] {
			w.have[id] = true
			e.join(s, subscriber{cluster: w.cluster, slim: w.sweep.Slim, bare: w.sweep.Slim && w.sweep.Bare, comes: changed != nil, keys: func(c *Cluster, old, new api.Object) []Key {
				return w.sweep.Changed(c, s.kind.Load(), old, new)
			}})
		}
	}
	for _, r := range before {
		id := r.GroupVersionResource
		if want[id] || !w.have[id] {
			continue
		}
		delete(w.have, id)
		if s := e.sources[id]; e.leave(s, w.cluster) {
			ended = append(ended, s)
		}
	}
	begin := e.begin
	e.mu.Unlock()
	for _, s := range ended {
		s.end()
	}
	for _, s := range late { // what another has made the engine know already
		for _, o := range s.list("") {
			e.enqueue(w.cluster, w.sweep.Changed(w.cluster, s.kind.Load(), nil, o))
		}
	}
	for _, s := range begun {
		if begin != nil {
			begin(s)
		}
	}
}

// add makes the source of a kind. The lock is held.
func (e *Engine) add(r *api.Resource) *source {
	s := newSource(r, &e.owners)
	s.number = e.numbers
	e.numbers++
	e.sources[r.GroupVersionResource] = s
	e.order = append(slices.Clip(e.order), s)
	return s
}

// join adds a subscriber. The lock is held.
func (e *Engine) join(s *source, sub subscriber) {
	s.subs = append(slices.Clip(s.subs), sub)
	slim := !slices.ContainsFunc(s.subs, func(u subscriber) bool { return !u.slim })
	comes := !slices.ContainsFunc(s.subs, func(u subscriber) bool { return !u.comes })
	s.slim.Store(slim)
	s.bare.Store(!slices.ContainsFunc(s.subs, func(u subscriber) bool { return !u.bare }))
	s.comes.Store(comes)
}

// leave takes a subscriber away, and says whether none is left: then the source
// is no more the engine's. The lock is held.
func (e *Engine) leave(s *source, c *Cluster) (last bool) {
	s.subs = slices.DeleteFunc(slices.Clone(s.subs), func(u subscriber) bool { return u.cluster == c })
	if len(s.subs) > 0 {
		return false
	}
	delete(e.sources, s.kind.Load().GroupVersionResource)
	e.order = slices.DeleteFunc(slices.Clone(e.order), func(o *source) bool { return o == s })
	return true
}

// watchKinds refreshes a sweep whenever its kinds change.
func (e *Engine) watchKinds(ctx context.Context, w *sweeping) {
	for {
		select {
		case <-w.changed:
			e.refresh(w)
		case <-ctx.Done():
			return
		}
	}
}

// find is the source of a kind, or nil.
func (e *Engine) find(r *api.Resource) *source {
	if r == nil {
		return nil
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.sources[r.GroupVersionResource]
}

// all are the sources now, in the order in which they came. The slice is not changed later.
func (e *Engine) all() []*source {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.order
}

func (e *Engine) subscribers(s *source) []subscriber {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return s.subs
}

// Find reads an object of any watched kind; false if there is none, or the kind
// is not watched now.
func (c *Cluster) Find(r *api.Resource, ns, name string) (api.Object, bool) {
	s := c.engine.find(r)
	if s == nil {
		return nil, false
	}
	return s.get(ns, name)
}

// patience is how long the controllers wait for the first look at kinds that
// come and go: one of those that cannot be read must not hold up all.
const patience = 2 * time.Second

// synced waits until every kind has been read once.
func (e *Engine) synced(ctx context.Context, all []*source) error {
	t := time.NewTimer(patience)
	defer t.Stop()
	for _, s := range all {
		late := t.C
		if !s.comes.Load() {
			late = nil
		}
		select {
		case <-s.synced:
		case <-late:
			t.Reset(0) // nor for any other
			e.cfg.Log.Warn("controllers begin without having read a kind", "kind", s.kind.Load().Resource)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
