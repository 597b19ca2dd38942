package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"proa/internal/store"
	"proa/internal/store/etcd/etcdtest"
	"proa/internal/store/past"
	"proa/internal/store/storetest"
)

// lossless keeps all there is.
var lossless = store.Keeping{Keep: func(string) bool { return true }, Full: 1 << 20, Light: 1 << 20, Bytes: 1 << 40}

func openPast(t testing.TB, s *etcdtest.Server, k store.Keeping) *Engine {
	t.Helper()
	e, err := Open(context.Background(), Options{Endpoints: []string{s.Endpoint}, History: k, Patience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// agree says whether the history's keys say the same: every version is in the index
// of its key and its end in the order, nothing else is in an index, and the state
// has the size of all.
func agree(e *Engine) error {
	ctx := context.Background()
	st, err := e.past.state(ctx)
	if err != nil {
		return err
	}
	indexed, ordered, total := map[string][]past.Entry{}, map[store.Revision]string{}, int64(0)
	from, to := e.keys.indexes("")
	err = e.each(ctx, from, to, 0, func(kv *mvccpb.KeyValue) error {
		x, err := past.ParseIndex(kv.Key, kv.Value)
		if err == nil && len(x.Entries) == 0 && x.Head == 0 {
			err = errors.New("an empty index")
		}
		indexed[string(kv.Key[len(e.keys.index("")):])] = x.Entries
		return err
	})
	if err != nil {
		return err
	}
	from, to = e.keys.orders()
	err = e.each(ctx, from, to, 0, func(kv *mvccpb.KeyValue) error {
		until, ok := e.keys.parseOrder(kv.Key)
		key, intact := parseSealedOrder(kv.Key, kv.Value)
		if !ok || !intact {
			return fmt.Errorf("the order has %q", kv.Key)
		}
		ordered[until] = key
		return nil
	})
	if err != nil {
		return err
	}
	ends := map[store.Revision]bool{}
	from, to = e.keys.allVersions("")
	err = e.each(ctx, from, to, 0, func(kv *mvccpb.KeyValue) error {
		key, rev, ok := e.keys.parseVersion(kv.Key)
		if !ok {
			return fmt.Errorf("there is %q", kv.Key)
		}
		v, err := (&decoder{}).kept(kv.Key, kv.Value)
		if err != nil {
			return err
		}
		want := past.Entry{Revision: rev, Until: v.until, Size: int64(len(kv.Key) + len(kv.Value)), Light: v.weight == store.Light}
		total += want.Size
		n := slices.Index(indexed[key], want)
		if n < 0 || ordered[v.until] != key {
			return fmt.Errorf("%s at %d: the index is %+v, the order has %q at %d", key, rev, indexed[key], ordered[v.until], v.until)
		}
		ends[v.until] = true
		indexed[key] = slices.Delete(indexed[key], n, n+1)
		return nil
	})
	if err != nil {
		return err
	}
	for key, rest := range indexed {
		if len(rest) > 0 {
			return fmt.Errorf("the index of %s has %+v, which is not there", key, rest)
		}
	}
	if total != st.Bytes || len(ends) != len(ordered) {
		return fmt.Errorf("there are %d bytes, the state says %d; %d revisions end something, the order has %d", total, st.Bytes, len(ends), len(ordered))
	}
	return nil
}

// TestPastAgrees writes, compacts, caps, forgets and reopens at random.
func TestPastAgrees(t *testing.T) {
	s := etcdtest.Start(t)
	r := storetest.Rand(t)
	for round := range 5 {
		k := store.Keeping{Keep: lossless.Keep, Full: r.IntN(6), Light: r.IntN(4), Bytes: int64(10_000 + r.IntN(100_000))}
		if round == 0 {
			k = store.Keeping{Keep: lossless.Keep, Full: 200, Light: 200, Bytes: 1 << 30} // the next one has to drop much of each key
		}
		e := openPast(t, s, k)
		for range 150 {
			op := store.Op{Key: fmt.Sprint("k", r.IntN(6)), Expect: store.Any, Weight: store.Weight(r.IntN(3)), Value: []byte(strings.Repeat("x", r.IntN(3000)))}
			if op.Delete = r.IntN(5) == 0; op.Delete {
				op.Value = nil
			}
			if _, err := e.Write(t.Context(), op); err != nil && !errors.As(err, new(*store.ConflictError)) {
				t.Fatal(err)
			}
			var err error
			if r.IntN(20) == 0 {
				err = e.Compact(t.Context(), e.Horizon()+r.Int64N(e.Revision()-e.Horizon()+1))
			}
			if r.IntN(100) == 0 {
				err = errors.Join(err, e.Forget(t.Context(), fmt.Sprint("k", r.IntN(3))))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Compact(t.Context(), e.Revision()); err != nil {
			t.Fatal(err)
		}
		if err := agree(e); err != nil {
			t.Fatalf("round %d with %+v: %v", round, k, err)
		}
		if st, err := e.past.state(t.Context()); err != nil || st.Bytes > k.Bytes {
			t.Fatalf("%d bytes, more than %d: %v", st.Bytes, k.Bytes, err)
		}
		if round == 4 {
			if err := e.Forget(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if st, err := e.past.state(t.Context()); err != nil || st.Bytes != 0 || agree(e) != nil {
				t.Fatalf("%d bytes are left of nothing: %v", st.Bytes, errors.Join(err, agree(e)))
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A diary is what was written, by key: the revisions, with the values.
type diary struct {
	mu   sync.Mutex
	keys map[string]map[store.Revision]string
}

func (d *diary) note(key string, rev store.Revision, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keys == nil {
		d.keys = map[string]map[store.Revision]string{}
	}
	if d.keys[key] == nil {
		d.keys[key] = map[store.Revision]string{}
	}
	d.keys[key][rev] = value
}

// check says whether a history that loses nothing has every version once, each
// following the one before.
func (d *diary) check(e *Engine) error {
	for key, want := range d.keys {
		seq, err := e.History(context.Background(), key)
		if err != nil {
			return err
		}
		n := 0
		newer := store.Version{Record: store.Record{Revision: 1 << 60}}
		for v, err := range seq {
			value, ok := want[v.Revision]
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", key, err)
			case v.Revision >= newer.Revision, newer.Prev != store.Absent && newer.Prev != v.Revision, n > 0 && v.Until != newer.Revision && !v.Deleted:
				return fmt.Errorf("%s: %d until %d is before %d, which follows %d", key, v.Revision, v.Until, newer.Revision, newer.Prev)
			case !ok || value != string(v.Value):
				return fmt.Errorf("%s at %d is %q instead of %q", key, v.Revision, v.Value, value)
			}
			n++
			newer = v
		}
		if n != len(want) {
			return fmt.Errorf("%s has %d versions instead of %d", key, n, len(want))
		}
	}
	return agree(e)
}

// write makes n changes of a few keys.
func (d *diary) write(e *Engine, who string, n int) error {
	for i := range n {
		op := store.Op{Key: fmt.Sprint(who, "/", i%3), Value: fmt.Append(nil, who, i), Expect: store.Any}
		if i%7 == 6 {
			op.Delete, op.Value = true, nil
		}
		rev, err := e.Write(context.Background(), op)
		if c := (*store.ConflictError)(nil); errors.As(err, &c) {
			continue
		}
		if err != nil {
			return err
		}
		d.note(op.Key, rev, string(op.Value))
	}
	return nil
}

// TestPastCrash ends a server between the moves and the compaction, at different
// points, and goes on with another one.
func TestPastCrash(t *testing.T) {
	s := etcdtest.Start(t)
	var d diary
	for i, to := range []etcdRevision{0, 40, 41, 90, 1 << 40} {
		e := openPast(t, s, lossless)
		if err := d.check(e); err != nil {
			t.Fatalf("life %d: %v", i, err)
		}
		if err := d.write(e, "a", 60); err != nil {
			t.Fatal(err)
		}
		e.past.busy.Lock()
		if err := e.past.moveUpTo(t.Context(), min(to, e.position())); err != nil {
			t.Fatal(err)
		}
		e.past.busy.Unlock()
		if err := d.check(e); err != nil {
			t.Fatalf("moved up to %d: %v", to, err)
		}
		e.stop() // as by kill -9: nothing is given back
	}
	e := openPast(t, s, lossless)
	defer e.Close()
	if err := e.Compact(t.Context(), e.Revision()-7); err != nil {
		t.Fatal(err)
	}
	if err := d.check(e); err != nil {
		t.Fatal(err)
	}
}

// TestPastLate holds a transaction back until what it does was done otherwise, and
// more: it is not made then.
func TestPastLate(t *testing.T) {
	s := etcdtest.Start(t)
	e := openPast(t, s, lossless)
	defer e.Close()
	var d diary
	if err := d.write(e, "a", 40); err != nil {
		t.Fatal(err)
	}
	p := &e.past
	for _, to := range []store.Revision{8, 22, 38} {
		late, n, err := p.prepare(t.Context(), p.queued(etcdRevision(to)))
		if err != nil || late == nil || n == 0 {
			t.Fatalf("%v, %d changes, %v", late, n, err)
		}
		if err := e.Compact(t.Context(), min(to+8, e.Revision())); err != nil {
			t.Fatal(err)
		}
		if made, err := late.finish(t.Context()); err != nil || made {
			t.Fatalf("it was made: %v, %v", made, err)
		}
		if err := d.check(e); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPastOverflow has more changes than are remembered: they are read again.
func TestPastOverflow(t *testing.T) {
	s := etcdtest.Start(t)
	e := openPast(t, s, lossless)
	defer e.Close()
	var d diary
	if err := d.write(e, "a", 50); err != nil {
		t.Fatal(err)
	}
	e.past.mu.Lock()
	e.past.queue, e.past.from = nil, e.position()
	e.past.mu.Unlock()
	if err := d.write(e, "a", 50); err != nil {
		t.Fatal(err)
	}
	for _, rev := range []store.Revision{20, 60, e.Revision()} {
		if err := e.Compact(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		if err := d.check(e); err != nil {
			t.Fatalf("compacted to %d: %v", rev, err)
		}
	}
}

// TestPastOfTwo has two servers move the same versions at the same time, while both write.
func TestPastOfTwo(t *testing.T) {
	s := etcdtest.Start(t)
	var d diary
	var wg sync.WaitGroup
	var engines []*Engine
	for _, who := range []string{"a", "b"} {
		e := openPast(t, s, lossless)
		defer e.Close()
		engines = append(engines, e)
		wg.Go(func() {
			for range 12 {
				if err := d.write(e, who, 12); err != nil {
					t.Error(err)
				}
				if err := e.Compact(context.Background(), e.Revision()-2); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, e := range engines {
		if err := d.check(e); err != nil {
			t.Error(err)
		}
	}
}

// TestPastOverKills compacts while etcd is killed again and again.
func TestPastOverKills(t *testing.T) {
	s := etcdtest.Start(t)
	e := openPast(t, s, lossless)
	defer e.Close()
	var d diary
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for range 60 {
			if err := d.write(e, "a", 20); err != nil {
				t.Error(err)
			}
			if err := e.Compact(context.Background(), e.Revision()-3); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 4 {
		for e.Revision() < store.Revision(150*(i+1)) {
			select {
			case <-done:
			case <-time.After(5 * time.Millisecond):
				continue
			}
			break
		}
		s.Kill()
		s.Run()
	}
	wg.Wait()
	if err := d.check(e); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedPast damages keys of the history: what is damaged is told or made
// anew, the rest stays.
func TestDamagedPast(t *testing.T) {
	s := etcdtest.Start(t)
	e := openPast(t, s, lossless)
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
	for _, key := range [][]byte{e.keys.version("k", 2), e.keys.index("k")} {
		r, err := e.rangeOf(t.Context(), &pb.RangeRequest{Key: key})
		if err != nil || len(r.Kvs) != 1 {
			t.Fatalf("%q: %v, %v", key, r, err)
		}
		r.Kvs[0].Value[len(r.Kvs[0].Value)-1] ^= 4
		if _, err := e.cluster.current().kv.Put(t.Context(), &pb.PutRequest{Key: key, Value: r.Kvs[0].Value}); err != nil {
			t.Fatal(err)
		}
	}
	put("value 5")
	if err := e.Compact(t.Context(), e.Revision()); err != nil {
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
		got += fmt.Sprint(" ", string(v.Value[6:]))
	}
	if got != " 5 4 3 2 !2 0" {
		t.Errorf("the history is%s", got)
	}
	if err := e.Forget(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
}

// TestPastCostsNothing writes what has no history, and finds that a compaction does
// not write at all.
func TestPastCostsNothing(t *testing.T) {
	s := etcdtest.Start(t)
	e := openPast(t, s, store.Keeping{Keep: func(key string) bool { return key[0] != 'e' }, Full: 5, Light: 5, Bytes: 1 << 20})
	defer e.Close()
	write := func(op store.Op) store.Revision {
		t.Helper()
		rev, err := e.Write(t.Context(), op)
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	for i := range 20 {
		write(store.Op{Key: fmt.Sprint("made/", i), Value: []byte("1")})
		rev := write(store.Op{Key: fmt.Sprint("pod/", i), Value: []byte("1"), Weight: store.Passing})
		rev = write(store.Op{Key: fmt.Sprint("pod/", i), Value: []byte("2"), Weight: store.Passing, Expect: rev})
		rev = write(store.Op{Key: fmt.Sprint("pod/", i), Value: []byte("3"), Weight: store.Passing, Expect: rev})
		if i%2 == 0 {
			write(store.Op{Key: fmt.Sprint("pod/", i), Delete: true, Weight: store.Passing, Expect: rev})
		}
		write(store.Op{Key: "event", Value: []byte("1"), Expect: store.Any})
	}
	r, err := e.rangeOf(t.Context(), &pb.RangeRequest{Key: e.keys.meta()})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Compact(t.Context(), e.Revision()); err != nil {
		t.Fatal(err)
	}
	after, err := e.rangeOf(t.Context(), &pb.RangeRequest{Key: e.keys.meta()})
	if err != nil || after.Header.Revision != r.Header.Revision {
		t.Fatalf("etcd is at %d, it was at %d: %v", after.Header.Revision, r.Header.Revision, err)
	}
}

// TestPastNoSpace compacts an etcd that is full: without room for a history it goes
// on without one.
func TestPastNoSpace(t *testing.T) {
	s := etcdtest.Start(t, "--quota-backend-bytes=8388608")
	e := openPast(t, s, lossless)
	defer e.Close()
	value := make([]byte, 700<<10) // more than is moved at a time otherwise
	write := func(i int) error {
		value[0] = byte(i)
		_, err := e.Write(t.Context(), store.Op{Key: "k", Value: slices.Clone(value), Expect: store.Any})
		return err
	}
	states := func() (n int) {
		t.Helper()
		seq, err := e.History(t.Context(), "k")
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
	for i := range 3 {
		if err := write(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Compact(t.Context(), e.Revision()); err != nil {
		t.Fatal(err)
	}
	if n := states(); n != 3 {
		t.Fatalf("%d states", n)
	}
	var err error
	for i := 3; err == nil && i < 100; i++ {
		err = write(i)
	}
	if !errors.Is(err, store.ErrReadOnly) {
		t.Fatal(err)
	}
	// What the engine itself has put away or given up meanwhile counts as a revision too, and may be seen late.
	at := e.Revision()
	if err := e.Compact(t.Context(), at); err != nil || e.Horizon() != at {
		t.Fatalf("the horizon is at %d of %d: %v", e.Horizon(), at, err)
	}
	if n := states(); n != 3 { // the two that moved when there was room, and the present one
		t.Errorf("%d states", n)
	}
	if err := agree(e); err != nil {
		t.Error(err)
	}
}

// The writes that reach etcd's quota are made by etcd, and answered as if they were not: what
// is said of each write is what has become of it.
func TestNoSpaceIsTold(t *testing.T) {
	s := etcdtest.Start(t, "--quota-backend-bytes=8388608")
	e := openPast(t, s, lossless)
	defer e.Close()
	told := make([]error, 80)
	write := func(i int) {
		_, told[i] = e.Write(t.Context(), store.Op{Key: fmt.Sprint("k", i), Value: make([]byte, 700<<10), Expect: store.Absent})
	}
	var writers sync.WaitGroup // etcd looks for room before and while it makes a write: only together are they caught in between
	for i := range 40 {
		writers.Go(func() { write(i) })
	}
	writers.Wait()
	for i := 40; i < len(told); i++ {
		write(i)
	}
	full := 0
	for i, err := range told {
		r, _, gerr := e.Get(t.Context(), fmt.Sprint("k", i))
		if gerr != nil || (r != nil) != (err == nil) {
			t.Errorf("k%d was told %v, and is there: %v (%v)", i, err, r != nil, gerr)
		}
		if err != nil {
			full++
			if !errors.Is(err, store.ErrReadOnly) {
				t.Errorf("k%d: %v", i, err)
			}
		}
	}
	if full == 0 || full == len(told) {
		t.Errorf("%d of %d had no room", full, len(told))
	}
}
