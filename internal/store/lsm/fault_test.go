package lsm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"proa/internal/store"
	"proa/internal/store/faulttest"
	"proa/internal/store/storetest"
)

// acks is what the clients of an engine were told.
type acks struct {
	mu   sync.Mutex
	list []store.Event
}

func (a *acks) add(e store.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, e)
}

func (a *acks) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.list)
}

// client writes to keys of its own until a write fails, at most n times, and
// returns the error.
func (a *acks) client(e *Engine, id int, r *rand.Rand, n int) error {
	alive := map[string]bool{}
	for i := range n {
		op := store.Op{Key: fmt.Sprintf("c%d/%d", id, r.IntN(6)), Expect: store.Any}
		if alive[op.Key] && r.IntN(4) == 0 {
			op.Delete = true
		} else {
			op.Value = fmt.Appendf(nil, "%d.%d %s", id, i, strings.Repeat("x", r.IntN(1500)))
		}
		rev, err := e.Write(context.Background(), op)
		if err != nil {
			return err
		}
		alive[op.Key] = !op.Delete
		a.add(store.Event{Deleted: op.Delete, Record: store.Record{Key: op.Key, Value: op.Value, Revision: rev}})
		if r.IntN(40) == 0 {
			if err := e.Compact(context.Background(), max(rev-20, 0)); err != nil {
				return err
			}
		}
	}
	return nil
}

// verify says whether an engine holds all that was acknowledged, and nothing
// that contradicts its own log.
//
// all are the writes whose revisions are known, acknowledged by then or later.
func verify(e *Engine, acked, all []store.Event) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	byRev := map[store.Revision]store.Event{}
	newest := e.Revision()
	for _, ev := range acked {
		if ev.Revision > newest {
			return fmt.Errorf("revision %d was acknowledged, the newest is %d", ev.Revision, newest)
		}
	}
	for _, ev := range all {
		if ev.Revision <= newest {
			byRev[ev.Revision] = ev
		}
	}
	if e.Horizon() < newest {
		seq, err := e.Watch(ctx, "", e.Horizon())
		if err != nil {
			return err
		}
		want := e.Horizon() + 1
		for b, err := range seq {
			if err != nil {
				return err
			}
			for _, ev := range b.Events {
				if ev.Revision != want {
					return fmt.Errorf("the log has %d instead of %d", ev.Revision, want)
				}
				want++
				if a, ok := byRev[ev.Revision]; ok && (a.Key != ev.Key || a.Deleted != ev.Deleted || (!a.Deleted && string(a.Value) != string(ev.Value))) {
					return fmt.Errorf("revision %d is %s, acknowledged as %s", ev.Revision, ev.Key, a.Key)
				}
				byRev[ev.Revision] = ev
			}
			if b.Revision >= newest {
				break
			}
		}
		if want != newest+1 {
			return fmt.Errorf("the log ends before %d: %w", want, ctx.Err())
		}
	}
	if err := verifyPast(e, byRev); err != nil {
		return err
	}
	return verifyState(ctx, e, byRev)
}

func verifyState(ctx context.Context, e *Engine, byRev map[store.Revision]store.Event) error {
	want := map[string]store.Event{}
	for _, ev := range byRev {
		if ev.Revision > want[ev.Key].Revision {
			want[ev.Key] = ev
		}
	}
	seq, _, err := e.Range(ctx, "", "", 0, 0)
	if err != nil {
		return err
	}
	for r, err := range seq {
		if err != nil {
			return err
		}
		w := want[r.Key]
		if w.Revision != r.Revision || w.Deleted || string(w.Value) != string(r.Value) {
			return fmt.Errorf("%s is at revision %d, should be at %d", r.Key, r.Revision, w.Revision)
		}
		delete(want, r.Key)
	}
	for k, w := range want {
		if !w.Deleted && w.Revision > 0 {
			return fmt.Errorf("%s is gone, should be at revision %d", k, w.Revision)
		}
	}
	return nil
}

// TestIOError fails one kind of operation, once or for good, at a random
// moment: from then on nothing is acknowledged, reads serve what was, and a
// Reopen brings everything back while a watch goes on.
func TestIOError(t *testing.T) {
	kinds := map[string]errorfs.OpKind{
		"write": errorfs.OpFileWrite, "syncdata": errorfs.OpFileSyncData, "sync": errorfs.OpFileSync,
		"create": errorfs.OpCreate, "reuse": errorfs.OpReuseForWrite,
	}
	for name, kind := range kinds {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			for _, once := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/once=%v", name, errno, once), func(t *testing.T) {
					t.Parallel()
					ioError(t, kind, errno, once)
				})
			}
		}
	}
}

func ioError(t *testing.T, kind errorfs.OpKind, errno syscall.Errno, once bool) {
	r := storetest.Rand(t)
	var armed atomic.Bool
	var left atomic.Int64
	left.Store(1 + r.Int64N(30))
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !armed.Load() || op.Kind != kind {
			return nil
		}
		if n := left.Add(-1); n == 0 || (n < 0 && !once) {
			return errno
		}
		return nil
	})
	e, err := Open("d", Options{FS: errorfs.Wrap(vfs.NewMem(), inject), Reserve: -1, Tune: faulttest.Tiny, FeedEvents: 50, History: lossless})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { e.Close() }()
	watched := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // of a busy machine
	defer cancel()
	var seen atomic.Int64
	go func() { watched <- follow(ctx, e, &seen) }()

	var log acks
	armed.Store(true)
	var wg sync.WaitGroup
	for id := range 4 {
		c := rand.New(rand.NewPCG(r.Uint64(), 1))
		wg.Go(func() {
			if err := log.client(e, id, c, 600); err != nil && !errors.Is(err, store.ErrPoisoned) {
				t.Errorf("client: %v", err)
			}
		})
	}
	wg.Wait()
	if left.Load() > 0 {
		t.Skipf("no such operation often enough in %d writes", log.len())
	}
	select {
	case <-e.Failed():
	case <-ctx.Done():
		t.Fatalf("not poisoned after %d writes", log.len())
	}
	if !errors.Is(e.Err(), errno) {
		t.Errorf("the reason is %v, should be %v", e.Err(), errno)
	}
	before := e.Revision()
	if _, err := e.Write(ctx, store.Op{Key: "k", Expect: store.Any}); !errors.Is(err, store.ErrPoisoned) {
		t.Fatalf("a write after the failure: %v", err)
	}
	if err := verify(e, log.list, log.list); err != nil {
		t.Fatalf("read while poisoned: %v", err)
	}
	if !once {
		needed := kind != errorfs.OpReuseForWrite && kind != errorfs.OpFileSyncData // by every opening
		if err := e.Reopen(ctx); err == nil && needed {
			t.Errorf("reopened on a disk that still fails")
		} else if err != nil {
			if _, _, err := e.Get(ctx, "k"); !errors.Is(err, store.ErrPoisoned) {
				t.Errorf("read between reopenings: %v", err)
			}
		}
	}
	armed.Store(false)
	if err := e.Reopen(ctx); err != nil {
		t.Fatalf("reopen: %v", err)
	}
	if e.Revision() < before || e.Err() != nil {
		t.Fatalf("reopened at revision %d, was at %d: %v", e.Revision(), before, e.Err())
	}
	if err := verify(e, log.list, log.list); err != nil {
		t.Fatalf("reopened: %v", err)
	}
	last, err := e.Write(ctx, store.Op{Key: "k", Value: []byte("v"), Expect: store.Any})
	if err != nil {
		t.Fatalf("write after the reopening: %v", err)
	}
	for seen.Load() < last && ctx.Err() == nil && len(watched) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-watched; err != nil || seen.Load() != last {
		t.Fatalf("the watch over it all ended at %d of %d: %v", seen.Load(), last, err)
	}
}

// follow watches from the beginning and fails if a revision is left out. It
// starts again where the horizon overtakes it.
func follow(ctx context.Context, e *Engine, seen *atomic.Int64) error {
	for ctx.Err() == nil {
		seq, err := e.Watch(ctx, "", seen.Load())
		if err != nil {
			seq = func(func(store.Batch, error) bool) {}
		}
		for b, werr := range seq {
			if werr != nil {
				err = werr
				break
			}
			for _, ev := range b.Events {
				if ev.Revision != seen.Load()+1 {
					return fmt.Errorf("event %d after %d", ev.Revision, seen.Load())
				}
				seen.Store(ev.Revision)
			}
		}
		switch {
		case errors.Is(err, store.ErrCompacted):
			seen.Store(e.Horizon())
		case err != nil && !errors.Is(err, store.ErrPoisoned):
			return err
		}
	}
	return nil
}

func TestReserve(t *testing.T) {
	mem := vfs.NewMem()
	free := func(n uint64) { mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 40}) }
	clock := storetest.NewClock()
	free(1 << 30)
	e, err := Open("d", Options{FS: mem, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx := context.Background()
	write := func(want error, op store.Op) {
		t.Helper()
		if _, err := e.Write(ctx, op); !errors.Is(err, want) {
			t.Errorf("%+v: got %v, want %v", op, err, want)
		}
	}
	put := store.Op{Key: "a", Value: []byte("v"), Expect: store.Any}
	write(nil, put)
	write(nil, store.Op{Key: "b", Expect: store.Any, TTL: time.Minute})
	write(nil, store.Op{Key: "c", Expect: store.Any})
	free(DefaultReserve - 1)
	write(store.ErrReadOnly, put)
	write(nil, store.Op{Key: "a", Delete: true, Expect: store.Any})
	free(DefaultReserve/2 - 1)
	write(store.ErrReadOnly, store.Op{Key: "c", Delete: true, Expect: store.Any})
	clock.Advance(time.Hour)
	if r, rev, err := e.Get(ctx, "b"); r != nil || err != nil || rev != 5 {
		t.Errorf("the expiry waits for space: %+v at %d, %v", r, rev, err)
	}
	if err := e.Compact(ctx, 3); err != nil {
		t.Error(err)
	}
	free(DefaultReserve)
	write(nil, put)
}

// TestRest counts what an engine does to the disk when nobody writes.
func TestRest(t *testing.T) {
	var ops atomic.Int64
	count := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			ops.Add(1)
		}
		return nil
	})
	e, err := Open("d", Options{FS: errorfs.Wrap(vfs.NewMem(), count)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for i := range 20 {
		if _, err := e.Write(context.Background(), store.Op{Key: fmt.Sprint(i), TTL: time.Hour, Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
	}
	before := ops.Load()
	<-time.After(400 * time.Millisecond)
	if n := ops.Load() - before; n != 0 {
		t.Fatalf("%d operations at rest", n)
	}
}
