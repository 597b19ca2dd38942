package faulttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"proa/internal/store"
	"proa/internal/store/storetest"
)

// A Watching run lets many watches, fast and slow, follow writers through
// compactions and restarts of the engine. Each writer numbers its changes, all
// under one prefix, so that whatever a watch leaves out, doubles or turns around
// shows at once, however long the run.
type Watching struct {
	Open     Opener
	Seed     uint64
	Writers  int
	Writes   int // of each writer in each life of the engine
	Watchers int // a half with a writer's prefix, the rest with all
	Lives    int
}

// watching is a run under way.
type watching struct {
	Watching
	events atomic.Int64
	cuts   atomic.Int64 // watches that a compaction has ended

	mu    sync.Mutex
	err   error
	moved chan struct{} // closed, and replaced, after some writes
}

// A seen is how far one watch has come, over all lives.
type seen struct {
	prefix string
	lag    int64 // it reads on only when it is this many revisions behind
	at     store.Revision
	last   map[string]number // of each writer's last change
	cuts   int               // how often changes were compacted before they were read
}

// A number is that of a writer's change, read after so many cuts.
type number struct{ n, cuts int }

// Run returns what it did, and the first violation.
func (w Watching) Run(ctx context.Context) (Found, error) {
	x := &watching{Watching: w, moved: make(chan struct{})}
	disk, clock := NewDisk(), storetest.NewClock()
	watches := make([]*seen, w.Watchers)
	for i := range watches {
		watches[i] = &seen{last: map[string]number{}, lag: int64(i%4) * 300}
		if i%2 == 1 {
			watches[i].prefix = fmt.Sprintf("w%d/", i/2%w.Writers)
		}
	}
	for life := range w.Lives {
		e, err := w.Open(disk, clock)
		if err != nil {
			x.fail(err)
			break
		}
		x.live(ctx, e, watches, life)
		if err := e.Close(); err != nil {
			x.fail(err)
		}
		if x.failed() != nil {
			break
		}
	}
	err := x.failed()
	if err == nil && w.Lives > 1 && x.events.Load() == 0 {
		err = errors.New("no events")
	}
	if err != nil {
		err = fmt.Errorf("seed %d: %w", w.Seed, err)
	}
	return Found{Events: x.events.Load(), Writes: w.Writers * w.Writes * w.Lives}, err
}

func (x *watching) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil && x.err == nil {
		x.err = err
	}
}

func (x *watching) failed() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// move wakes those that wait for a distance.
func (x *watching) move() {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(x.moved)
	x.moved = make(chan struct{})
}

func (x *watching) next() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.moved
}

func (x *watching) live(ctx context.Context, e Engine, watches []*seen, life int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var writers, others sync.WaitGroup
	var end atomic.Int64 // the last revision, once it is known
	for id := range x.Writers {
		writers.Go(func() { x.fail(x.write(ctx, e, id, life)) })
	}
	for _, s := range watches {
		others.Go(func() { x.fail(x.follow(ctx, e, s, &end)) })
	}
	working, over := context.WithCancel(ctx)
	others.Go(func() { x.fail(x.compact(working, e, life)) })
	writers.Wait()
	over()
	end.Store(e.Revision())
	x.move()
	// One more change wakes those that wait for company.
	_, err := e.Write(ctx, store.Op{Key: "end", User: fmt.Sprintf("end %d", life), Expect: store.Any})
	x.fail(err)
	others.Wait()
}

// write makes a writer's changes: the n-th has the user "w<id> <n>".
func (x *watching) write(ctx context.Context, e Engine, id, life int) error {
	r := rand.New(rand.NewPCG(x.Seed, uint64(1000*life+id)))
	alive := map[string]bool{}
	for i := range x.Writes {
		op := store.Op{Key: fmt.Sprintf("w%d/%d.%d", id, life, r.IntN(8)), User: fmt.Sprintf("w%d %d", id, life*x.Writes+i+1), Expect: store.Any}
		if op.Delete = alive[op.Key] && r.IntN(4) == 0; !op.Delete {
			op.Value = []byte(op.User)
		}
		alive[op.Key] = !op.Delete
		if _, err := e.Write(ctx, op); err != nil {
			return fmt.Errorf("%s: %w", op.User, err)
		}
		if i%32 == 0 {
			x.move()
		}
	}
	return nil
}

// compact moves the horizon so that slow watches are sometimes overtaken.
func (x *watching) compact(ctx context.Context, e Engine, life int) error {
	r := rand.New(rand.NewPCG(x.Seed, uint64(1000*life+999)))
	for last := e.Revision(); ctx.Err() == nil; {
		moved := x.next()
		now := e.Revision()
		if now-last < 500 {
			select {
			case <-ctx.Done():
			case <-moved:
			}
			continue
		}
		last = now
		if err := e.Compact(ctx, now-r.Int64N(500)); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// follow watches until it has seen the last revision.
func (x *watching) follow(ctx context.Context, e Engine, s *seen, end *atomic.Int64) error {
	began := time.Now()
	for ctx.Err() == nil && x.failed() == nil {
		below := e.Horizon()
		seq, err := e.Watch(ctx, s.prefix, s.at)
		if err == nil && s.at < below {
			return fmt.Errorf("a watch after %d began, the horizon was %d", s.at, below)
		}
		if err == nil {
			err = x.read(e, s, seq, end)
		}
		switch {
		case errors.Is(err, store.ErrCompacted):
			h := e.Horizon()
			if h <= s.at {
				return fmt.Errorf("a watch at %d is told that it was compacted, the horizon is %d", s.at, h)
			}
			x.cuts.Add(1)
			s.at, s.cuts = h, s.cuts+1
		case err != nil:
			return err
		}
		if last := end.Load(); last > 0 && s.at >= last {
			return nil
		}
		if time.Since(began) > 10*checkTime {
			return fmt.Errorf("the watch of %q is still at %d", s.prefix, s.at)
		}
	}
	return nil
}

func (x *watching) read(e Engine, s *seen, seq func(func(store.Batch, error) bool), end *atomic.Int64) error {
	for b, err := range seq {
		if err != nil {
			return err
		}
		before := s.at
		for i := range b.Events {
			if err := s.event(&b.Events[i], b.Revision); err != nil {
				return err
			}
		}
		x.events.Add(int64(len(b.Events)))
		if b.Revision < s.at || b.Revision <= before {
			return fmt.Errorf("a batch up to %d comes after %d", b.Revision, s.at)
		}
		if s.prefix == "" && b.Revision != s.at {
			return fmt.Errorf("a watch of all says that it is at %d, its last event was %d", b.Revision, s.at)
		}
		s.at = b.Revision
		if last := end.Load(); last > 0 && s.at >= last {
			return nil
		}
		for s.lag > 0 { // it is slow
			moved := x.next()
			if e.Revision()-s.at >= s.lag || end.Load() > 0 || x.failed() != nil {
				break
			}
			<-moved
		}
	}
	return nil
}

// event judges one event: it is of the prefix and the writer's next.
func (s *seen) event(ev *store.Event, upTo store.Revision) error {
	bad := func(why string) error {
		return fmt.Errorf("a watch of %q at %d, in a batch up to %d, has the event %s (deleted: %v): %s", s.prefix, s.at, upTo, show(ev.Record), ev.Deleted, why)
	}
	if ev.Revision <= s.at || ev.Revision > upTo || !strings.HasPrefix(ev.Key, s.prefix) {
		return bad("it does not belong there")
	}
	if s.prefix == "" && ev.Revision != s.at+1 {
		return bad("something is left out")
	}
	s.at = ev.Revision
	writer, text, _ := strings.Cut(ev.User, " ")
	if !strings.HasPrefix(ev.Key, writer+"/") {
		return nil // the end of a life
	}
	n, err := strconv.Atoi(text)
	last := s.last[writer]
	if err != nil || n != last.n+1 && !(n > last.n && last.cuts != s.cuts) {
		return bad(fmt.Sprintf("the writer's last was %d", last.n))
	}
	s.last[writer] = number{n, s.cuts}
	return nil
}
