package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"proa/internal/store"
)

// A KeepingOpener is an [Opener] of engines with a history.
type KeepingOpener func(t testing.TB, clock store.Clock, k store.Keeping) store.Engine

// RunHistory passes an engine that is a store.Historian through the suite of those.
func RunHistory(t *testing.T, durable bool, place func(t *testing.T) KeepingOpener) {
	for _, c := range []struct {
		name string
		keep store.Keeping
		run  func(*suite)
	}{
		{name: "EverythingIsKept", keep: keepAll, run: everythingIsKept},
		{name: "CapsPerKey", keep: store.Keeping{Keep: keepA, Full: 3, Light: 2, Bytes: 1 << 30}, run: capsPerKey},
		{name: "CapInAll", keep: store.Keeping{Keep: keepA, Full: 1 << 20, Bytes: 20_000}, run: capInAll},
		{name: "Forget", keep: keepAll, run: forget},
		{name: "WhileItMoves", keep: keepAll, run: whileItMoves},
		{name: "NoHistory", keep: store.Keeping{}, run: noHistory},
		{name: "OverAdvance", keep: keepAll, run: historyOverAdvance},
		{name: "Past", keep: store.Keeping{Keep: keepA, Full: 3, Light: 2, Bytes: 1 << 30}, run: allOfThePast},
		{name: "Adopt", keep: store.Keeping{Keep: keepA, Full: 4, Light: 2, Bytes: 1 << 30}, run: adopt},
		{name: "AdoptCapInAll", keep: store.Keeping{Keep: keepA, Full: 1 << 20, Light: 1 << 20, Bytes: 20_000}, run: adoptCapInAll},
		{name: "Origin", keep: keepAll, run: origin},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			open := place(t)
			s := &suite{T: t, clock: NewClock(), open: func(t testing.TB, clock store.Clock) store.Engine { return open(t, clock, c.keep) }}
			s.Engine = s.open(t, s.clock)
			s.durable = durable
			defer func() { s.Engine.Close() }()
			c.run(s)
		})
	}
}

var keepAll = store.Keeping{Keep: func(string) bool { return true }, Full: 1 << 20, Light: 1 << 20, Bytes: 1 << 40}

func keepA(key string) bool { return strings.HasPrefix(key, "a") }

// A life is a model of a history: all versions there ever were, by key, ascending.
type life map[string][]store.Version

// change makes a random change to a key.
func (s *suite) change(l life, key string, r *rand.Rand) {
	s.Helper()
	vs := l[key]
	op := store.Op{Key: key, Expect: store.Any, User: []string{"", "ann", "bob"}[r.IntN(3)], Weight: store.Weight(r.IntN(3))}
	v := store.Version{Weight: op.Weight}
	alive := len(vs) > 0 && !vs[len(vs)-1].Deleted
	if alive {
		last := &vs[len(vs)-1]
		v.Prev, v.Created = last.Revision, last.Created
	}
	if alive && r.IntN(4) == 0 {
		op.Delete, v.Deleted = true, true
	} else {
		op.Value, op.Codec = fmt.Appendf(nil, "value %d %s", r.IntN(1e6), strings.Repeat("x", r.IntN(200))), uint16(r.IntN(3))
		v.Value, v.Codec = op.Value, op.Codec
	}
	s.clock.Advance(time.Duration(r.IntN(1000)))
	v.Revision = s.write(op)
	v.Key, v.User, v.Time = key, op.User, s.clock.Now()
	if v.Created == 0 {
		v.Created = v.Revision
	}
	if alive {
		vs[len(vs)-1].Until = v.Revision
	}
	if v.Deleted {
		v.Until = v.Revision
	}
	l[key] = append(vs, v)
}

func (s *suite) past(key string) []store.Version {
	s.Helper()
	seq, err := s.Engine.(store.Historian).History(context.Background(), key)
	if err != nil {
		s.Fatalf("history of %s: %v", key, err)
	}
	var out []store.Version
	for v, err := range seq {
		if err != nil {
			s.Fatalf("history of %s: %v", key, err)
		}
		out = append(out, v)
	}
	slices.Reverse(out)
	return out
}

func (s *suite) compact(to store.Revision) {
	s.Helper()
	if err := s.Compact(context.Background(), to); err != nil {
		s.Fatal(err)
	}
}

// above says whether a version is there without any history: it, or what it
// was until, lies above the horizon.
func above(v *store.Version, horizon store.Revision) bool {
	return v.Until == 0 || v.Until > horizon
}

func (s *suite) lives(n int, each func(l life, r *rand.Rand, i int)) life {
	l, r := life{}, s.rand()
	for i := range n {
		s.change(l, fmt.Sprintf("%s/%d", []string{"a", "a-b", "b"}[r.IntN(3)], r.IntN(4)), r)
		each(l, r, i)
	}
	return l
}

func everythingIsKept(s *suite) {
	check := func(l life) {
		s.Helper()
		for key, vs := range l {
			want := slices.DeleteFunc(slices.Clone(vs), func(v store.Version) bool {
				return v.Weight == store.Passing && !above(&v, s.Horizon())
			})
			s.same("history of "+key, s.past(key), want)
		}
	}
	s.lives(400, func(l life, r *rand.Rand, i int) {
		if r.IntN(20) == 0 {
			s.compact(s.Horizon() + r.Int64N(s.Revision()-s.Horizon()+1))
		}
		if s.durable && i%90 == 89 {
			s.reopen()
		}
		if i%50 == 49 {
			check(l)
			if len(s.past("a/none")) != 0 {
				s.Fatal("a key that never was has a history")
			}
		}
	})
	if err := s.Close(); err != nil {
		s.Fatal(err)
	}
	_, err := s.Engine.(store.Historian).History(context.Background(), "a/0")
	s.fails("history of what is closed", err, store.ErrClosed)
	_, err = s.Engine.(store.Historian).Past(context.Background(), 0)
	s.fails("the past of what is closed", err, store.ErrClosed)
	s.fails("adopt into what is closed", s.Engine.(store.Historian).Adopt(context.Background(), nil), store.ErrClosed)
	s.fails("forget what is closed", s.Engine.(store.Historian).Forget(context.Background(), ""), store.ErrClosed)
}

func capsPerKey(s *suite) {
	s.lives(600, func(l life, r *rand.Rand, i int) {
		if i%30 != 29 {
			return
		}
		s.compact(s.Horizon() + r.Int64N(s.Revision()-s.Horizon()+1))
		if s.durable && i%200 == 59 {
			s.reopen()
		}
		for key, vs := range l {
			if !keepA(key) {
				_, err := s.Engine.(store.Historian).History(context.Background(), key)
				s.fails("history of "+key, err, store.ErrNoHistory)
				continue
			}
			var want []store.Version
			full, light := 0, 0
			for i := len(vs) - 1; i >= 0; i-- {
				switch v := vs[i]; {
				case above(&v, s.Horizon()):
					want = append(want, v)
				case v.Weight == store.Passing || full > 3:
				case v.Weight == store.Light:
					if light++; light <= 2 {
						want = append(want, v)
					}
				default:
					if full++; full <= 3 {
						want = append(want, v)
					}
				}
			}
			slices.Reverse(want)
			s.same(fmt.Sprintf("history of %s with the horizon at %d", key, s.Horizon()), s.past(key), want)
		}
	})
}

// capInAll checks that what ended first goes first, and that no more goes than
// must. What a version counts is the engine's own, up to a few hundred bytes.
func capInAll(s *suite) {
	const most, slack = 20_000, 300
	l, r := life{}, s.rand()
	for round := range 12 {
		for range 100 {
			s.change(l, fmt.Sprintf("a/%d", r.IntN(30)), r)
		}
		s.compact(s.Revision())
		if s.durable && round%4 == 3 {
			s.reopen()
		}
		oldest, bytes, kept := s.Revision(), 0, 0
		left, lost := map[store.Revision]bool{}, store.Revision(0)
		for key := range l {
			for _, v := range s.past(key) {
				left[v.Revision] = true
				if !above(&v, s.Horizon()) {
					oldest = min(oldest, v.Until)
					bytes += len(v.Value)
					kept++
				}
			}
		}
		for _, vs := range l {
			for _, v := range vs {
				if v.Weight == store.Full && !above(&v, s.Horizon()) && !left[v.Revision] {
					lost = max(lost, v.Until)
				}
			}
		}
		switch {
		case bytes > most:
			s.Fatalf("%d bytes are kept", bytes)
		case lost >= oldest:
			s.Fatalf("a version until %d is kept, one until %d is lost", oldest, lost)
		case lost > 0 && bytes+kept*slack < most:
			s.Fatalf("%d versions of %d bytes are kept while others had to go", kept, bytes)
		case round > 8 && lost == 0:
			s.Fatal("nothing had to go: the test means nothing")
		}
	}
}

func forget(s *suite) {
	l := s.lives(300, func(_ life, _ *rand.Rand, i int) {
		if i == 250 {
			s.compact(200)
		}
	})
	if err := s.Engine.(store.Historian).Forget(context.Background(), "a-b/"); err != nil {
		s.Fatal(err)
	}
	if s.durable {
		s.reopen()
	}
	for key, vs := range l {
		want := slices.DeleteFunc(slices.Clone(vs), func(v store.Version) bool {
			return !above(&v, s.Horizon()) && (v.Weight == store.Passing || strings.HasPrefix(key, "a-b/"))
		})
		s.same("history of "+key, s.past(key), want)
	}
	if err := s.Engine.(store.Historian).Forget(context.Background(), ""); err != nil {
		s.Fatal(err)
	}
	s.compact(s.Revision() - 20)
	for key, vs := range l {
		want := slices.DeleteFunc(slices.Clone(vs), func(v store.Version) bool {
			return !above(&v, 200) || !above(&v, s.Horizon()) && v.Weight == store.Passing
		})
		s.same("history of "+key, s.past(key), want)
	}
}

// whileItMoves reads slowly while compactions move what it reads.
func whileItMoves(s *suite) {
	var all []store.Revision
	for i := range 300 {
		all = append(all, s.put("a", fmt.Sprint(i, strings.Repeat("x", 20_000))))
	}
	seq, err := s.Engine.(store.Historian).History(context.Background(), "a")
	if err != nil {
		s.Fatal(err)
	}
	n := len(all)
	for v, err := range seq {
		if err != nil {
			s.Fatal(err)
		}
		if n--; v.Revision != all[n] {
			s.Fatalf("revision %d instead of %d", v.Revision, all[n])
		}
		if n%20 == 0 {
			s.compact(all[max(n-5, 0)])
		}
	}
	if n != 0 {
		s.Fatalf("%d versions are missing", n)
	}
}

func noHistory(s *suite) {
	s.put("a", "1")
	_, err := s.Engine.(store.Historian).History(context.Background(), "a")
	s.fails("history", err, store.ErrNoHistory)
	_, err = s.Engine.(store.Historian).Past(context.Background(), 0)
	s.fails("past", err, store.ErrNoHistory)
	v := store.Version{Record: store.Record{Key: "b", Revision: 1, Created: 1}, Until: 2}
	if err := s.Engine.(store.Historian).Adopt(context.Background(), []store.Version{v}); err != nil {
		s.Fatal(err)
	}
	if err := s.Engine.(store.Historian).Forget(context.Background(), ""); err != nil {
		s.Fatal(err)
	}
	_, err = s.Write(context.Background(), store.Op{Key: "a", Expect: store.Any, Weight: store.Passing + 1})
	if c := (*store.InvalidError)(nil); !errors.As(err, &c) {
		s.Fatalf("an unknown weight: %v", err)
	}
}

func historyOverAdvance(s *suite) {
	a, ok := s.Engine.(store.Advancer)
	if !ok {
		s.Skip("this engine does not advance")
	}
	s.put("a", "1")
	s.put("a", "2")
	s.delete("a")
	if err := a.Advance(context.Background(), 1000); err != nil {
		s.Fatal(err)
	}
	s.put("a", "3")
	var revs []store.Revision
	for _, v := range s.past("a") {
		revs = append(revs, v.Revision)
	}
	s.same("the revisions", revs, []store.Revision{1, 2, 3, 1001})
}

// within is what Past is to yield of a key's versions, newest first, as of a revision.
func within(vs []store.Version, at store.Revision, most, light int) []store.Version {
	var out []store.Version
	for i := len(vs) - 1; i >= 0; i-- {
		v := vs[i]
		if v.Revision > at {
			continue
		}
		if v.Until > at {
			v.Until = 0
		}
		switch {
		case v.Until == 0:
			out = append(out, v)
		case v.Weight == store.Passing || most < 0:
		case v.Weight == store.Light:
			if light--; light >= 0 {
				out = append(out, v)
			}
		default:
			if most--; most >= 0 {
				out = append(out, v)
			}
		}
	}
	return out
}

func (s *suite) allPast(at store.Revision) []store.Version {
	s.Helper()
	seq, err := s.Engine.(store.Historian).Past(context.Background(), at)
	if err != nil {
		s.Fatal(err)
	}
	var out []store.Version
	for v, err := range seq {
		if err != nil {
			s.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func allOfThePast(s *suite) {
	s.lives(400, func(l life, r *rand.Rand, i int) {
		if i%40 != 39 {
			return
		}
		s.compact(s.Horizon() + r.Int64N(s.Revision()-s.Horizon()+1))
		for _, at := range []store.Revision{0, s.Horizon() + r.Int64N(s.Revision()-s.Horizon()+1)} {
			if at < s.Horizon() || at == 0 && i%80 != 79 {
				continue
			}
			end := at
			if at == 0 {
				end = s.Revision()
			}
			var want []store.Version
			for _, key := range slices.Sorted(maps.Keys(l)) {
				if keepA(key) {
					want = append(want, within(l[key], end, 3, 2)...)
				}
			}
			got := s.allPast(at)
			// Below the horizon versions have gone by what was newer than at.
			want = slices.DeleteFunc(want, func(v store.Version) bool {
				return at != 0 && v.Until != 0 && v.Until <= s.Horizon() &&
					!slices.ContainsFunc(got, func(o store.Version) bool { return o.Revision == v.Revision })
			})
			s.same(fmt.Sprintf("the past at %d with the horizon at %d", at, s.Horizon()), got, want)
		}
		for range s.must(s.Engine.(store.Historian).Past(context.Background(), 0)) {
			break // a reader that wants no more
		}
	})
}

func (s *suite) must(seq iter.Seq2[store.Version, error], err error) iter.Seq2[store.Version, error] {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
	return seq
}

// invent makes the history of a life that another engine has led.
func (s *suite) invent(keys, changes int) (l life, at store.Revision) {
	r := s.rand()
	l, at = life{}, 100
	for range changes {
		key := fmt.Sprintf("%s/%d", []string{"a", "b"}[r.IntN(2)], r.IntN(keys))
		at += 1 + r.Int64N(5)
		s.clock.Advance(time.Second)
		v := store.Version{Record: store.Record{Key: key, Revision: at, Created: at, Time: s.clock.Now(), User: "ann"}, Weight: store.Weight(r.IntN(3))}
		vs := l[key]
		if n := len(vs); n > 0 && !vs[n-1].Deleted {
			vs[n-1].Until = at
			v.Prev, v.Created = vs[n-1].Revision, vs[n-1].Created
			v.Deleted = r.IntN(5) == 0
		}
		if v.Deleted {
			v.Until = at
		} else {
			v.Value, v.Codec = fmt.Appendf(nil, "value %d %s", at, strings.Repeat("y", r.IntN(100))), 3
			if r.IntN(10) == 0 && v.Prev != store.Absent {
				v.Was = v.Prev + 1
			}
		}
		l[key] = append(vs, v)
	}
	return l, at
}

// adopt takes over a history, part of it twice, and goes on from there as a restore does.
func adopt(s *suite) {
	ctx := context.Background()
	h := s.Engine.(store.Historian)
	l, last := s.invent(6, 400)
	jump := last + 1000
	if a, ok := s.Engine.(store.Advancer); !ok {
		s.Skip("this engine does not advance")
	} else if err := a.Advance(ctx, jump); err != nil {
		s.Fatal(err)
	}
	want := map[string][]store.Version{}
	for i, key := range slices.Sorted(maps.Keys(l)) {
		ended := slices.DeleteFunc(slices.Clone(l[key]), func(v store.Version) bool { return v.Until == 0 })
		for range 1 + i%2 {
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(ended), func(i, j int) { ended[i], ended[j] = ended[j], ended[i] })
			if err := h.Adopt(ctx, ended); err != nil {
				s.Fatal(err)
			}
		}
		if keepA(key) {
			want[key] = within(l[key], last, 4, 2)
		}
	}
	check := func() {
		s.Helper()
		var all []store.Version
		for _, key := range slices.Sorted(maps.Keys(want)) {
			vs := slices.Clone(want[key])
			all = append(all, vs...)
			slices.Reverse(vs)
			s.same("history of "+key, s.past(key), vs)
		}
		s.same("the past", s.allPast(0), all)
	}
	for key, vs := range want { // the present ones are restored
		if vs[0].Until != 0 {
			continue
		}
		v := &vs[0]
		o := store.Origin{Revision: v.Revision, Prev: v.Prev, Time: v.Time}
		v.Was = v.Revision
		v.Revision = s.write(store.Op{Key: key, Value: v.Value, User: v.User, Codec: v.Codec, Weight: v.Weight, Origin: &o})
		v.Created = v.Revision
	}
	check()
	if s.durable {
		s.reopen()
		check()
	}
	s.compact(s.Revision())
	check()
	if _, err := s.Engine.(store.Historian).History(ctx, "b/0"); !errors.Is(err, store.ErrNoHistory) {
		s.Fatalf("what is not to be kept: %v", err)
	}
}

func adoptCapInAll(s *suite) {
	ctx := context.Background()
	l, _ := s.invent(40, 2000)
	left, lost, bytes := store.Revision(1<<60), store.Revision(0), 0
	for _, key := range slices.Sorted(maps.Keys(l)) {
		if err := s.Engine.(store.Historian).Adopt(ctx, slices.DeleteFunc(slices.Clone(l[key]), func(v store.Version) bool { return v.Until == 0 })); err != nil {
			s.Fatal(err)
		}
	}
	for key, vs := range l {
		if !keepA(key) {
			continue
		}
		there := map[store.Revision]bool{}
		for _, v := range s.past(key) {
			there[v.Revision] = true
			left = min(left, v.Until)
			bytes += len(v.Value)
		}
		for _, v := range vs {
			if v.Until != 0 && v.Weight != store.Passing && !there[v.Revision] {
				lost = max(lost, v.Until)
			}
		}
	}
	if bytes > 20_000 || lost == 0 || lost >= left {
		s.Fatalf("%d bytes are kept; one until %d is lost, one until %d is not", bytes, lost, left)
	}
}

// origin checks what a restored record says, now and when it is history itself.
func origin(s *suite) {
	at := time.Unix(1e9, 5).UTC()
	rev := s.write(store.Op{Key: "a", Value: []byte("1"), User: "ann", TTL: time.Hour, Weight: store.Light, Origin: &store.Origin{Revision: 70, Prev: 60, Time: at}})
	now := s.clock.Now()
	if r := s.get("a"); !r.Time.Equal(at) || !r.Expires.Equal(now.Add(time.Hour)) || r.Created != rev {
		s.Fatalf("%+v", r)
	}
	if ev := s.watched("", 0, rev); len(ev) != 1 || ev[0].Prev != store.Absent || !ev[0].Time.Equal(at) {
		s.Fatalf("%+v", ev)
	}
	want := store.Version{Record: *s.get("a"), Weight: store.Light, Prev: 60, Was: 70}
	s.same("the present state", s.past("a"), []store.Version{want})
	if s.durable {
		s.reopen()
		s.same("the present state", s.past("a"), []store.Version{want})
	}
	want.Until = s.write(store.Op{Key: "a", Value: []byte("2"), Expect: rev})
	next := store.Version{Record: *s.get("a"), Prev: rev}
	s.same("two", s.past("a"), []store.Version{want, next})
	s.compact(s.Revision())
	want.Expires = time.Time{}
	s.same("two, one of them kept", s.past("a"), []store.Version{want, next})
	for _, o := range []store.Origin{{}, {Revision: 5, Prev: 5}, {Revision: 5, Prev: -1}} {
		_, err := s.Write(context.Background(), store.Op{Key: "b", Value: []byte("1"), Origin: &o})
		if c := (*store.InvalidError)(nil); !errors.As(err, &c) {
			s.Fatalf("%+v: %v", o, err)
		}
	}
}
