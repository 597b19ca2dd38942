package controllers

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/control"
)

// A catalog finds kinds among those that are stored now.
type catalog struct {
	kinds control.Kinds
	keep  func(*api.Resource) bool // which of them; all if nil

	mu      sync.Mutex
	read    bool
	changed <-chan struct{}
	list    []*api.Resource
	kept    map[*api.Resource]bool // what keep says of those now
	byKind  map[schema.GroupKind]*api.Resource
	byName  map[schema.GroupResource]*api.Resource
}

// fresh reads the kinds again if they have changed. The lock is held.
func (c *catalog) fresh() {
	select {
	case <-c.changed:
	default:
		if c.read {
			return
		}
	}
	now, changed := c.kinds()
	c.read, c.changed, c.byKind, c.byName = true, changed, nil, nil
	if c.list = now; c.keep == nil {
		return
	}
	// What is known of a kind stays: with thousands, looking at each takes longest.
	before := c.kept
	c.list, c.kept = make([]*api.Resource, 0, len(now)), make(map[*api.Resource]bool, len(now))
	for _, r := range now {
		keep, known := before[r]
		if !known {
			keep = c.keep(r)
		}
		if c.kept[r] = keep; keep {
			c.list = append(c.list, r)
		}
	}
}

// index makes the kinds easy to find. The lock is held.
func (c *catalog) index() {
	if c.fresh(); c.byKind != nil {
		return
	}
	c.byKind, c.byName = map[schema.GroupKind]*api.Resource{}, map[schema.GroupResource]*api.Resource{}
	for _, r := range c.list {
		if id := r.GroupKind(); c.byKind[id] == nil {
			c.byKind[id] = r
		}
		if id := r.GroupResource(); c.byName[id] == nil {
			c.byName[id] = r
		}
	}
}

// all lists the kinds; it is a [control.Kinds].
func (c *catalog) all() ([]*api.Resource, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh()
	return c.list, c.changed
}

// ofKind is the resource of a group and kind in whatever version, or nil.
func (c *catalog) ofKind(group, kind string) *api.Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index()
	return c.byKind[schema.GroupKind{Group: group, Kind: kind}]
}

// named is the resource of a group and plural name, or nil.
func (c *catalog) named(group, resource string) *api.Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index()
	return c.byName[schema.GroupResource{Group: group, Resource: resource}]
}
