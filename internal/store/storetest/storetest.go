// Package storetest is the suite that every engine passes, with a clock that
// stands still for it.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"proa/internal/store"
)

// An Opener opens the engine of one test. If the engine is durable it can be
// called again after the engine was closed, and finds the same data.
type Opener func(t testing.TB, clock store.Clock) store.Engine

// Run passes an engine through the suite. place prepares an empty place for one
// test; durable says that what is there outlives the engine.
func Run(t *testing.T, durable bool, place func(t *testing.T) Opener) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.durable && !durable {
				t.Skip("this engine keeps nothing")
			}
			t.Parallel()
			s := &suite{T: t, clock: NewClock(), open: place(t)}
			s.Engine = s.open(t, s.clock)
			defer func() { s.Engine.Close() }()
			c.run(s)
		})
	}
}

type testCase struct {
	name    string
	durable bool
	run     func(*suite)
}

var cases = []testCase{
	{name: "CompareAndSwap", run: compareAndSwap},
	{name: "ConflictCarriesCurrent", run: conflictCarriesCurrent},
	{name: "InvalidOps", run: invalidOps},
	{name: "Record", run: recordFields},
	{name: "OrderUnderConcurrency", run: orderUnderConcurrency},
	{name: "ChainsInOneGroup", run: chainsInOneGroup},
	{name: "WatchResumesAnywhere", run: watchResumesAnywhere},
	{name: "WatchProgress", run: watchProgress},
	{name: "WatchEnds", run: watchEnds},
	{name: "SlowReader", run: slowReader},
	{name: "SlowReaderCompacted", run: slowReaderCompacted},
	{name: "HistoryAndCompaction", run: historyAndCompaction},
	{name: "RangeBounds", run: rangeBounds},
	{name: "PagesOfOneRevision", run: pagesOfOneRevision},
	{name: "Expiry", run: expiry},
	{name: "ExpiryMany", run: expiryMany},
	{name: "ExpiryOverReopen", durable: true, run: expiryOverReopen},
	{name: "ReopenKeepsEverything", durable: true, run: reopenKeepsEverything},
	{name: "Advance", run: advance},
	{name: "AdvanceOverReopen", durable: true, run: advanceOverReopen},
	{name: "Closed", run: closed},
	{name: "Linearizable", run: linearizable},
}

// A suite is one test with its engine.
type suite struct {
	*testing.T
	store.Engine
	clock   *Clock
	open    Opener
	durable bool
}

func (s *suite) reopen() {
	s.Helper()
	if err := s.Close(); err != nil {
		s.Fatalf("close: %v", err)
	}
	s.Engine = s.open(s.T, s.clock)
}

// rand returns the test's random numbers. PROA_SEED repeats a run.
func (s *suite) rand() *rand.Rand {
	return Rand(s.T)
}

// Rand returns random numbers whose seed the test prints, and takes from the
// variable PROA_SEED if that is set.
func Rand(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("PROA_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("PROA_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("PROA_SEED=%d", seed)
	h := fnv.New64a()
	h.Write([]byte(t.Name()))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

func (s *suite) write(op store.Op) store.Revision {
	s.Helper()
	rev, err := s.Write(context.Background(), op)
	if err != nil {
		s.Fatalf("write %s: %v", op.Key, err)
	}
	return rev
}

func (s *suite) put(key, value string) store.Revision {
	s.Helper()
	return s.write(store.Op{Key: key, Value: []byte(value), Expect: store.Any})
}

func (s *suite) delete(key string) store.Revision {
	s.Helper()
	return s.write(store.Op{Key: key, Delete: true, Expect: store.Any})
}

func (s *suite) get(key string) *store.Record {
	s.Helper()
	r, _, err := s.Get(context.Background(), key)
	if err != nil {
		s.Fatalf("get %s: %v", key, err)
	}
	return r
}

// list reads a range, or fails with the error of any part of it.
func (s *suite) list(from, to string, at store.Revision, limit int) ([]store.Record, store.Revision, error) {
	seq, rev, err := s.Range(context.Background(), from, to, at, limit)
	if err != nil {
		return nil, 0, err
	}
	var out []store.Record
	for r, err := range seq {
		if err != nil {
			return out, rev, err
		}
		out = append(out, r)
	}
	return out, rev, nil
}

// watched collects what a watch delivers until it has passed a revision.
func (s *suite) watched(prefix string, after, until store.Revision) []store.Event {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	events, err := collect(ctx, s.Engine, prefix, after, until)
	if err != nil {
		s.Fatalf("watch %q after %d: %v", prefix, after, err)
	}
	return events
}

func collect(ctx context.Context, e store.Engine, prefix string, after, until store.Revision) ([]store.Event, error) {
	var events []store.Event
	if after == until {
		return nil, nil
	}
	seq, err := e.Watch(ctx, prefix, after)
	if err != nil {
		return nil, err
	}
	last := after
	for b, err := range seq {
		if err != nil {
			return events, err
		}
		for _, ev := range b.Events {
			if ev.Revision <= last || ev.Revision > b.Revision {
				return events, fmt.Errorf("event %d of a batch up to %d comes after %d", ev.Revision, b.Revision, last)
			}
			last = ev.Revision
			if !strings.HasPrefix(ev.Key, prefix) {
				return events, fmt.Errorf("%s has not the prefix %s", ev.Key, prefix)
			}
		}
		if b.Revision < last {
			return events, fmt.Errorf("a batch up to %d comes after %d", b.Revision, last)
		}
		last = b.Revision
		events = append(events, b.Events...)
		if b.Revision >= until {
			return events, nil
		}
	}
	return events, fmt.Errorf("the watch ended at %d, before %d: %w", last, until, ctx.Err())
}

func (s *suite) same(what string, got, want any) {
	s.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		s.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func (s *suite) fails(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("%s: got %v, want %v", what, err, want)
	}
}

func conflict(err error) *store.ConflictError {
	var c *store.ConflictError
	errors.As(err, &c)
	return c
}

// A history is a model of an engine: all events there were.
type history struct{ events []store.Event }

// state returns the records at a revision, in key order.
func (h *history) state(at store.Revision) []store.Record {
	m := map[string]store.Record{}
	for _, e := range h.events {
		if e.Revision > at {
			break
		}
		if e.Deleted {
			delete(m, e.Key)
		} else {
			m[e.Key] = e.Record
		}
	}
	out := make([]store.Record, 0, len(m))
	for _, r := range m {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b store.Record) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// after returns the events above a revision to keys with the prefix.
func (h *history) after(rev store.Revision, prefix string) []store.Event {
	var out []store.Event
	for _, e := range h.events {
		if e.Revision > rev && strings.HasPrefix(e.Key, prefix) {
			out = append(out, e)
		}
	}
	return out
}

// random makes n random changes to a few keys and records them.
func (s *suite) random(h *history, r *rand.Rand, n int) {
	s.Helper()
	for range n {
		key := fmt.Sprintf("%s/%d", []string{"a", "a-b", "b"}[r.IntN(3)], r.IntN(5))
		old := s.get(key)
		op := store.Op{Key: key, Expect: store.Any, User: []string{"", "ann", "bob"}[r.IntN(3)]}
		ev := store.Event{}
		if old != nil && r.IntN(3) == 0 {
			op.Delete, ev.Deleted = true, true
			ev.Value, ev.Codec = old.Value, old.Codec
		} else {
			op.Value, op.Codec = fmt.Appendf(nil, "value %d", r.IntN(1e6)), uint16(r.IntN(3))
			ev.Value, ev.Codec = op.Value, op.Codec
		}
		s.clock.Advance(time.Duration(r.IntN(1000)))
		ev.Revision = s.write(op)
		ev.Key, ev.User, ev.Time, ev.Created = key, op.User, s.clock.Now(), ev.Revision
		if old != nil {
			ev.Prev, ev.Created = old.Revision, old.Created
		}
		h.events = append(h.events, ev)
	}
}
