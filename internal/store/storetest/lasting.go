package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"proa/internal/store"
)

func expiry(s *suite) {
	ttl := func(key string, d time.Duration) store.Revision {
		return s.write(store.Op{Key: key, Value: []byte(key), Codec: 5, Expect: store.Any, TTL: d})
	}
	ttl("once", time.Hour)
	ttl("renewed", time.Hour)
	ttl("kept", time.Hour)
	ttl("deleted", time.Hour)
	ttl("shorter", 10*time.Hour)
	if got := s.get("once").Expires; !got.Equal(s.clock.Now().Add(time.Hour)) {
		s.Fatalf("it expires at %v, an hour after %v", got, s.clock.Now())
	}
	s.put("kept", "for good")
	s.delete("deleted")
	if got := s.get("kept").Expires; !got.IsZero() {
		s.Fatalf("what is kept for good expires at %v", got)
	}
	ttl("shorter", time.Minute)
	s.clock.Advance(30 * time.Minute)
	if s.get("shorter") != nil {
		s.Fatal("it outlived its second TTL")
	}
	ttl("renewed", time.Hour)
	rev := s.Revision()
	s.clock.Advance(30*time.Minute - 1)
	if s.Revision() != rev {
		s.Fatal("something expired too early")
	}
	s.clock.Advance(1)
	events := s.watched("", rev, rev+1)
	s.same("the expiry", events, []store.Event{{Deleted: true, Prev: 1, Record: store.Record{
		Key: "once", Value: []byte("once"), Codec: 5, Revision: rev + 1, Created: 1, Time: s.clock.Now(), User: store.Expired}}})
	if s.get("once") != nil || s.get("renewed") == nil || s.get("kept") == nil {
		s.Fatal("the wrong records are there")
	}
	s.clock.Advance(100 * time.Hour)
	if s.get("renewed") != nil || s.get("kept") == nil || s.Revision() != rev+2 {
		s.Fatalf("at the end: revision %d instead of %d", s.Revision(), rev+2)
	}
}

func expiryMany(s *suite) {
	const n = 1500
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				s.write(store.Op{Key: fmt.Sprint("e/", i), Value: []byte("x"), TTL: time.Duration(i+1) * time.Second})
			}
		})
	}
	wg.Wait()
	s.clock.Advance(n / 2 * time.Second)
	left, _, err := s.list("", "", 0, 0)
	if err != nil || len(left) != n/2 {
		s.Fatalf("%d left after half the time: %v", len(left), err)
	}
	s.clock.Advance(n / 2 * time.Second)
	left, rev, err := s.list("", "", 0, 0)
	if err != nil || len(left) != 0 || rev != 2*n {
		s.Fatalf("%d left at revision %d: %v", len(left), rev, err)
	}
}

func expiryOverReopen(s *suite) {
	s.write(store.Op{Key: "soon", Value: []byte("x"), TTL: time.Minute})
	s.write(store.Op{Key: "later", Value: []byte("x"), TTL: time.Hour})
	s.write(store.Op{Key: "kept", Value: []byte("x"), TTL: time.Minute})
	s.put("kept", "for good")
	if err := s.Close(); err != nil {
		s.Fatal(err)
	}
	s.clock.Advance(30 * time.Minute)
	s.Engine = s.open(s.T, s.clock)
	s.clock.Advance(0)
	if s.get("soon") != nil || s.get("later") == nil || s.get("kept") == nil {
		s.Fatal("the wrong records are there")
	}
	s.clock.Advance(30 * time.Minute)
	if s.get("later") != nil || s.get("kept") == nil {
		s.Fatal("the wrong records are there, later")
	}
	s.reopen()
	s.clock.Advance(100 * time.Hour)
	if s.Revision() != 6 {
		s.Fatalf("revision %d instead of 6", s.Revision())
	}
}

func reopenKeepsEverything(s *suite) {
	var h history
	r := s.rand()
	for i := range 4 {
		s.random(&h, r, 40)
		rev, horizon := s.Revision(), s.Horizon()
		s.reopen()
		if s.Revision() != rev || s.Horizon() != horizon {
			s.Fatalf("reopened at revision %d, horizon %d instead of %d, %d", s.Revision(), s.Horizon(), rev, horizon)
		}
		s.history(&h)
		if i == 1 {
			if err := s.Compact(context.Background(), 50); err != nil {
				s.Fatal(err)
			}
		}
		if i == 2 { // nothing is left of the log
			if err := s.Compact(context.Background(), s.Revision()); err != nil {
				s.Fatal(err)
			}
		}
	}
}

func advance(s *suite) {
	a, ok := s.Engine.(store.Advancer)
	if !ok {
		s.Skip("this engine does not advance")
	}
	ctx := context.Background()
	var h history
	s.random(&h, s.rand(), 30)
	seq, err := s.Watch(ctx, "", 30)
	if err != nil {
		s.Fatal(err)
	}
	if err := a.Advance(ctx, 29); err == nil {
		s.Fatal("it went back")
	}
	if err := a.Advance(ctx, 1000); err != nil {
		s.Fatal(err)
	}
	for _, err := range seq {
		s.fails("a watch from before", err, store.ErrCompacted)
		break
	}
	if s.Revision() != 1000 || s.Horizon() != 1000 {
		s.Fatalf("revision %d, horizon %d", s.Revision(), s.Horizon())
	}
	s.history(&h)
	s.random(&h, s.rand(), 30)
	s.history(&h)
	if err := s.Compact(ctx, 1010); err != nil {
		s.Fatal(err)
	}
	s.history(&h)
}

func advanceOverReopen(s *suite) {
	a, ok := s.Engine.(store.Advancer)
	if !ok {
		s.Skip("this engine does not advance")
	}
	s.put("k", "v")
	if err := a.Advance(context.Background(), 77); err != nil {
		s.Fatal(err)
	}
	s.reopen()
	if rev := s.put("l", "v"); rev != 78 {
		s.Fatalf("revision %d after the jump to 77", rev)
	}
	s.reopen()
	_, err := s.Watch(context.Background(), "", 76)
	s.fails("watch from before the jump", err, store.ErrCompacted)
	if got := s.watched("", 77, 78); len(got) != 1 || got[0].Key != "l" {
		s.Fatalf("%+v", got)
	}
}
