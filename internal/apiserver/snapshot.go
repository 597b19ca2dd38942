package apiserver

import (
	"iter"
	"slices"
	"sync"

	"github.com/tidwall/btree"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// A Snapshot is the state of all resources at one revision, for good. Reading
// it takes no lock. Its objects are shared and read-only.
type Snapshot struct {
	s      *Server
	rev    int64
	leaves []*leaf
}

// A leaf holds the views of some tables. What has not changed is shared with the
// snapshot before, so that one costs little however many tables there are.
type leaf [leafSize]kept

const leafSize = 64

type kept struct {
	view
	of *rows
}

// slots are the places of tables in leaves.
type slots struct {
	free []int
	next int
}

// nothing is the view of a table that a snapshot does not have.
var nothing = &view{items: btree.NewMap[string, *api.Item](0), fields: map[string]*btree.Set[string]{}}

// open gives rows their place. The caller holds the lock, or nobody else knows the server yet.
func (s *Server) open(r *rows) {
	if n := len(s.slots.free); n > 0 {
		r.slot, s.slots.free = s.slots.free[n-1], s.slots.free[:n-1]
	} else {
		r.slot = s.slots.next
		s.slots.next++
	}
	s.soil(r)
}

// close takes it back.
func (s *Server) close(r *rows) {
	r.gone = true
	s.slots.free = append(s.slots.free, r.slot)
	s.soil(r)
}

// soil says that rows are not as the last snapshot has them.
func (s *Server) soil(r *rows) {
	if !r.dirty {
		r.dirty = true
		s.dirty = append(s.dirty, r)
	}
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
	n := &Snapshot{s: s, rev: s.rev}
	var before []*leaf
	if s.recent.last != nil {
		before = s.recent.last.leaves
	}
	n.leaves = slices.Grow(slices.Clone(before), 1)
	for len(n.leaves)*leafSize < s.slots.next {
		n.leaves = append(n.leaves, new(leaf))
	}
	for _, r := range s.dirty {
		r.dirty = false
		i := r.slot / leafSize
		if i < len(before) && n.leaves[i] == before[i] {
			p := *before[i]
			n.leaves[i] = &p
		}
		k := &n.leaves[i][r.slot%leafSize]
		switch {
		case !r.gone:
			*k = kept{r.copy(), r}
		case k.of == r:
			*k = kept{}
		}
	}
	clear(s.dirty)
	s.dirty = s.dirty[:0]
	s.recent.last = n
	s.snap.Store(n)
	return n
}

// view is what the snapshot has of a table.
func (n *Snapshot) view(t *table) *view {
	if i := t.slot / leafSize; i < len(n.leaves) {
		if k := &n.leaves[i][t.slot%leafSize]; k.of == t.rows {
			return &k.view
		}
	}
	return nothing
}

// each calls f with every item.
func (n *Snapshot) each(f func(*api.Item)) {
	for _, p := range n.leaves {
		for i := range p {
			if p[i].of != nil {
				p[i].items.Scan(func(_ string, item *api.Item) bool { f(item); return true })
			}
		}
	}
}

// Revision is the revision that the snapshot shows.
func (n *Snapshot) Revision() int64 { return n.rev }

// Item returns one object's state, or nil.
func (n *Snapshot) Item(gr schema.GroupResource, ns, name string) *api.Item {
	t := n.s.named(gr)
	if t == nil {
		return nil
	}
	item, _ := n.view(t).items.Get(t.key(ns, name))
	return item
}

// Items yields the objects of a resource in a namespace, or in all of them, in key order.
func (n *Snapshot) Items(gr schema.GroupResource, ns string) iter.Seq[*api.Item] {
	return func(yield func(*api.Item) bool) {
		if t := n.s.named(gr); t != nil {
			n.view(t).scan(ns, "", func(_ string, item *api.Item) bool { return yield(item) })
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
	if t := n.s.named(gr); t != nil {
		return n.view(t).items.Len()
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
