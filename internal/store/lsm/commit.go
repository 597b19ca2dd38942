package lsm

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
	"proa/internal/store/expiry"
	"proa/internal/store/planted"
)

// Bounds of one group.
const (
	maxGroupOps   = 1024
	maxGroupBytes = 2 << 20
)

// A request is a write on its way through the committer.
type request struct {
	op      store.Op
	advance store.Revision // if positive: jump there instead
	expiry  bool           // not subject to the reserve

	rev  store.Revision
	err  error
	done chan struct{}
}

// Write is store.Engine's.
func (e *Engine) Write(ctx context.Context, op store.Op) (store.Revision, error) {
	if err := op.Check(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	r := &request{op: op, done: make(chan struct{})}
	if err := e.submit(ctx, r); err != nil {
		return 0, err
	}
	return r.rev, r.err
}

// submit hands requests to the committer and waits for all of them. Its error
// says that there is no answer.
func (e *Engine) submit(ctx context.Context, rs ...*request) error {
	var s *session
	err := e.use(func(ses *session) error {
		s = ses
		return s.enqueue(rs)
	})
	if err != nil {
		return err
	}
	for _, r := range rs {
		select {
		case <-r.done:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.guard.trippedC:
			err = s.poisoned()
		}
		select {
		case <-r.done:
		default:
			return err
		}
	}
	return nil
}

func (s *session) poisoned() error {
	return fmt.Errorf("%w: %w", store.ErrPoisoned, s.guard.tripped())
}

func (s *session) enqueue(rs []*request) error {
	if s.guard.tripped() != nil {
		return s.poisoned()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return store.ErrClosed
	}
	s.queue = append(s.queue, rs...)
	s.arrived.Signal()
	return nil
}

// run is the committer: it takes everything that has arrived while the group
// before was synced, and makes that the next group.
func (s *session) run() {
	defer close(s.done)
	before := 0
	for {
		s.gather(before)
		group := s.take()
		if group == nil {
			return
		}
		before = len(group)
		s.commit(group)
	}
}

// gather waits for a write, and then lets others come along that are as good as
// there: requests that wait for the processor, and the writers that were just
// answered, so that they do not fall apart into two groups that wait for each
// other's sync. It gives up the processor, never time.
func (s *session) gather(before int) {
	last := s.arrive()
	for range 8 {
		runtime.Gosched()
		s.mu.Lock()
		n := len(s.queue)
		s.mu.Unlock()
		if n == last || before > 1 && n >= before {
			return
		}
		last = n
	}
}

// arrive waits for a request, or the end, and returns how many there are.
func (s *session) arrive() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.ending {
		s.arrived.Wait()
	}
	return len(s.queue)
}

// take waits for requests and returns the next group, nil at the end. A jump
// is a group of its own.
func (s *session) take() []*request {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 {
		if s.ending {
			return nil
		}
		s.arrived.Wait()
	}
	n, bytes := 0, 0
	for n < len(s.queue) && n < maxGroupOps && bytes < maxGroupBytes {
		r := s.queue[n]
		if r.advance > 0 && n > 0 {
			break
		}
		n++
		bytes += recordBound(&r.op)
		if r.advance > 0 {
			break
		}
	}
	if n == len(s.queue) {
		group := s.queue
		s.queue = nil
		return group
	}
	group := slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	return group
}

// commit makes one group durable and answers it.
func (s *session) commit(group []*request) {
	defer func() {
		if p := recover(); p != nil { // Pebble panics when it cannot make a new log
			s.guard.trip(fmt.Errorf("panic: %v", p))
			s.e.logger.Error("The database has failed", "panic", p)
		}
		failed := s.guard.tripped() != nil
		for _, r := range group {
			if failed && r.rev == 0 && r.err == nil {
				r.err = s.poisoned()
			}
			close(r.done)
		}
	}()
	if s.guard.tripped() != nil {
		return
	}
	if group[0].advance > 0 {
		group[0].rev, group[0].err = s.advance(group[0].advance)
		return
	}
	g := &pending{s: s, first: s.e.newest.Load() + 1}
	g.build(group)
	if len(g.events) == 0 || g.publish() {
		g.explain()
	}
}

// publish makes the group durable and then visible.
func (g *pending) publish() bool {
	s := g.s
	last := g.first + int64(len(g.events)) - 1
	if planted.Is("visible-before-sync") {
		s.e.newest.Store(last)
	}
	err := s.apply(g.batch)
	if err == nil {
		err = s.reach.write(last)
	}
	if err != nil {
		s.guard.trip(err)
		return false
	}
	s.publish.Lock()
	defer s.publish.Unlock()
	if s.guard.tripped() != nil {
		return false
	}
	if planted.Is("events-swapped") && len(g.events) > 1 {
		g.events[0], g.events[1] = g.events[1], g.events[0]
	}
	s.e.newest.Store(last)
	s.e.feed.Publish(store.Batch{Events: g.events, Revision: last})
	s.e.ttl.Add(g.expiries...)
	for i, r := range g.accepted {
		r.rev = g.first + int64(i)
	}
	return true
}

// apply writes a batch and waits for its sync. Pebble may report success after
// a failure, so the guard has the last word.
func (s *session) apply(b *pebble.Batch) error {
	if planted.Is("ack-before-sync") {
		return s.db.Apply(b, pebble.NoSync)
	}
	if err := s.db.ApplyNoSyncWait(b, pebble.Sync); err != nil {
		return err
	}
	if err := b.SyncWait(); err != nil {
		return err
	}
	if err := s.guard.tripped(); err != nil {
		return err
	}
	return b.Close()
}

// pending is a group while it is made.
type pending struct {
	s         *session
	batch     *pebble.Batch
	first     store.Revision
	events    []store.Event // of revisions first, first+1, …
	accepted  []*request    // whose writes the events are
	expiries  []expiry.Item
	conflicts []conflict
	key, rec  []byte
	dec       decoder
}

type conflict struct {
	r       *request
	current store.Revision
}

// build checks the requests in order, each against the state that the ones
// before it leave, and puts those that pass into the batch.
func (g *pending) build(group []*request) {
	s := g.s
	writes, deletes := s.space.check()
	size := 0
	for _, r := range group {
		size += recordBound(&r.op) + 3*len(r.op.Key) + 64
	}
	g.batch = s.db.NewBatchWithSize(size)
	g.events = make([]store.Event, 0, len(group))
	s.heads.rotate()
	for _, r := range group {
		if !writes && !r.expiry && !(r.op.Delete && deletes) {
			r.err = store.ErrReadOnly
			continue
		}
		h, err := s.head(r.op.Key)
		if err != nil {
			r.err = err
			continue
		}
		if planted.Is("lost-update") && h.rev >= g.first {
			r.op.Expect = store.Any
		}
		if (r.op.Expect != store.Any && r.op.Expect != h.rev) || (r.op.Delete && h.rev == store.Absent) {
			g.conflicts = append(g.conflicts, conflict{r, h.rev})
			continue
		}
		if err := g.add(r, h); err != nil {
			r.err = err
		}
	}
}

// add puts one write into the batch.
func (g *pending) add(r *request, h head) error {
	op := &r.op
	rev := g.first + int64(len(g.events))
	v := version{prev: h.rev, deleted: op.Delete, weight: op.Weight, Record: store.Record{
		Key: op.Key, Value: op.Value, Revision: rev, Created: rev,
		Time: g.s.e.clock.Now().Round(0).UTC(), User: op.User, Codec: op.Codec,
	}}
	if h.rev != store.Absent && !planted.Is("created-reset") {
		v.Created = h.created
	}
	if planted.Is("time-lost") {
		v.Time = v.Time.Truncate(24 * time.Hour)
	}
	if op.Delete {
		last, err := g.record(op.Key, h.rev)
		if err != nil && !errors.As(err, new(*store.CorruptError)) {
			return err
		}
		if err == nil && !planted.Is("delete-without-value") { // a damaged record can still be deleted
			v.Value, v.Codec = last.Value, last.Codec
		}
	} else if op.TTL > 0 {
		at := v.Time.Add(op.TTL) // an origin comes after it
		v.expires, v.Expires = at.UnixNano(), at
		g.expiries = append(g.expiries, expiry.Item{At: at, Key: op.Key, Revision: rev})
	}
	if o := op.Origin; o != nil {
		v.was, v.before = o.Revision, o.Prev
		if !o.Time.IsZero() {
			v.Time = o.Time.Round(0).UTC()
		}
	}
	if err := g.encode(&v, h); err != nil {
		return err
	}
	next := head{rev: rev, created: v.Created, expires: v.expires, weight: v.weight}
	if op.Delete {
		next = head{}
	}
	g.s.heads.set(op.Key, next)
	g.accepted = append(g.accepted, r)
	g.events = append(g.events, store.Event{Record: v.Record, Deleted: op.Delete, Prev: h.rev})
	return nil
}

func (g *pending) encode(v *version, h head) error {
	g.key = appendVersionKey(g.key[:0], v.Key, v.Revision)
	g.rec = appendRecord(g.rec[:0], g.key, v)
	if planted.Is("torn-group") {
		_ = g.s.db.Set(g.key, g.rec, pebble.NoSync)
	} else if err := g.batch.Set(g.key, g.rec, nil); err != nil {
		return err
	}
	g.key = appendLogKey(g.key[:0], v.Revision)
	g.rec = appendLogEntry(g.rec[:0], g.key, &logEntry{
		rev: v.Revision, prev: v.prev, deleted: v.deleted, weight: v.weight, ended: h.weight, key: v.Key})
	if err := g.batch.Set(g.key, g.rec, nil); err != nil {
		return err
	}
	if h.expires != 0 {
		g.key = appendExpiryKey(g.key[:0], h.expires, h.rev)
		if err := g.batch.Delete(g.key, nil); err != nil {
			return err
		}
	}
	if v.expires != 0 {
		g.key = appendExpiryKey(g.key[:0], v.expires, v.Revision)
		return g.batch.Set(g.key, []byte(v.Key), nil)
	}
	return nil
}

// record returns a version that this group or one before it made.
func (g *pending) record(key string, rev store.Revision) (store.Record, error) {
	if rev >= g.first {
		return g.events[rev-g.first].Record, nil
	}
	v, err := readVersion(g.s.db, &g.dec, key, rev)
	return v.Record, err
}

// explain answers the requests that conflict, once what they conflict with is
// durable.
func (g *pending) explain() {
	for _, c := range g.conflicts {
		err := &store.ConflictError{Key: c.r.op.Key, Expect: c.r.op.Expect}
		if c.current != store.Absent {
			r, bad := g.record(c.r.op.Key, c.current)
			if bad != nil {
				c.r.err = bad
				continue
			}
			err.Current = &r
		}
		c.r.err = err
	}
}

// expire deletes what is due. What cannot be deleted now is tried again.
func (e *Engine) expire(due []expiry.Item) {
	rs := make([]*request, len(due))
	for i, it := range due {
		rs[i] = &request{expiry: true, done: make(chan struct{}),
			op: store.Op{Key: it.Key, Delete: true, Expect: it.Revision, User: store.Expired}}
	}
	if planted.Is("renewed-expires") {
		for _, r := range rs {
			r.op.Expect = store.Any
		}
	}
	if err := e.submit(context.Background(), rs...); err != nil {
		return // closed or poisoned: the next opening finds them again
	}
	for i, r := range rs {
		if c := (*store.ConflictError)(nil); r.err != nil && !errors.As(r.err, &c) {
			e.logger.Error("A record could not be expired", "key", r.op.Key, "error", r.err)
			e.ttl.Add(expiry.Item{At: e.clock.Now().Add(expireRetry), Key: due[i].Key, Revision: due[i].Revision})
		}
	}
}
