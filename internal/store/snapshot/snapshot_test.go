package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"proa/internal/store"
	"proa/internal/store/etcd"
	"proa/internal/store/etcd/etcdtest"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
	"proa/internal/store/snapshot"
	"proa/internal/store/storetest"
)

// fill makes objects, changes some and deletes some.
func fill(t testing.TB, e store.Engine) {
	t.Helper()
	r := storetest.Rand(t)
	write := func(op store.Op) {
		t.Helper()
		if _, err := e.Write(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 {
		value := make([]byte, r.IntN(3000))
		for j := range value {
			value[j] = byte(r.Uint32())
		}
		op := store.Op{Key: fmt.Sprintf("/core/%s/ns/%d", []string{"pods", "secrets", "events"}[i%3], i), Value: value,
			User: []string{"ann", ""}[i%2], Codec: uint16(i), Expect: store.Absent}
		if i%3 == 2 {
			op.TTL = time.Hour
		}
		write(op)
		if i%7 == 0 {
			write(store.Op{Key: op.Key, Value: value, Expect: store.Any, User: "bob"})
		}
		if i%11 == 0 {
			write(store.Op{Key: op.Key, Delete: true, Expect: store.Any})
		}
	}
	write(store.Op{Key: "/apps/deployments/ns/web", Value: []byte("x"), Expect: store.Absent})
}

func all(t testing.TB, e store.Engine) []store.Record {
	t.Helper()
	seq, _, err := e.Range(t.Context(), "", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []store.Record
	for r, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func take(t testing.TB, e store.Engine) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := snapshot.Write(t.Context(), &b, e, snapshot.Header{Store: "test"}, true); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func restore(b []byte, e store.Engine) snapshot.Restore {
	return snapshot.Restore{Engine: e, Name: "a file", Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func openLSM(t testing.TB, clock store.Clock) store.Engine {
	return openLSMKeeping(t, clock, store.Keeping{})
}

func openLSMKeeping(t testing.TB, clock store.Clock, k store.Keeping) store.Engine {
	t.Helper()
	e, err := lsm.Open(t.TempDir(), lsm.Options{Clock: clock, History: k})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func openEtcd(t testing.TB, clock store.Clock) store.Engine {
	return openEtcdKeeping(t, clock, store.Keeping{})
}

func openEtcdKeeping(t testing.TB, clock store.Clock, k store.Keeping) store.Engine {
	t.Helper()
	e, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{etcdtest.Start(t).Endpoint}, Clock: clock, History: k})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// TestRoundTrip goes from engine to engine: every record is the same but for its
// revision and its time, which only rise.
func TestRoundTrip(t *testing.T) {
	type open func(testing.TB, store.Clock) store.Engine
	mem := func(_ testing.TB, c store.Clock) store.Engine { return memory.New(c) }
	for name, way := range map[string][]open{
		"memory to lsm to memory": {mem, openLSM, mem},
		"lsm to etcd to lsm":      {openLSM, openEtcd, openLSM},
		"etcd to memory to etcd":  {openEtcd, mem, openEtcd},
	} {
		t.Run(name, func(t *testing.T) {
			clock := storetest.NewClock()
			was := way[0](t, clock)
			fill(t, was)
			for _, open := range way[1:] {
				clock.Advance(10 * time.Minute)
				b := take(t, was)
				e := open(t, clock)
				r := restore(b, e)
				r.Now = clock.Now
				said := int64(0)
				r.Say = func(done, of int64) { said = max(said, done*1000/of) }
				sum, err := r.Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				before, after := all(t, was), all(t, e)
				if len(before) == 0 || int64(len(before)) != sum.Objects || said != 1000 {
					t.Fatalf("%d objects, the summary says %d, the progress %d", len(before), sum.Objects, said)
				}
				ignore := cmpopts.IgnoreFields(store.Record{}, "Revision", "Created", "Time")
				if d := cmp.Diff(before, after, ignore, cmpopts.EquateEmpty()); d != "" {
					t.Fatalf("(-before +after):\n%s", d)
				}
				for i := range after {
					if after[i].Revision <= was.Revision() {
						t.Fatalf("%s is at revision %d, and %d was given out before", after[i].Key, after[i].Revision, was.Revision())
					}
				}
				if _, err := e.Watch(t.Context(), "", was.Revision()); !errors.Is(err, store.ErrCompacted) {
					t.Fatalf("a watch from before: %v", err)
				}
				was = e
			}
			clock.Advance(39 * time.Minute)
			if !slices.ContainsFunc(all(t, was), func(r store.Record) bool { return !r.Expires.IsZero() }) {
				t.Fatal("what expires is gone too early")
			}
			clock.Advance(2 * time.Minute)
			for _, r := range all(t, was) {
				if !r.Expires.IsZero() {
					t.Fatalf("%s has outlived its hour", r.Key)
				}
			}
		})
	}
}

// However a file is cut or changed, it is not taken for whole.
func TestDamage(t *testing.T) {
	e := memory.Keeping(nil, keep)
	for i := range 8 { // one is changed, two are deleted
		op := store.Op{Key: fmt.Sprint("/core/pods/", min(i, 5)%5), Value: []byte("value"), User: "u", Expect: store.Any, Weight: store.Weight(i % 2)}
		op.Delete = i > 5
		op.Key = strings.Replace(op.Key, "0", fmt.Sprint(max(i-5, 0)), 1)
		if _, err := e.Write(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	b := take(t, e)
	s, err := snapshot.Read(bytes.NewReader(b), snapshot.Visitor{})
	if err != nil || s.Objects != 3 || s.Size != int64(len(b)) || *s.History != (snapshot.History{States: 5, Objects: 3, Bytes: 15}) {
		t.Fatalf("%+v, %v", s, err)
	}
	bad := func(what string, b []byte) {
		t.Helper()
		var damage *snapshot.DamageError
		if _, err := snapshot.Read(bytes.NewReader(b), snapshot.Visitor{}); !errors.As(err, &damage) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for n := range b {
		bad(fmt.Sprintf("cut at %d", n), b[:n])
		x := slices.Clone(b)
		x[n] ^= 1 << (n % 8)
		if _, err := snapshot.Read(bytes.NewReader(x), snapshot.Visitor{}); err == nil {
			t.Fatalf("bit %d of byte %d", n%8, n)
		}
	}
	bad("something behind it", append(slices.Clone(b), 'x'))
	bad("two of them", append(slices.Clone(b), b...))
	bad("another file", []byte("apiVersion: v1\nkind: List\n"))
}

// A store that fails on the way says so in the file.
func TestUnfinished(t *testing.T) {
	e := memory.New(nil)
	fill(t, e)
	var b bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	err := snapshot.Write(ctx, &hook{w: &b, f: cancel}, e, snapshot.Header{}, true)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("write: %v", err)
	}
	var failed *snapshot.FailedError
	if _, err := snapshot.Read(&b, snapshot.Visitor{}); !errors.As(err, &failed) || !strings.Contains(failed.Reason, "canceled") {
		t.Fatalf("read: %v", err)
	}
}

// A hook calls f at the first write.
type hook struct {
	w io.Writer
	f func()
}

func (h *hook) Write(b []byte) (int, error) {
	h.f()
	return h.w.Write(b)
}

func TestRestoreNeedsAnEmptyStore(t *testing.T) {
	from := memory.New(nil)
	fill(t, from)
	b := take(t, from)
	e := memory.New(nil)
	if _, err := e.Write(t.Context(), store.Op{Key: "/core/pods/other", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	r := restore(b, e)
	_, err := r.Run(t.Context())
	var full *snapshot.NotEmptyError
	if !errors.As(err, &full) || full.Key != "/core/pods/other" || len(all(t, e)) != 1 {
		t.Fatalf("%v", err)
	}
	r.Replace = true
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := len(all(t, e)), len(all(t, from)); got != want {
		t.Fatalf("%d objects instead of %d", got, want)
	}
	r = restore(b[:len(b)-1], e)
	r.Replace = true
	if _, err := r.Run(t.Context()); err == nil || len(all(t, e)) != len(all(t, from)) {
		t.Fatalf("a damaged file was not refused before anything was done: %v", err)
	}
}

// A restore that was cut off is seen, and can be run again.
func TestRestoreCutOff(t *testing.T) {
	from := memory.New(nil)
	fill(t, from)
	b := take(t, from)
	e := memory.New(nil)
	ctx, cancel := context.WithCancel(t.Context())
	r := restore(b, e)
	r.Say = func(done, _ int64) {
		if done == 20 {
			cancel()
		}
	}
	if _, err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	var half *snapshot.UnfinishedError
	if err := snapshot.Finished(t.Context(), e); !errors.As(err, &half) || half.From != "a file" {
		t.Fatalf("%v", err)
	}
	again := restore(b, e)
	if _, err := again.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Finished(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(all(t, from), all(t, e), cmpopts.IgnoreFields(store.Record{}, "Revision", "Created", "Time", "Expires")); d != "" {
		t.Fatal(d)
	}
}

// The jump goes by how old the snapshot is, and over what is known otherwise.
func TestAbove(t *testing.T) {
	from := memory.New(nil)
	fill(t, from)
	b := take(t, from)
	for _, c := range []struct {
		above store.Revision
		age   time.Duration
		want  store.Revision
	}{
		{0, 0, from.Revision() + snapshot.Ahead},
		{0, time.Hour, from.Revision() + snapshot.Ahead + 3600*snapshot.AheadPerSecond},
		{1 << 40, 0, 1<<40 + snapshot.Ahead},
	} {
		e := memory.New(nil)
		r := restore(b, e)
		r.Above = c.above
		s, err := snapshot.Read(bytes.NewReader(b), snapshot.Visitor{})
		if err != nil {
			t.Fatal(err)
		}
		r.Now = func() time.Time { return s.Time.Add(c.age) }
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := all(t, e)[0].Created; got <= c.want || got > c.want+1000 {
			t.Errorf("%+v: the first record has revision %d", c, got)
		}
	}
}

func FuzzRead(f *testing.F) {
	e := memory.New(nil)
	for i := range 3 {
		if _, err := e.Write(context.Background(), store.Op{Key: fmt.Sprint("/core/pods/", i), Value: []byte("v")}); err != nil {
			f.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := snapshot.Write(context.Background(), &b, e, snapshot.Header{}, true); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:50])
	f.Fuzz(func(t *testing.T, in []byte) {
		n := int64(0)
		s, err := snapshot.Read(bytes.NewReader(in), snapshot.Visitor{Record: func(store.Record) error { n++; return nil }})
		if err == nil && (s.Objects != n || s.Size != int64(len(in))) {
			t.Fatalf("%d objects, %d bytes: %+v", n, len(in), s)
		}
	})
}
