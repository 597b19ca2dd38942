package apiserver

import (
	"iter"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// A Snapshot is the state of all resources at one revision, for good. Reading
// it takes no lock. Its objects are shared and read-only.
type Snapshot struct {
	s     *Server
	rev   int64
	views []view
}

// Snapshot returns the present state. It is cheap: what has not changed since
// the last one is shared with it.
func (s *Server) Snapshot() *Snapshot {
	if n := s.snap.Load(); n != nil {
		return n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot()
}

// snapshot is Snapshot for those who hold the lock.
func (s *Server) snapshot() *Snapshot {
	if n := s.snap.Load(); n != nil {
		return n
	}
	n := &Snapshot{s: s, rev: s.rev, views: make([]view, len(s.tables))}
	last := s.recent.last
	for i, t := range s.tables {
		if t.dirty || last == nil {
			n.views[i] = t.copy()
			t.dirty = false
		} else {
			n.views[i] = last.views[i]
		}
	}
	s.recent.last = n
	s.snap.Store(n)
	return n
}

// Revision is the revision that the snapshot shows.
func (n *Snapshot) Revision() int64 { return n.rev }

// Item returns one object's state, or nil.
func (n *Snapshot) Item(gr schema.GroupResource, ns, name string) *api.Item {
	t := n.s.byName[gr]
	if t == nil {
		return nil
	}
	item, _ := n.views[t.slot].items.Get(t.key(ns, name))
	return item
}

// Items yields the objects of a resource in a namespace, or in all of them, in key order.
func (n *Snapshot) Items(gr schema.GroupResource, ns string) iter.Seq[*api.Item] {
	return func(yield func(*api.Item) bool) {
		if t := n.s.byName[gr]; t != nil {
			n.views[t.slot].scan(ns, "", func(_ string, item *api.Item) bool { return yield(item) })
		}
	}
}

// Get returns one object, or nil.
func (n *Snapshot) Get(gr schema.GroupResource, ns, name string) api.Object {
	if item := n.Item(gr, ns, name); item != nil {
		return item.Object()
	}
	return nil
}

// Objects is Items with the objects.
func (n *Snapshot) Objects(gr schema.GroupResource, ns string) iter.Seq[api.Object] {
	return func(yield func(api.Object) bool) {
		for item := range n.Items(gr, ns) {
			if !yield(item.Object()) {
				return
			}
		}
	}
}

// Len is the number of a resource's objects.
func (n *Snapshot) Len(gr schema.GroupResource) int {
	if t := n.s.byName[gr]; t != nil {
		return n.views[t.slot].items.Len()
	}
	return 0
}

// recent remembers the last snapshot, and the few that limited lists are being
// read from. The server's lock guards last.
type recent struct {
	last *Snapshot

	mu    sync.Mutex
	lists []*Snapshot // ascending revisions
}

const keptLists = 32

func (h *recent) keep(n *Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, have := range h.lists {
		if have.rev == n.rev {
			return
		}
	}
	if len(h.lists) == keptLists {
		h.lists = append(h.lists[:0:0], h.lists[1:]...)
	}
	h.lists = append(h.lists, n)
}

func (h *recent) at(rev int64) *Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.lists {
		if n.rev == rev {
			return n
		}
	}
	return nil
}

// forget drops the lists below a revision.
func (h *recent) forget(below int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var left []*Snapshot
	for _, n := range h.lists {
		if n.rev >= below {
			left = append(left, n)
		}
	}
	h.lists = left
}
