package control

import (
	"context"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
)

// A source is what the engine knows of one kind: what the watch said, and on
// top of it the engine's own writes that the watch has not passed yet. For one
// object the higher revision wins, and a deleted UID never comes back.
type source struct {
	kind   atomic.Pointer[api.Resource]
	number int
	subs   []subscriber  // of the engine's lock; replaced, never changed
	slim   atomic.Bool   // keep only metadata
	bare   atomic.Bool   // with slim: and look at nothing else
	comes  atomic.Bool   // the kind may go
	synced chan struct{} // closed when whom the first reset concerns is in the queue
	first  sync.Once
	doubts atomic.Int64 // own writes that failed in a way that says not whether they happened
	sure   atomic.Int64 // how many of these everything was read after
	owners *owners      // of all sources

	mu      sync.RWMutex
	ended   bool
	cancel  context.CancelFunc // ends the watch; nil if there is none
	rev     int64              // the watch is complete up to here
	started bool
	objs    map[string]map[string]entry // by namespace and name
	owned   map[types.UID]map[Key]bool  // by every owner's UID
	loose   map[string]map[Key]bool     // those that nothing controls, by namespace
	indexes map[any]valueIndex          // by each [Index], and each declared field, that somebody has asked
	dead    map[types.UID]bool          // own deletes that the watch has not shown yet
}

type subscriber struct {
	cluster *Cluster
	slim    bool // it reads metadata alone
	bare    bool // it is told of metadata alone
	comes   bool // it may leave
	keys    func(c *Cluster, old, new api.Object) []Key
}

// An entry is what is kept of an object. Of a slim one that has no owners, no
// finalizers and no deletion, which is nearly all of them, that is its UID alone.
type entry struct {
	obj api.Object // nil: see uid
	rev int64
	uid uuid.UUID
}

// entryOf keeps o, or little of it.
func (s *source) entryOf(o api.Object, rev int64) entry {
	if !s.slim.Load() {
		return entry{obj: o, rev: rev}
	}
	if o.GetDeletionTimestamp() == nil && len(o.GetFinalizers()) == 0 && len(o.GetOwnerReferences()) == 0 {
		if uid, err := uuid.Parse(string(o.GetUID())); err == nil && uid.String() == string(o.GetUID()) {
			return entry{rev: rev, uid: uid}
		}
	}
	if p, ok := o.(*metav1.PartialObjectMetadata); ok {
		return entry{obj: p, rev: rev}
	}
	return entry{obj: api.BareOf(s.kind.Load(), o), rev: rev}
}

// object is what an entry is of.
func (s *source) object(ns, name string, e entry) api.Object {
	if e.obj != nil || e.rev == 0 {
		return e.obj
	}
	p := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: ns, UID: types.UID(e.uid.String()), ResourceVersion: strconv.FormatInt(e.rev, 10)}}
	p.SetGroupVersionKind(s.kind.Load().GVK())
	return p
}

// id is an entry's UID.
func (e entry) id() types.UID {
	if e.obj != nil {
		return e.obj.GetUID()
	}
	return types.UID(e.uid.String())
}

// A change is one step in what a source knows. The old state is as it was kept.
type change struct{ old, new api.Object }

func newSource(r *api.Resource, o *owners) *source {
	s := &source{synced: make(chan struct{}), owners: o, objs: map[string]map[string]entry{},
		owned: map[types.UID]map[Key]bool{}, loose: map[string]map[Key]bool{}, dead: map[types.UID]bool{}}
	s.kind.Store(r)
	return s
}

func (s *source) client() *api.Kind[api.Object] { return api.Untyped(s.kind.Load()) }

// begin notes how to end the watch.
func (s *source) begin(cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel = cancel; s.ended {
		cancel()
	}
}

// end forgets everything: the kind is gone.
func (s *source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.cancel != nil {
		s.cancel()
	}
	for uid := range s.owned {
		s.owners.remove(uid, s)
	}
	s.objs, s.owned, s.loose, s.indexes = nil, nil, nil, nil
}

func (s *source) gone() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ended
}

func revision(o api.Object) int64 {
	n, _ := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	return n
}

// wrote takes in the result of an own write.
func (s *source) wrote(o api.Object) (out []change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev := revision(o); rev > s.rev && !s.ended {
		out = s.put(out, o, rev)
	}
	return out
}

// deleted takes in that an object is gone by an own write.
func (s *source) deleted(ns, name string, uid types.UID) (out []change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.objs[ns][name]
	if !ok || e.id() != uid {
		return nil
	}
	s.dead[uid] = true
	return s.drop(out, s.object(ns, name, e))
}

// saw takes in a step of the watch.
func (s *source) saw(c api.Change[api.Object]) (out []change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	if c.Reset {
		if s.started && c.Revision < s.rev {
			return nil // a list that the watch has overtaken: what was deleted since would come back, for good
		}
		return s.reset(c.All, c.Revision)
	}
	s.rev = max(s.rev, c.Revision)
	switch c.Type {
	case watch.Added, watch.Modified:
		out = s.put(out, c.Object, revision(c.Object))
	case watch.Deleted:
		delete(s.dead, c.Object.GetUID())
		ns, name := c.Object.GetNamespace(), c.Object.GetName()
		if e, ok := s.objs[ns][name]; ok && e.id() == c.Object.GetUID() {
			out = s.drop(out, s.object(ns, name, e))
		}
	}
	return out
}

// reset replaces everything but own writes that are newer.
func (s *source) reset(all []api.Object, rev int64) (out []change) {
	listed := make(map[types.UID]bool, len(all))
	for _, o := range all {
		listed[o.GetUID()] = true
	}
	for ns, names := range s.objs {
		for name, e := range names {
			if e.rev <= rev && !listed[e.id()] {
				out = s.drop(out, s.object(ns, name, e))
			}
		}
	}
	for uid := range s.dead {
		if !listed[uid] {
			delete(s.dead, uid)
		}
	}
	for _, o := range all {
		out = s.put(out, o, revision(o))
	}
	s.begun(rev)
	return out
}

func (s *source) begun(rev int64) {
	s.rev = max(s.rev, rev)
	s.started = true
}

// told says that whom the first reset concerns is in the queue: only then work may
// begin, or what is done and named again by another change would be done twice.
func (s *source) told() { s.first.Do(func() { close(s.synced) }) }

// empty says whether nothing is known yet, as before the first reset.
func (s *source) empty() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.objs) == 0 && !s.started
}

// read makes objects of items; bare ones if nobody looks at more.
func (s *source) read(items []*api.Item) ([]api.Object, error) {
	out := make([]api.Object, len(items))
	for i, item := range items {
		if !s.bare.Load() {
			if i%atOnce == 0 {
				runtime.Gosched() // requests are answered meanwhile
			}
			if err := item.Check(); err != nil {
				return nil, err
			}
			out[i] = item.Object()
			continue
		}
		p, err := item.Bare()
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

// came takes in objects of the first reset; complete says that there are no more.
func (s *source) came(objs []api.Object) (out []change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	for _, o := range objs {
		out = s.put(out, o, revision(o))
	}
	return out
}

func (s *source) complete(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.begun(rev)
	}
}

func (s *source) put(out []change, o api.Object, rev int64) []change {
	if s.dead[o.GetUID()] {
		return out
	}
	ns, name := o.GetNamespace(), o.GetName()
	old, ok := s.objs[ns][name]
	if ok && old.rev >= rev {
		return out
	}
	was := s.object(ns, name, old)
	if ok {
		s.unindex(was)
	}
	if s.objs[ns] == nil {
		s.objs[strings.Clone(ns)] = map[string]entry{}
	}
	if s.slim.Load() {
		name = strings.Clone(name) // it may be part of what is not kept
	}
	e := s.entryOf(o, rev)
	s.objs[ns][name] = e
	if e.obj != nil {
		s.index(e.obj)
	}
	return append(out, change{was, o})
}

func (s *source) drop(out []change, o api.Object) []change {
	s.unindex(o)
	names := s.objs[o.GetNamespace()]
	delete(names, o.GetName())
	if len(names) == 0 {
		delete(s.objs, o.GetNamespace())
	}
	return append(out, change{o, nil})
}

func (s *source) index(o api.Object) {
	key, controlled := KeyOf(o), false
	for _, ref := range o.GetOwnerReferences() {
		if s.owned[ref.UID] == nil {
			s.owners.add(ref.UID, s)
		}
		addTo(s.owned, ref.UID, key)
		controlled = controlled || ref.Controller != nil && *ref.Controller
	}
	if !controlled && !s.slim.Load() { // of slim ones nobody asks
		addTo(s.loose, o.GetNamespace(), key)
	}
	for _, v := range s.indexes {
		v.add(o, key)
	}
}

func (s *source) unindex(o api.Object) {
	key := KeyOf(o)
	for _, ref := range o.GetOwnerReferences() {
		if removeFrom(s.owned, ref.UID, key); s.owned[ref.UID] == nil {
			s.owners.remove(ref.UID, s)
		}
	}
	removeFrom(s.loose, o.GetNamespace(), key)
	for _, v := range s.indexes {
		v.remove(o, key)
	}
}

func addTo[K comparable](m map[K]map[Key]bool, k K, v Key) {
	if m[k] == nil {
		m[k] = map[Key]bool{}
	}
	m[k][v] = true
}

func removeFrom[K comparable](m map[K]map[Key]bool, k K, v Key) {
	if set := m[k]; set != nil {
		delete(set, v)
		if len(set) == 0 {
			delete(m, k)
		}
	}
}

// sync lists the kind and takes in the result.
func (s *source) sync(ctx context.Context, h api.Handler) ([]change, error) {
	resp, err := h.Handle(ctx, &api.Request{Verb: api.List, Resource: s.kind.Load()})
	if err != nil {
		return nil, err
	}
	all := make([]api.Object, len(resp.List.Items))
	for i, item := range resp.List.Items {
		all[i] = item.Object()
	}
	return s.saw(api.Change[api.Object]{Reset: true, All: all, Revision: resp.List.Revision}), nil
}
