// Package memory is an engine that keeps everything in the process's memory
// and forgets it at the end: for tests, and for clusters made to be thrown away.
package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"
	"sync"

	"github.com/tidwall/btree"

	"proa/internal/store"
	"proa/internal/store/expiry"
	"proa/internal/store/feed"
	"proa/internal/store/planted"
)

// An Engine is a store.Engine, store.Advancer and store.Historian in memory.
type Engine struct {
	clock store.Clock
	feed  *feed.Feed
	ttl   *expiry.Queue

	mu      sync.RWMutex
	keys    btree.Map[string, []version] // ascending revisions; never empty
	log     []store.Event                // of the revisions above horizon, without gaps
	newest  store.Revision
	horizon store.Revision
	past    history
	closed  bool
}

// A version is a record, or the mark of a deletion.
type version struct {
	store.Record
	deleted bool
	weight  store.Weight
	prev    store.Revision
	was     store.Revision // of a restored state: the revision that it had; 0 of others
	before  store.Revision // and the one that it followed
}

var (
	_ store.Engine    = (*Engine)(nil)
	_ store.Advancer  = (*Engine)(nil)
	_ store.Historian = (*Engine)(nil)
)

// New makes an empty engine without a history. A nil clock is the system's.
func New(clock store.Clock) *Engine { return Keeping(clock, store.Keeping{}) }

// Keeping is New with a history.
func Keeping(clock store.Clock, k store.Keeping) *Engine {
	if clock == nil {
		clock = store.SystemClock{}
	}
	e := &Engine{clock: clock, past: history{Keeping: k, keys: map[string]*kept{}}}
	e.feed = feed.New(0, 0, 0, e.older)
	e.ttl = expiry.New(clock, e.expire)
	return e
}

// Write is store.Engine's.
func (e *Engine) Write(ctx context.Context, op store.Op) (store.Revision, error) {
	if err := op.Check(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, store.ErrClosed
	}
	old := e.at(op.Key, e.newest)
	now := store.Absent
	if old != nil {
		now = old.Revision
	}
	if planted.Is("memory-lost-update") && op.Expect > 0 && old != nil {
		op.Expect = store.Any
	}
	if (op.Expect != store.Any && op.Expect != now) || (op.Delete && old == nil) {
		c := &store.ConflictError{Key: op.Key, Expect: op.Expect}
		if old != nil {
			r := old.Record
			c.Current = &r
		}
		return 0, c
	}
	e.put(op, old)
	return e.newest, nil
}

func (e *Engine) put(op store.Op, old *version) {
	e.newest++
	v := version{deleted: op.Delete, weight: op.Weight, Record: store.Record{
		Key: op.Key, Value: op.Value, Revision: e.newest, Created: e.newest,
		Time: e.clock.Now(), User: op.User, Codec: op.Codec,
	}}
	ev := store.Event{Deleted: op.Delete}
	if old != nil {
		v.Created, v.prev, ev.Prev = old.Created, old.Revision, old.Revision
		if op.Delete {
			v.Value, v.Codec = old.Value, old.Codec
		}
	}
	if op.TTL > 0 && !op.Delete {
		v.Expires = v.Time.Add(op.TTL)
		e.ttl.Add(expiry.Item{At: v.Expires, Key: op.Key, Revision: v.Revision})
	}
	if o := op.Origin; o != nil {
		v.was, v.before = o.Revision, o.Prev
		if !o.Time.IsZero() {
			v.Time = o.Time
		}
	}
	ev.Record = v.Record
	vs, _ := e.keys.Get(op.Key)
	e.keys.Set(op.Key, append(slices.Clip(vs), v))
	e.log = append(e.log, ev)
	e.feed.Publish(store.Batch{Events: []store.Event{ev}, Revision: e.newest})
}

// at returns the version of key that was valid at a revision, or nil.
func (e *Engine) at(key string, rev store.Revision) *version {
	vs, _ := e.keys.Get(key)
	return valid(vs, rev)
}

func valid(vs []version, rev store.Revision) *version {
	i := sort.Search(len(vs), func(i int) bool { return vs[i].Revision > rev }) - 1
	if planted.Is("memory-old-range-shows-newer") {
		i = len(vs) - 1
	}
	if i < 0 || vs[i].deleted {
		return nil
	}
	return &vs[i]
}

// Get is store.Engine's.
func (e *Engine) Get(ctx context.Context, key string) (*store.Record, store.Revision, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return nil, 0, store.ErrClosed
	}
	v := e.at(key, e.newest)
	if v == nil {
		return nil, e.newest, nil
	}
	r := v.Record
	return &r, e.newest, nil
}

// Range is store.Engine's.
func (e *Engine) Range(ctx context.Context, from, to string, at store.Revision, limit int) (iter.Seq2[store.Record, error], store.Revision, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	at, err := e.check(at)
	if err != nil {
		return nil, 0, err
	}
	return func(yield func(store.Record, error) bool) {
		left, next := limit, from
		for {
			chunk, more, err := e.chunk(ctx, next, to, at)
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			for _, r := range chunk {
				if !yield(r, nil) {
					return
				}
				if left--; left == 0 {
					return
				}
			}
			if !more {
				return
			}
			next = chunk[len(chunk)-1].Key + "\x00"
		}
	}, at, nil
}

// chunk reads the next records of a range; more says that there may be others.
func (e *Engine) chunk(ctx context.Context, from, to string, at store.Revision) (out []store.Record, more bool, err error) {
	const most = 256
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if _, err := e.check(at); err != nil {
		return nil, false, err
	}
	e.keys.Ascend(from, func(key string, vs []version) bool {
		if to != "" && key >= to {
			return false
		}
		if len(out) == most {
			more = true
			return false
		}
		if v := valid(vs, at); v != nil {
			out = append(out, v.Record)
		}
		return true
	})
	return out, more, nil
}

// check turns 0 into the newest revision and says whether one can be read.
func (e *Engine) check(at store.Revision) (store.Revision, error) {
	switch {
	case e.closed:
		return 0, store.ErrClosed
	case at == 0:
		return e.newest, nil
	case at < e.horizon:
		return 0, store.ErrCompacted
	case at > e.newest:
		return 0, store.ErrFuture
	}
	return at, nil
}

// Watch is store.Engine's.
func (e *Engine) Watch(ctx context.Context, prefix string, after store.Revision) (iter.Seq2[store.Batch, error], error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	switch {
	case e.closed:
		return nil, store.ErrClosed
	case after < e.horizon:
		return nil, store.ErrCompacted
	case after > e.newest:
		return nil, store.ErrFuture
	}
	return e.feed.Watch(ctx, prefix, after), nil
}

func (e *Engine) older(_ context.Context, prefix string, after store.Revision) (store.Batch, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if after < e.horizon {
		return store.Batch{}, store.ErrCompacted
	}
	rest := e.log[after-e.horizon:]
	rest = rest[:min(len(rest), 1024)]
	b := store.Batch{Events: feed.Match(rest, prefix, after), Revision: after + int64(len(rest))}
	b.Events = slices.Clip(b.Events)
	return b, nil
}

// Compact is store.Engine's.
func (e *Engine) Compact(_ context.Context, rev store.Revision) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return store.ErrClosed
	case rev > e.newest:
		return store.ErrFuture
	case rev <= e.horizon:
		return nil
	}
	n := rev - e.horizon
	for _, ev := range e.log[:n] {
		vs, _ := e.keys.Get(ev.Key)
		i := sort.Search(len(vs), func(i int) bool { return vs[i].Revision > rev }) - 1
		if i >= 0 && (vs[i].deleted || planted.Is("memory-compaction-deletes-live")) {
			i++
		}
		switch {
		case i <= 0:
		case i == len(vs):
			e.past.move(ev.Key, vs, 0) // the last one is a deletion
			e.keys.Delete(ev.Key)
		default:
			e.past.move(ev.Key, vs[:i], vs[i].Revision)
			e.keys.Set(ev.Key, slices.Clone(vs[i:]))
		}
	}
	e.past.fit()
	e.log = slices.Clone(e.log[n:])
	e.horizon = rev
	return nil
}

// Advance is store.Advancer's.
func (e *Engine) Advance(ctx context.Context, to store.Revision) error {
	newest := e.Revision()
	if to < newest {
		return fmt.Errorf("store: cannot advance from revision %d back to %d", newest, to)
	}
	if err := e.Compact(ctx, newest); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.newest != newest {
		return fmt.Errorf("store: revision %d was written while advancing to %d", e.newest, to)
	}
	e.log, e.newest, e.horizon = nil, to, to
	e.feed.Skip(to)
	return nil
}

// expire deletes what is due.
func (e *Engine) expire(due []expiry.Item) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	for _, it := range due {
		if v := e.at(it.Key, e.newest); v != nil && v.Revision == it.Revision {
			e.put(store.Op{Key: it.Key, Delete: true, Expect: it.Revision, User: store.Expired}, v)
		}
	}
}

// Revision is store.Engine's.
func (e *Engine) Revision() store.Revision {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.newest
}

// Horizon is store.Engine's.
func (e *Engine) Horizon() store.Revision {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.horizon
}

// Close is store.Engine's.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return store.ErrClosed
	}
	e.closed = true
	e.mu.Unlock()
	e.ttl.Close()
	e.feed.Close(store.ErrClosed)
	return nil
}
