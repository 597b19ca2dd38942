package lsm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/internal/store"
	"proa/internal/store/faulttest"
	"proa/internal/store/storetest"
)

// lossless keeps all there is.
var lossless = store.Keeping{Keep: func(string) bool { return true }, Full: 1 << 20, Light: 1 << 20, Bytes: 1 << 40}

// verifyPast says whether the history of an engine that keeps everything has
// each of the changes, and nothing that contradicts them. The changes whose
// revisions nobody was told may be there.
func verifyPast(e *Engine, byRev map[store.Revision]store.Event) error {
	switch {
	case e.opts.History.Keep == nil:
		return nil
	case e.opts.History.Bytes < lossless.Bytes:
		return scan(e)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	want, keys := map[store.Revision]store.Event{}, map[string]bool{}
	for rev, ev := range byRev {
		want[rev], keys[ev.Key] = ev, true
	}
	for key := range keys {
		seq, err := e.History(ctx, key)
		if err != nil {
			return err
		}
		newer := store.Version{Record: store.Record{Revision: e.Revision() + 1}}
		for v, err := range seq {
			if err != nil {
				return fmt.Errorf("history of %s: %w", key, err)
			}
			if v.Key != key || v.Revision >= newer.Revision {
				return fmt.Errorf("history of %s: %s at %d after %d", key, v.Key, v.Revision, newer.Revision)
			}
			if newer.Prev != store.Absent && newer.Prev != v.Revision {
				return fmt.Errorf("history of %s: %d follows %d, but %d is there before it", key, newer.Revision, newer.Prev, v.Revision)
			}
			if newer.Key != "" && !v.Deleted && v.Until != newer.Revision {
				return fmt.Errorf("history of %s: %d says it ended with %d instead of %d", key, v.Revision, v.Until, newer.Revision)
			}
			if w, ok := want[v.Revision]; ok && (w.Key != key || w.Deleted != v.Deleted || !w.Deleted && string(w.Value) != string(v.Value)) {
				return fmt.Errorf("history of %s: revision %d is not what was written", key, v.Revision)
			}
			delete(want, v.Revision)
			newer = v
		}
	}
	for rev, ev := range want {
		return fmt.Errorf("history of %s lacks revision %d, with the horizon at %d", ev.Key, rev, e.Horizon())
	}
	if e.Err() != nil {
		return nil // a batch may be there without having been acknowledged
	}
	return scan(e)
}

// scan reads the spaces of the history, and says whether they agree.
func scan(e *Engine) error {
	return e.use(func(s *session) error { return (&checker{r: s.db, kept: s.past.bytes}).past() })
}

// TestPastAgrees writes, compacts, caps, forgets and reopens at random, and
// checks that the spaces of the history agree, and that nothing else is left.
func TestPastAgrees(t *testing.T) {
	r := storetest.Rand(t)
	mem := vfs.NewMem()
	o := Options{FS: mem, Reserve: -1, Tune: faulttest.Tiny}
	for round := range 12 {
		o.History = store.Keeping{Keep: lossless.Keep, Full: r.IntN(6), Light: r.IntN(4), Bytes: int64(10_000 + r.IntN(100_000))}
		e, err := Open("d", o)
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			op := store.Op{Key: fmt.Sprint("k", r.IntN(20)), Expect: store.Any, Weight: store.Weight(r.IntN(3)), Value: []byte(strings.Repeat("x", r.IntN(3000)))}
			if op.Delete = r.IntN(5) == 0; op.Delete {
				op.Value = nil
			}
			if _, err := e.Write(t.Context(), op); err != nil && !errors.As(err, new(*store.ConflictError)) {
				t.Fatal(err)
			}
			if r.IntN(20) == 0 {
				err = e.Compact(t.Context(), e.Horizon()+r.Int64N(e.Revision()-e.Horizon()+1))
			}
			if r.IntN(200) == 0 {
				err = errors.Join(err, e.Forget(t.Context(), fmt.Sprint("k", r.IntN(3))))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Compact(t.Context(), e.Revision()); err != nil {
			t.Fatal(err)
		}
		if err := scan(e); err != nil {
			t.Fatalf("round %d with %+v: %v", round, o.History, err)
		}
		if e.ses.past.bytes > o.History.Bytes {
			t.Fatalf("%d bytes, more than %d", e.ses.past.bytes, o.History.Bytes)
		}
		if round == 11 {
			if err := e.Forget(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if err := scan(e); err != nil || e.ses.past.bytes != 0 {
				t.Fatalf("%d bytes are left of nothing: %v", e.ses.past.bytes, err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedPast damages records of the history on the disk: what is damaged is
// told or made anew, the rest stays.
func TestDamagedPast(t *testing.T) {
	e, err := Open("d", Options{FS: vfs.NewMem(), Reserve: -1, History: lossless})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	put := func(value string) {
		t.Helper()
		if _, err := e.Write(t.Context(), store.Op{Key: "k", Value: []byte(value), Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		put(fmt.Sprint("value ", i))
	}
	if err := e.Compact(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	flip := func(key []byte) {
		t.Helper()
		v, c, err := e.ses.db.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		v = append([]byte(nil), v...)
		c.Close()
		v[len(v)-1] ^= 4
		if err := e.ses.db.Set(key, v, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	flip(appendPastKey(nil, "k", 2))
	flip(appendIndexKey(nil, "k"))
	put("value 5")
	if err := e.Compact(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	seq, err := e.History(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for v, err := range seq {
		if c := (*store.CorruptError)(nil); errors.As(err, &c) {
			got += fmt.Sprint(" !", c.Revision)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprint(" ", v.Revision)
	}
	if got != " 6 5 4 3 !2 1" {
		t.Errorf("the history is%s", got)
	}
}

// TestPastOfFullDisk checks that a history gives way when there is no room for it.
func TestPastOfFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	free := func(n uint64) { mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 40}) }
	free(1 << 30)
	e, err := Open("d", Options{FS: mem, History: lossless})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	states := func(key string) (n int) {
		t.Helper()
		seq, err := e.History(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range seq {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	for i := range 10 {
		if _, err := e.Write(t.Context(), store.Op{Key: fmt.Sprint("k", i%2), Value: []byte("v"), Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Compact(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	free(DefaultReserve - 1)
	if err := e.Compact(t.Context(), 10); err != nil { // to where k1 has changed
		t.Fatal(err)
	}
	if a, b := states("k0"), states("k1"); a != 5 || b != 1 {
		t.Errorf("%d and %d states", a, b)
	}
	if err := scan(e); err != nil {
		t.Error(err)
	}
}

// BenchmarkHistory writes objects of 2.3 KB and compacts them, all creates or
// all updates of a hundred keys, with and without a history.
func BenchmarkHistory(b *testing.B) {
	for _, keys := range []int{0, 100, 10_000} {
		for _, on := range []bool{false, true} {
			name := map[int]string{0: "creates"}[keys]
			if keys > 0 {
				name = fmt.Sprintf("updates of %d", keys)
			}
			b.Run(fmt.Sprintf("%s/history=%v", name, on), func(b *testing.B) { benchmarkHistory(b, keys, on) })
		}
	}
}

func benchmarkHistory(b *testing.B, keys int, on bool) {
	o := Options{}
	if on {
		o.History = store.Keeping{Keep: lossless.Keep, Full: 20, Light: 10, Bytes: 256 << 20}
	}
	e, err := Open(b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 2300)
	for i := range value {
		value[i] = byte(rng.IntN(64)) // as compressible as it gets
	}
	const step = 4096
	before := e.ses.db.Metrics().WAL.BytesWritten
	for done := 0; done < b.N; {
		n := min(step, b.N-done)
		next := make(chan int, n)
		for i := range n {
			next <- done + i
		}
		close(next)
		done += n
		fail := make(chan error, 32)
		for range 32 {
			go func() {
				var err error
				for i := range next {
					op := store.Op{Key: fmt.Sprintf("/core/pods/default/p%d", i), Value: value, User: "someone", Expect: store.Any}
					if keys > 0 {
						op.Key = fmt.Sprintf("/core/pods/default/p%d", i%keys)
					}
					if _, werr := e.Write(context.Background(), op); werr != nil {
						err = werr
					}
				}
				fail <- err
			}()
		}
		for range 32 {
			if err := <-fail; err != nil {
				b.Fatal(err)
			}
		}
		if err := e.Compact(context.Background(), e.Revision()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(e.ses.db.Metrics().WAL.BytesWritten-before)/float64(b.N), "logged-B/op")
	b.ReportMetric(float64(e.ses.past.bytes)/1e6, "kept-MB")
}
