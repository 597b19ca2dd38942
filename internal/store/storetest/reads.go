package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"proa/internal/store"
)

func watchResumesAnywhere(s *suite) {
	var h history
	s.random(&h, s.rand(), 60)
	for after := range s.Revision() + 1 {
		for _, prefix := range []string{"", "a/", "a", "none"} {
			got := s.watched(prefix, after, s.Revision())
			s.same(fmt.Sprintf("watch %q after %d", prefix, after), got, h.after(after, prefix))
		}
	}
	_, err := s.Watch(context.Background(), "", s.Revision()+1)
	s.fails("from the future", err, store.ErrFuture)
}

func watchProgress(s *suite) {
	s.put("a", "1")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	seq, err := s.Watch(ctx, "b", 1)
	if err != nil {
		s.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 5 {
			s.put("a", "2")
		}
	})
	for b, err := range seq {
		if err != nil || len(b.Events) > 0 {
			s.Fatalf("%+v, %v", b, err)
		}
		if b.Revision == 6 {
			break
		}
	}
	wg.Wait()
}

func watchEnds(s *suite) {
	s.put("a", "1")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seq, err := s.Watch(ctx, "", 0)
	if err != nil {
		s.Fatal(err)
	}
	n := 0
	for b, err := range seq {
		if err != nil {
			s.Fatalf("ended by its context with %v", err)
		}
		n += len(b.Events)
		cancel()
	}
	if n != 1 {
		s.Fatalf("%d events", n)
	}
	if seq, err = s.Watch(context.Background(), "", 1); err != nil {
		s.Fatal(err)
	}
	end := make(chan error)
	go func() {
		for _, err := range seq {
			end <- err
		}
		close(end)
	}()
	s.Close()
	s.fails("a watch when its engine closes", <-end, store.ErrClosed)
}

// slowReader stops reading until the feed has forgotten what comes next.
func slowReader(s *suite) {
	const n = 300
	value := strings.Repeat("x", 32<<10)
	seq, err := s.Watch(context.Background(), "", 0)
	if err != nil {
		s.Fatal(err)
	}
	s.put("k", value)
	want := store.Revision(1)
	for b, err := range seq {
		if err != nil {
			s.Fatal(err)
		}
		for _, e := range b.Events {
			if e.Revision != want || len(e.Value) != len(value) {
				s.Fatalf("revision %d instead of %d", e.Revision, want)
			}
			want++
		}
		if b.Revision == 1 {
			for range n - 1 {
				s.put("k", value)
			}
		}
		if b.Revision == n {
			return
		}
	}
}

func slowReaderCompacted(s *suite) {
	const n = 300
	seq, err := s.Watch(context.Background(), "", 0)
	if err != nil {
		s.Fatal(err)
	}
	s.put("k", "v")
	for b, err := range seq {
		if err != nil {
			s.fails("after the compaction", err, store.ErrCompacted)
			return
		}
		if b.Revision == 1 {
			for range n {
				s.put("k", strings.Repeat("x", 32<<10))
			}
			if err := s.Compact(context.Background(), n); err != nil {
				s.Fatal(err)
			}
		}
		if b.Revision > n {
			s.Fatalf("the watch went over a compaction up to %d", b.Revision)
		}
	}
}

// historyAndCompaction compares every revision with a model, before and after
// the horizon moves.
func historyAndCompaction(s *suite) {
	var h history
	r := s.rand()
	for range 5 {
		s.random(&h, r, 40)
		s.history(&h)
		horizon := s.Horizon() + r.Int64N(s.Revision()-s.Horizon()+1)
		if err := s.Compact(context.Background(), horizon); err != nil {
			s.Fatal(err)
		}
		if s.Horizon() != horizon {
			s.Fatalf("horizon %d instead of %d", s.Horizon(), horizon)
		}
		s.history(&h)
	}
	s.fails("compact the future", s.Compact(context.Background(), s.Revision()+1), store.ErrFuture)
	if err := s.Compact(context.Background(), 1); err != nil {
		s.Fatalf("compact what is compacted: %v", err)
	}
}

// history checks Range and Watch at every revision.
func (s *suite) history(h *history) {
	s.Helper()
	for at := store.Revision(1); at <= s.Revision(); at++ {
		got, rev, err := s.list("", "", at, 0)
		seq, werr := s.Watch(context.Background(), "", at)
		if at < s.Horizon() {
			s.fails(fmt.Sprintf("range at %d", at), err, store.ErrCompacted)
			s.fails(fmt.Sprintf("watch after %d", at), werr, store.ErrCompacted)
			continue
		}
		if err != nil || werr != nil || seq == nil || rev != at {
			s.Fatalf("horizon %d, at %d: %v, %v, %d", s.Horizon(), at, err, werr, rev)
		}
		s.same(fmt.Sprintf("state at %d, horizon %d", at, s.Horizon()), got, h.state(at))
		if at%7 == 0 || at == s.Horizon() {
			s.same(fmt.Sprintf("watch after %d", at), s.watched("", at, s.Revision()), h.after(at, ""))
		}
	}
	_, _, err := s.list("", "", s.Revision()+1, 0)
	s.fails("range of the future", err, store.ErrFuture)
	for _, want := range h.state(s.Revision()) {
		s.same("get "+want.Key, *s.get(want.Key), want)
	}
}

func rangeBounds(s *suite) {
	keys := []string{"a", "a-b", "a/", "a/1", "a/1x", "a/2", "a0", "b/1", "\xff\xff"}
	for _, k := range keys {
		s.put(k, k)
	}
	bounds := append([]string{"", "a/1\x00", "a/\x00", "zz"}, keys...)
	for _, from := range bounds {
		for _, to := range bounds {
			var want []string
			for _, k := range keys {
				if k >= from && (to == "" || k < to) {
					want = append(want, k)
				}
			}
			slices.Sort(want)
			for limit := range len(keys) {
				got, _, err := s.list(from, to, 0, limit)
				if err != nil {
					s.Fatal(err)
				}
				names := []string{}
				for _, r := range got {
					names = append(names, r.Key)
				}
				w := want
				if limit > 0 {
					w = w[:min(limit, len(w))]
				}
				s.same(fmt.Sprintf("[%q, %q) limit %d", from, to, limit), names, w)
			}
		}
	}
}

// pagesOfOneRevision reads a range page by page while writers change it.
func pagesOfOneRevision(s *suite) {
	const n = 700
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				s.put(fmt.Sprintf("p/%04d", i), "old")
			}
		})
	}
	wg.Wait()
	at := s.Revision()
	stop := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			for i := w; ; i += 4 {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("p/%04d", i*7%n)
				if w == 0 {
					s.put(fmt.Sprintf("p/%04d+", i%n), "extra")
				} else if _, err := s.Write(context.Background(), store.Op{Key: key, Delete: true, Expect: store.Any}); err != nil {
					s.put(key, "new")
				}
			}
		})
	}
	for _, page := range []int{1, 90, 0} {
		from, seen := "p/", 0
		for seen < n {
			recs, rev, err := s.list(from, "p0", at, page)
			if err != nil || rev != at || len(recs) == 0 {
				s.Errorf("page from %s: %d records at %d, %v", from, len(recs), rev, err)
				break
			}
			for _, r := range recs {
				if want := fmt.Sprintf("p/%04d", seen); r.Key != want || string(r.Value) != "old" || r.Revision > at {
					s.Errorf("%s = %s at %d instead of %s", r.Key, r.Value, r.Revision, want)
				}
				seen++
			}
			from = recs[len(recs)-1].Key + "\x00"
		}
	}
	close(stop)
	wg.Wait()
}
