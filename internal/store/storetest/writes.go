package storetest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"proa/internal/store"
)

func compareAndSwap(s *suite) {
	one := s.write(store.Op{Key: "k", Value: []byte("1"), Expect: store.Absent})
	if one != 1 || s.Revision() != 1 {
		s.Fatalf("the first revision is %d, the newest %d", one, s.Revision())
	}
	two := s.write(store.Op{Key: "k", Value: []byte("2"), Expect: one})
	for _, op := range []store.Op{
		{Key: "k", Expect: one},
		{Key: "k", Expect: store.Absent},
		{Key: "k", Expect: two + 1},
		{Key: "k", Expect: one, Delete: true},
		{Key: "none", Expect: two},
		{Key: "none", Expect: two, Delete: true},
		{Key: "none", Expect: store.Any, Delete: true},
	} {
		if _, err := s.Write(context.Background(), op); conflict(err) == nil {
			s.Errorf("%+v: got %v, want a conflict", op, err)
		}
	}
	if s.Revision() != two {
		s.Fatalf("conflicts moved the revision from %d to %d", two, s.Revision())
	}
	three := s.write(store.Op{Key: "k", Delete: true, Expect: two})
	if r := s.get("k"); r != nil {
		s.Fatalf("deleted, and there it is: %+v", r)
	}
	four := s.write(store.Op{Key: "k", Value: []byte("4"), Expect: store.Absent})
	if three != 3 || four != 4 {
		s.Fatalf("revisions %d and %d instead of 3 and 4", three, four)
	}
	if r := s.get("k"); r.Created != four || string(r.Value) != "4" {
		s.Fatalf("made again: %+v", r)
	}
}

func conflictCarriesCurrent(s *suite) {
	_, err := s.Write(context.Background(), store.Op{Key: "k", Expect: 7})
	if c := conflict(err); c == nil || c.Current != nil || c.Key != "k" || c.Expect != 7 {
		s.Fatalf("absent: %v", err)
	}
	s.put("k", "1")
	s.put("k", "2")
	_, err = s.Write(context.Background(), store.Op{Key: "k", Expect: 1})
	c := conflict(err)
	if c == nil || c.Current == nil {
		s.Fatalf("no conflict: %v", err)
	}
	s.same("the current record", *c.Current, *s.get("k"))
}

func invalidOps(s *suite) {
	long := strings.Repeat("x", store.MaxKey+1)
	for name, op := range map[string]store.Op{
		"empty key":     {},
		"NUL in key":    {Key: "a\x00b"},
		"long key":      {Key: long},
		"long user":     {Key: "k", User: long},
		"large value":   {Key: "k", Value: make([]byte, store.MaxValue+1)},
		"odd expect":    {Key: "k", Expect: -2},
		"absent delete": {Key: "k", Delete: true, Expect: store.Absent},
	} {
		_, err := s.Write(context.Background(), op)
		if _, ok := err.(*store.InvalidError); !ok {
			s.Errorf("%s: got %v", name, err)
		}
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Write(gone, store.Op{Key: "k"}); err != context.Canceled {
		s.Errorf("cancelled: got %v", err)
	}
	if s.Revision() != 0 {
		s.Errorf("revision %d", s.Revision())
	}
}

func recordFields(s *suite) {
	value := []byte("\x00binary\xff")
	s.write(store.Op{Key: "k", Value: value, User: "ann", Codec: 65535})
	s.clock.Advance(time.Hour)
	s.write(store.Op{Key: "k", Value: nil, User: "bob", Codec: 3, Expect: 1})
	s.same("record", s.get("k"), &store.Record{Key: "k", Revision: 2, Created: 1, Time: s.clock.Now(), User: "bob", Codec: 3})
	old, _, err := s.list("", "", 1, 0)
	if err != nil {
		s.Fatal(err)
	}
	s.same("old record", old, []store.Record{{Key: "k", Value: value, Revision: 1, Created: 1, Time: s.clock.Now().Add(-time.Hour), User: "ann", Codec: 65535}})
}

func orderUnderConcurrency(s *suite) {
	const writers, each = 16, 40
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var watcher, wg sync.WaitGroup
	var events []store.Event
	var watchErr error
	watcher.Go(func() { events, watchErr = collect(ctx, s.Engine, "", 0, writers*each) })
	var mu sync.Mutex
	acked := map[store.Revision]string{}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key, value := fmt.Sprintf("k%d", (w*i)%11), fmt.Sprintf("%d.%d", w, i)
				before := s.Revision()
				rev, err := s.Write(ctx, store.Op{Key: key, Value: []byte(value), Expect: store.Any})
				if err != nil {
					s.Errorf("write: %v", err)
					return
				}
				if rev <= before {
					s.Errorf("revision %d was given out when %d was the newest before", rev, before)
				}
				r, now, err := s.Get(ctx, key)
				if err != nil || r == nil || r.Revision < rev || now < rev {
					s.Errorf("wrote revision %d, then read %+v at %d: %v", rev, r, now, err)
				}
				mu.Lock()
				acked[rev] = key + "=" + value
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	watcher.Wait()
	if watchErr != nil || len(events) != writers*each || len(acked) != writers*each {
		s.Fatalf("%d events, %d revisions, %v", len(events), len(acked), watchErr)
	}
	last := map[string]store.Event{}
	for i, e := range events {
		if e.Revision != int64(i+1) {
			s.Fatalf("event %d has revision %d", i+1, e.Revision)
		}
		if got := e.Key + "=" + string(e.Value); got != acked[e.Revision] {
			s.Fatalf("revision %d is %s, acknowledged as %s", e.Revision, got, acked[e.Revision])
		}
		if before := last[e.Key]; e.Prev != before.Revision || (e.Prev != 0 && e.Created != before.Created) {
			s.Fatalf("event %+v follows %+v", e, before)
		}
		last[e.Key] = e
	}
}

// chainsInOneGroup has many writers count up one record.
func chainsInOneGroup(s *suite) {
	const writers, each = 8, 25
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			var cur *store.Record
			for done := 0; done < each; {
				n, expect := 0, store.Absent
				if cur != nil {
					n, _ = strconv.Atoi(string(cur.Value))
					expect = cur.Revision
				}
				value := []byte(strconv.Itoa(n + 1))
				rev, err := s.Write(context.Background(), store.Op{Key: "n", Value: value, Expect: expect})
				if c := conflict(err); c != nil {
					cur = c.Current
					continue
				}
				if err != nil {
					s.Errorf("write: %v", err)
					return
				}
				cur = &store.Record{Revision: rev, Value: value}
				done++
			}
		})
	}
	wg.Wait()
	if r := s.get("n"); string(r.Value) != strconv.Itoa(writers*each) || r.Revision != writers*each {
		s.Fatalf("counted to %s at revision %d", r.Value, r.Revision)
	}
}

func closed(s *suite) {
	s.put("k", "v")
	if err := s.Close(); err != nil {
		s.Fatal(err)
	}
	ctx := context.Background()
	_, err := s.Write(ctx, store.Op{Key: "k", Expect: store.Any})
	s.fails("write", err, store.ErrClosed)
	_, _, err = s.Get(ctx, "k")
	s.fails("get", err, store.ErrClosed)
	_, _, err = s.Range(ctx, "", "", 0, 0)
	s.fails("range", err, store.ErrClosed)
	_, err = s.Watch(ctx, "", 0)
	s.fails("watch", err, store.ErrClosed)
	s.fails("compact", s.Compact(ctx, 1), store.ErrClosed)
	s.fails("close", s.Close(), store.ErrClosed)
}
