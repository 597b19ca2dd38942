package snapshot_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"proa/internal/store"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
	"proa/internal/store/snapshot"
	"proa/internal/store/storetest"
)

// keep is what the engines of these tests keep.
var keep = store.Keeping{Keep: func(key string) bool { return !strings.HasPrefix(key, "/core/secrets/") }, Full: 4, Light: 2, Bytes: 1 << 30}

// live makes a life of some objects, and compacts a part of it.
func live(t testing.TB, e store.Engine, clock *storetest.Clock) {
	t.Helper()
	r := storetest.Rand(t)
	for i := range 600 {
		key := fmt.Sprintf("/%s/ns/%d", []string{"core/pods", "core/secrets", "apps/deployments"}[r.IntN(3)], r.IntN(12))
		rec, _, err := e.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		op := store.Op{Key: key, User: []string{"ann", "bob"}[r.IntN(2)], Weight: store.Weight(r.IntN(3)), Codec: 2}
		if rec != nil {
			op.Expect, op.Delete = rec.Revision, r.IntN(6) == 0
		}
		if !op.Delete {
			op.Value = fmt.Appendf(nil, "%d %s", i, strings.Repeat("z", r.IntN(400)))
		}
		clock.Advance(time.Second)
		if _, err := e.Write(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		if i == 200 || i == 450 {
			if err := e.Compact(t.Context(), e.Revision()-10); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := e.Write(t.Context(), store.Op{Key: "/core/pods/ns/once", Value: []byte("x"), User: "ann"}); err != nil {
		t.Fatal(err)
	}
}

func past(t testing.TB, e store.Engine) []store.Version {
	t.Helper()
	seq, err := e.(store.Historian).Past(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []store.Version
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(v.Key, "/") {
			out = append(out, v)
		}
	}
	return out
}

// TestHistoryRoundTrip goes from engine to engine: what is past is the same, with its
// revisions, and what is present has a new one and remembers the old.
func TestHistoryRoundTrip(t *testing.T) {
	type open func(testing.TB, store.Clock, store.Keeping) store.Engine
	mem := func(_ testing.TB, c store.Clock, k store.Keeping) store.Engine { return memory.Keeping(c, k) }
	for name, way := range map[string][]open{
		"memory to lsm to memory": {mem, openLSMKeeping, mem},
		"lsm to etcd to lsm":      {openLSMKeeping, openEtcdKeeping, openLSMKeeping},
		"etcd to memory to etcd":  {openEtcdKeeping, mem, openEtcdKeeping},
	} {
		t.Run(name, func(t *testing.T) {
			clock := storetest.NewClock()
			was := way[0](t, clock, keep)
			live(t, was, clock)
			for _, open := range way[1:] {
				clock.Advance(10 * time.Minute)
				before := past(t, was)
				b := take(t, was)
				e := open(t, clock, keep)
				live(t, e, clock) // which makes room for the snapshot's
				r := restore(b, e)
				r.Now, r.Replace = clock.Now, true
				sum, err := r.Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				after := past(t, e)
				states := 0
				for i := range before {
					v := &before[i]
					if v.Until != 0 {
						states++
						continue
					}
					v.Was, v.Revision, v.Created = v.Revision, 0, 0
				}
				for i := range after {
					v := &after[i]
					if v.Until == 0 {
						if v.Revision <= was.Revision() {
							t.Fatalf("%s has the revision %d again", v.Key, v.Revision)
						}
						v.Revision, v.Created = 0, 0
					}
				}
				if d := cmp.Diff(before, after, cmpopts.EquateEmpty()); d != "" {
					t.Fatalf("(-before +after):\n%s", d)
				}
				if states < 50 || sum.History == nil || sum.History.States != int64(states) {
					t.Fatalf("%d states, the summary says %+v", states, sum.History)
				}
				was = e
			}
			// Life goes on, and what was present becomes past in its turn.
			rec, _, err := was.Get(t.Context(), "/core/pods/ns/once")
			if err != nil || rec == nil {
				t.Fatal(err)
			}
			if _, err := was.Write(t.Context(), store.Op{Key: rec.Key, Delete: true, Expect: rec.Revision}); err != nil {
				t.Fatal(err)
			}
			if err := was.Compact(t.Context(), was.Revision()); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, v := range past(t, was) {
				if v.Key == rec.Key {
					got += fmt.Sprint(" ", v.Deleted, v.Prev == rec.Revision, v.Was != 0, v.Time.Equal(rec.Time))
				}
			}
			if got != " true true false false false false true true" {
				t.Errorf("the end of it is%s", got)
			}
		})
	}
}

// What the place keeps decides what of a history arrives.
func TestHistoryOfAnotherSize(t *testing.T) {
	clock := storetest.NewClock()
	from := memory.Keeping(clock, keep)
	live(t, from, clock)
	b := take(t, from)
	less := keep
	less.Full, less.Light = 2, 1
	want := map[string][]store.Revision{}
	full, light, last := 0, 0, ""
	for _, v := range past(t, from) {
		if v.Key != last {
			full, light, last = 0, 0, v.Key
		}
		if v.Until == 0 || full > 2 {
			continue
		}
		if v.Weight == store.Light {
			light++
		} else {
			full++
		}
		if full <= 2 && (v.Weight != store.Light || light <= 1) {
			want[v.Key] = append(want[v.Key], v.Revision)
		}
	}
	for name, e := range map[string]store.Engine{
		"lsm": openLSMKeeping(t, clock, less), "memory": memory.Keeping(clock, less), "none": openLSM(t, clock)} {
		r := restore(b, e)
		r.Now = clock.Now
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "none" {
			continue
		}
		got := map[string][]store.Revision{}
		for _, v := range past(t, e) {
			if v.Until != 0 {
				got[v.Key] = append(got[v.Key], v.Revision)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s (-want +got):\n%s", name, d)
		}
	}
}

// A snapshot without a history, or one that is restored without it, leaves what the
// engine has; one that is damaged changes nothing.
func TestHistoryStays(t *testing.T) {
	clock := storetest.NewClock()
	from := memory.Keeping(clock, keep)
	live(t, from, clock)
	whole := take(t, from)
	var old bytes.Buffer
	if err := snapshot.Write(t.Context(), &old, from, snapshot.Header{}, false); err != nil {
		t.Fatal(err)
	}
	if s, err := snapshot.Read(bytes.NewReader(old.Bytes()), snapshot.Visitor{}); err != nil || s.History != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	if plain := take(t, memory.New(nil)); bytes.Contains(plain, []byte(snapshot.Past)) {
		t.Fatal("an engine without a history has one")
	}
	e, err := lsm.Open(t.TempDir(), lsm.Options{Clock: clock, History: keep})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, value := range []string{"1", "2"} {
		if _, err := e.Write(t.Context(), store.Op{Key: "/core/pods/ns/own", Value: []byte(value), Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
	}
	clock.Advance(time.Minute)
	own := func(what string, r snapshot.Restore, fails bool, want string) {
		t.Helper()
		r.Now, r.Replace = clock.Now, true
		if _, err := r.Run(t.Context()); (err != nil) != fails {
			t.Fatalf("%s: %v", what, err)
		}
		got := ""
		for _, v := range past(t, e) {
			if v.Key == "/core/pods/ns/own" {
				got += fmt.Sprintf("%s %v, ", v.Value, v.Deleted)
			}
		}
		if got != want {
			t.Fatalf("%s: the history is %q instead of %q", what, got, want)
		}
	}
	n := bytes.LastIndex(whole, []byte("z")) + 1 // the end of the history's last value
	broken := bytes.Clone(whole)
	broken[n-1] ^= 1
	own("damaged", restore(broken, e), true, "2 false, 1 false, ")
	own("cut short", restore(whole[:n], e), true, "2 false, 1 false, ")
	without := restore(whole, e)
	without.Forget = true
	own("without", without, false, " true, 2 false, 1 false, ")
	own("old", restore(old.Bytes(), e), false, " true, 2 false, 1 false, ")
	if rec, _, err := e.Get(t.Context(), "/core/pods/ns/once"); err != nil || !rec.Time.Equal(clock.Now()) {
		t.Fatalf("%+v, %v", rec, err)
	}
	own("whole", restore(whole, e), false, "")
	if rec, _, err := e.Get(t.Context(), "/core/pods/ns/once"); err != nil || !rec.Time.Before(clock.Now()) {
		t.Fatalf("%+v, %v", rec, err)
	}
}
