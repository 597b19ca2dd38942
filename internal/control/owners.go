package control

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
)

// owners says in which sources there are dependents of an owner.
type owners struct {
	mu sync.RWMutex
	by map[types.UID]map[*source]bool
}

func (o *owners) add(uid types.UID, s *source) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.by == nil {
		o.by = map[types.UID]map[*source]bool{}
	}
	if o.by[uid] == nil {
		o.by[uid] = map[*source]bool{}
	}
	o.by[uid][s] = true
}

func (o *owners) remove(uid types.UID, s *source) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.by[uid], s)
	if len(o.by[uid]) == 0 {
		delete(o.by, uid)
	}
}

// sources are those with dependents of the UID, in the order in which they came.
func (o *owners) sources(uid types.UID) (out []*source) {
	o.mu.RLock()
	for s := range o.by[uid] {
		out = append(out, s)
	}
	o.mu.RUnlock()
	slices.SortFunc(out, func(a, b *source) int { return a.number - b.number })
	return out
}

// A Dependent is an object that names another as its owner.
type Dependent struct {
	Kind   *api.Resource
	Object api.Object
}

// Dependents reads the objects of all kinds of a sweep that name the UID as an owner.
func (c *Cluster) Dependents(uid types.UID) (out []Dependent) {
	for _, s := range c.engine.owners.sources(uid) {
		if !slices.ContainsFunc(c.engine.subscribers(s), func(u subscriber) bool { return u.cluster == c }) {
			continue
		}
		kind := s.kind.Load()
		for _, o := range s.ownedBy(uid) {
			out = append(out, Dependent{kind, o})
		}
	}
	return out
}
