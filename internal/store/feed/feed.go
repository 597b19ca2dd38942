// Package feed hands the newest changes of an engine to its watchers from
// memory, and leads a watcher that is further back through the engine's log
// until it has caught up.
package feed

import (
	"context"
	"iter"
	"sort"
	"strings"
	"sync"

	"proa/internal/store"
	"proa/internal/store/planted"
)

// Limits of what a feed keeps in memory.
const (
	DefaultEvents = 8192
	DefaultBytes  = 4 << 20
)

// Older reads the next changes after a revision from an engine's log: those
// to keys with the prefix, and the revision up to which it looked, which is
// above after. ErrCompacted if the log does not reach back so far.
type Older func(ctx context.Context, prefix string, after store.Revision) (store.Batch, error)

// A Feed is the tail of an engine's changes. Its zero value is not usable.
type Feed struct {
	older     Older
	maxEvents int
	maxBytes  int

	mu     sync.Mutex
	groups []store.Batch // ascending; everything in (floor, newest]
	events int
	bytes  int
	floor  store.Revision
	newest store.Revision
	grown  chan struct{} // closed and replaced when newest grows
	err    error         // set once, by Close
}

// New makes a feed that continues after newest and keeps at most so many events
// and bytes of values (0: the defaults).
func New(newest store.Revision, maxEvents, maxBytes int, older Older) *Feed {
	if maxEvents <= 0 {
		maxEvents = DefaultEvents
	}
	if maxBytes <= 0 {
		maxBytes = DefaultBytes
	}
	return &Feed{older: older, maxEvents: maxEvents, maxBytes: maxBytes, floor: newest, newest: newest, grown: make(chan struct{})}
}

// Publish appends the changes of one group. b.Revision is above all before it.
func (f *Feed) Publish(b store.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.Revision <= f.newest {
		return
	}
	f.groups = append(f.groups, b)
	f.events += len(b.Events)
	f.bytes += size(b)
	f.newest = b.Revision
	drop := 0
	for drop < len(f.groups) && (f.events > f.maxEvents || f.bytes > f.maxBytes) {
		old := f.groups[drop]
		f.events -= len(old.Events)
		f.bytes -= size(old)
		if !planted.Is("feed-forgets") {
			f.floor = old.Revision
		}
		f.groups[drop] = store.Batch{}
		drop++
	}
	f.groups = f.groups[drop:]
	f.wake()
}

// Skip moves the feed to a revision and forgets what it held: watchers read
// what lies between from the log.
func (f *Feed) Skip(to store.Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.groups, f.events, f.bytes = nil, 0, 0
	f.floor, f.newest = to, to
	f.wake()
}

// Close ends all watches with err.
func (f *Feed) Close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		f.wake()
	}
}

func (f *Feed) wake() {
	close(f.grown)
	f.grown = make(chan struct{})
}

// Watch yields what is published after a revision, as [store.Engine.Watch]
// promises. The caller has checked that after is not below the horizon.
func (f *Feed) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Batch, error] {
	return func(yield func(store.Batch, error) bool) {
		at := after
		for ctx.Err() == nil {
			b, wait, err := f.next(prefix, at)
			if err == nil && b.Revision == 0 && wait == nil {
				b, err = f.older(ctx, prefix, at)
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				yield(store.Batch{}, err)
				return
			case b.Revision > at:
				at = b.Revision
				if !yield(b, nil) {
					return
				}
			case wait != nil:
				select {
				case <-wait:
				case <-ctx.Done():
				}
			}
		}
	}
}

// next returns the first group after at with a change to the prefix, or, if
// there is none, a progress note; or a channel to wait on; or neither, if at
// lies before what the feed holds.
func (f *Feed) next(prefix string, at store.Revision) (store.Batch, <-chan struct{}, error) {
	f.mu.Lock()
	if f.err != nil {
		f.mu.Unlock()
		return store.Batch{}, nil, f.err
	}
	if at >= f.newest {
		defer f.mu.Unlock()
		return store.Batch{}, f.grown, nil
	}
	if at < f.floor {
		f.mu.Unlock()
		return store.Batch{}, nil, nil
	}
	i := sort.Search(len(f.groups), func(i int) bool { return f.groups[i].Revision > at })
	rest := f.groups[i:] // groups are never changed, only the array's dead entries before the slice
	tail := make([]store.Batch, min(len(rest), 64))
	copy(tail, rest)
	f.mu.Unlock()

	for _, g := range tail {
		if events := Match(g.Events, prefix, at); len(events) > 0 {
			return store.Batch{Events: events, Revision: g.Revision}, nil, nil
		}
	}
	return store.Batch{Revision: tail[len(tail)-1].Revision}, nil, nil
}

// Match returns the events after a revision to keys with the prefix, sharing
// memory with events if it can.
func Match(events []store.Event, prefix string, after store.Revision) []store.Event {
	fits := func(e *store.Event) bool { return e.Revision > after && strings.HasPrefix(e.Key, prefix) }
	n := 0
	for i := range events {
		if fits(&events[i]) {
			n++
		}
	}
	if n == len(events) {
		if planted.Is("event-twice") && n > 0 {
			return append(events[:n:n], events[n-1])
		}
		return events
	}
	if n == 0 {
		return nil
	}
	out := make([]store.Event, 0, n)
	for i := range events {
		if fits(&events[i]) {
			out = append(out, events[i])
		}
	}
	return out
}

func size(b store.Batch) int {
	n := 0
	for i := range b.Events {
		n += len(b.Events[i].Value) + len(b.Events[i].Key) + 128
	}
	return n
}
