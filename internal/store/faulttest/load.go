package faulttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"proa/internal/store"
	"proa/internal/store/storetest"
)

// A Load is what clients do with an engine.
type Load struct {
	Writers int // with keys of their own and some that they share
	Writes  int // of each
	Value   int // the largest value, in bytes
	Jumps   bool
}

// A client makes random writes. What it has written to keys of its own it reads back.
type client struct {
	t     *Truth
	e     Engine
	name  string
	r     *rand.Rand
	value int
	own   map[string]store.Revision // of its keys; 0: deleted
	heard map[string]store.Revision // of shared keys
	ends  map[string]bool           // own keys whose record ends by itself
	n     int
}

// run makes n writes and stops at the first error that is no conflict.
func (c *client) run(ctx context.Context, n int) error {
	for range n {
		if err := c.one(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) one(ctx context.Context) error {
	c.n++
	op := store.Op{User: fmt.Sprintf("%s.%d", c.name, c.n), Codec: uint16(c.n % 5), Expect: store.Any}
	shared := c.r.IntN(3) == 0
	if shared {
		op.Key = fmt.Sprint("s/", c.r.IntN(3))
		if c.r.IntN(4) > 0 {
			op.Expect = c.heard[op.Key]
		}
	} else {
		op.Key = fmt.Sprintf("%s/%d", c.name, c.r.IntN(6))
		if rev, ok := c.own[op.Key]; ok && !c.ends[op.Key] && c.r.IntN(2) == 0 {
			op.Expect = rev
		}
	}
	if c.r.IntN(4) == 0 && op.Expect != store.Absent {
		op.Delete = true
	} else {
		op.Value = fmt.Appendf(nil, "%s %s", op.User, strings.Repeat("x", c.r.IntN(c.value)))
		if !shared && c.r.IntN(5) == 0 {
			op.TTL = time.Duration(1+c.r.IntN(60)) * time.Second
		}
	}
	rev, err := c.t.Write(ctx, c.e, op)
	var lost *store.ConflictError
	switch {
	case errors.As(err, &lost):
		return c.lost(op, lost, shared)
	case err != nil:
		return err
	}
	c.learn(op, rev, shared)
	if shared || op.TTL > 0 {
		return nil
	}
	return c.readBack(ctx, op, rev)
}

func (c *client) learn(op store.Op, rev store.Revision, shared bool) {
	now := rev
	if op.Delete {
		now = store.Absent
	}
	if shared {
		c.heard[op.Key] = now
	} else {
		c.own[op.Key], c.ends[op.Key] = now, op.TTL > 0
	}
}

// lost says whether a conflict is one.
func (c *client) lost(op store.Op, lost *store.ConflictError, shared bool) error {
	now := store.Absent
	if lost.Current != nil {
		now = lost.Current.Revision
	}
	if op.Expect == now && (!op.Delete || now != store.Absent) || op.Expect == store.Any && !op.Delete {
		return fmt.Errorf("%s expected %d of %s, and was refused because it is at %d", op.User, op.Expect, op.Key, now)
	}
	if shared {
		c.heard[op.Key] = now
		return nil
	}
	if known, ok := c.own[op.Key]; ok && known != now && !c.ends[op.Key] {
		return fmt.Errorf("%s is at %d, and nobody but %s writes to it: %d", op.Key, now, c.name, known)
	}
	c.own[op.Key], c.ends[op.Key] = now, now != store.Absent && c.ends[op.Key]
	return nil
}

func (c *client) readBack(ctx context.Context, op store.Op, rev store.Revision) error {
	r, at, err := c.e.Get(ctx, op.Key)
	switch {
	case err != nil:
		return fmt.Errorf("get %s: %w", op.Key, err)
	case at < rev:
		return violation(fmt.Errorf("a get at %d after %s wrote revision %d", at, op.User, rev))
	case op.Delete && r != nil:
		return violation(fmt.Errorf("%s was deleted at %d and is at %d", op.Key, rev, r.Revision))
	case !op.Delete && (r == nil || r.Revision != rev || string(r.Value) != string(op.Value) || r.User != op.User):
		return violation(fmt.Errorf("%s was written at %d by %s and is %+v", op.Key, rev, op.User, r))
	}
	return nil
}

// A violationError is something that must never happen, where errors are expected.
type violationError struct{ error }

func violation(err error) error { return violationError{err} }

func (v violationError) Unwrap() error { return v.error }

// isViolation says whether an error is more than an operation that failed.
func isViolation(err error) bool { return errors.As(err, &violationError{}) }

// A session is one opening of an engine under load.
type session struct {
	t     *Truth
	e     Engine
	clock *storetest.Clock
	seed  uint64
	no    int // of the session, for names
}

// run has all clients of a load work, and somebody who lets time pass and moves
// the horizon; it returns the errors of all of them.
func (s *session) run(ctx context.Context, l Load) []error {
	var (
		mu   sync.Mutex
		errs []error
		wg   sync.WaitGroup
	)
	report := func(who string, err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, fmt.Errorf("%s: %w", who, err))
		}
	}
	var writers sync.WaitGroup
	for id := range l.Writers {
		c := &client{t: s.t, e: s.e, name: fmt.Sprintf("c%d-%d", s.no, id), value: max(l.Value, 1),
			r:   rand.New(rand.NewPCG(s.seed, uint64(s.no*100+id))),
			own: map[string]store.Revision{}, heard: map[string]store.Revision{}, ends: map[string]bool{}}
		writers.Go(func() { report(c.name, c.run(ctx, l.Writes)) })
	}
	working, over := context.WithCancel(ctx)
	wg.Go(func() { report("keeper", s.keep(working, l)) })
	writers.Wait()
	over()
	wg.Wait()
	return errs
}

// keep compacts, jumps and lets time pass, now and then, until ctx ends.
func (s *session) keep(ctx context.Context, l Load) error {
	r := rand.New(rand.NewPCG(s.seed, uint64(s.no*100+99)))
	last := s.e.Revision()
	for ctx.Err() == nil {
		seq, err := s.e.Watch(ctx, "", s.e.Revision())
		if err != nil {
			return err
		}
		for _, err := range seq { // wait for the next change, or the end
			if err != nil && !errors.Is(err, store.ErrCompacted) {
				return err
			}
			break
		}
		if s.e.Revision()-last < 10 {
			continue
		}
		last = s.e.Revision()
		switch r.IntN(6) {
		case 0, 1:
			err = s.t.Compact(ctx, s.e, max(last-r.Int64N(30), 0))
		case 2, 3, 4:
			s.clock.Advance(time.Duration(r.IntN(20_000)) * time.Millisecond)
		case 5:
			if l.Jumps && r.IntN(2) == 0 {
				err = s.t.Advance(ctx, s.e, last+1000)
			}
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}
