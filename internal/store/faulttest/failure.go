package faulttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"time"

	"proa/internal/store"
	"proa/internal/store/storetest"
)

// A Failure is a run in which one operation on the disk fails: while it does
// the engine may refuse, but not lie; afterwards it is taken into use again, as
// a server does it, and nothing that was acknowledged is missing.
type Failure struct {
	Open    Opener
	Seed    uint64
	Load    Load
	Errno   syscall.Errno // ENOSPC hits only operations that take room
	At      int64         // which of the operations that it can hit, from 1
	Lasting bool          // all after it fail too, until the disk is mended
}

func (f Failure) String() string {
	return fmt.Sprintf("seed %d, %v at operation %d, lasting: %v", f.Seed, f.Errno, f.At, f.Lasting)
}

func (f Failure) hits(k Kind) bool {
	if f.Errno == syscall.ENOSPC {
		return k == Create || k == Write || k == Sync || k == Mkdir || k == Link || k == Rename || k == Reuse
	}
	return true
}

// failing is a run under way.
type failing struct {
	Failure
	disk   *Disk
	clock  *storetest.Clock
	t      *Truth
	e      Engine
	r      *rand.Rand
	n      atomic.Int64
	hit    atomic.Pointer[Op]
	mended atomic.Bool
}

// Run says whether there was such an operation, and what was wrong.
func (f Failure) Run(ctx context.Context) (hit bool, err error) {
	x := &failing{Failure: f, disk: NewDisk(), clock: storetest.NewClock(), t: NewTruth(), r: rand.New(rand.NewPCG(f.Seed, uint64(f.At)))}
	x.disk.Before = func(op Op) error {
		if x.mended.Load() || !f.hits(op.Kind) {
			return nil
		}
		if n := x.n.Add(1); n == f.At || f.Lasting && n > f.At {
			x.hit.CompareAndSwap(nil, &op)
			return f.Errno
		}
		return nil
	}
	err = x.run(ctx)
	op := x.hit.Load()
	if err != nil {
		err = fmt.Errorf("%s (%v): %w", f, op, err)
	}
	return op != nil, err
}

func (x *failing) run(ctx context.Context) (err error) {
	if x.e, err = x.Open(x.disk, x.clock); err != nil {
		if !errors.Is(err, x.Errno) {
			return fmt.Errorf("the failed opening does not say why: %w", err)
		}
		x.mended.Store(true)
		if x.e, err = x.Open(x.disk, x.clock); err != nil {
			return fmt.Errorf("open on the mended disk: %w", err)
		}
	}
	defer func() { x.e.Close() }()
	w := follow(ctx, x.e)
	for _, err := range (&session{t: x.t, e: x.e, clock: x.clock, seed: x.Seed}).run(ctx, x.Load) {
		if !x.expected(err) {
			return err
		}
	}
	if err := x.whileFailed(ctx); err != nil {
		return err
	}
	x.mended.Store(true)
	if err := x.goOn(ctx); err != nil {
		return err
	}
	if err := w.end(x.e.Revision()); err != nil {
		return err
	}
	if err := x.e.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if x.e, err = x.Open(x.disk, x.clock); err != nil {
		return fmt.Errorf("open after an orderly end: %w", err)
	}
	return x.t.Check(ctx, x.e, x.t.Mark(), x.r)
}

// expected says whether an error is one that a failing disk may cause.
func (x *failing) expected(err error) bool {
	return !isViolation(err) && x.hit.Load() != nil && (errors.Is(err, store.ErrPoisoned) || errors.Is(err, x.Errno))
}

// whileFailed checks that a poisoned engine acknowledges nothing and still reads.
func (x *failing) whileFailed(ctx context.Context) error {
	if x.e.Err() == nil {
		return nil
	}
	if !errors.Is(x.e.Err(), x.Errno) {
		return fmt.Errorf("the reason of the failure is %w", x.e.Err())
	}
	before := x.e.Revision()
	if rev, err := x.e.Write(ctx, store.Op{Key: "q", User: "late", Expect: store.Any}); !errors.Is(err, store.ErrPoisoned) {
		return fmt.Errorf("a write after the failure: revision %d, %w", rev, err)
	}
	if x.e.Revision() != before {
		return fmt.Errorf("the revision went from %d to %d after the failure", before, x.e.Revision())
	}
	if err := x.t.Check(ctx, x.e, x.t.Mark(), x.r); err != nil && !errors.Is(err, x.Errno) {
		return fmt.Errorf("reading after the failure: %w", err)
	}
	if x.Lasting {
		if err := x.e.Reopen(ctx); err != nil && !errors.Is(err, x.Errno) {
			return fmt.Errorf("the failed reopening does not say why: %w", err)
		}
	}
	return nil
}

// goOn reopens the engine where that is needed, as a server would, until a load
// goes through.
func (x *failing) goOn(ctx context.Context) error {
	const tries = 5
	for no := 1; ; no++ {
		if x.e.Err() != nil {
			if err := x.e.Reopen(ctx); err != nil {
				return fmt.Errorf("reopen on the mended disk: %w", err)
			}
		}
		if err := x.t.Check(ctx, x.e, x.t.Mark(), x.r); err != nil && (x.e.Err() == nil || no == tries) {
			return fmt.Errorf("after the reopening: %w", err)
		}
		small := x.Load
		small.Writes = 5
		errs := (&session{t: x.t, e: x.e, clock: x.clock, seed: x.Seed, no: no}).run(ctx, small)
		if len(errs) == 0 {
			return nil
		}
		// What failed before may show only now, once.
		if no == tries || !x.expected(errs[0]) || x.e.Err() == nil {
			return fmt.Errorf("on the mended disk: %w", errs[0])
		}
	}
}

// A follower watches everything from the beginning, and begins again at the
// horizon where that overtakes it.
type follower struct {
	seen atomic.Int64
	stop context.CancelFunc
	done chan error
}

func follow(ctx context.Context, e Engine) *follower {
	ctx, stop := context.WithCancel(ctx)
	f := &follower{stop: stop, done: make(chan error, 1)}
	go func() { f.done <- f.run(ctx, e) }()
	return f
}

func (f *follower) run(ctx context.Context, e Engine) error {
	for ctx.Err() == nil {
		seq, err := e.Watch(ctx, "", f.seen.Load())
		if err == nil {
			err = f.read(seq)
		}
		switch {
		case errors.Is(err, store.ErrCompacted):
			if h := e.Horizon(); h > f.seen.Load() {
				f.seen.Store(h)
			}
		case isViolation(err):
			return err
		case err != nil: // as long as the disk fails
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
	return nil
}

func (f *follower) read(seq func(func(store.Batch, error) bool)) error {
	for b, err := range seq {
		if err != nil {
			return err
		}
		for _, ev := range b.Events {
			if ev.Revision != f.seen.Load()+1 {
				return violation(fmt.Errorf("a watch has %d after %d", ev.Revision, f.seen.Load()))
			}
			f.seen.Store(ev.Revision)
		}
		if b.Revision != f.seen.Load() {
			return violation(fmt.Errorf("a watch says that it is at %d, its last event was %d", b.Revision, f.seen.Load()))
		}
	}
	return nil
}

// end waits until the watch has come to a revision.
func (f *follower) end(at store.Revision) error {
	defer f.stop()
	for began := time.Now(); f.seen.Load() < at; {
		select {
		case err := <-f.done:
			return fmt.Errorf("the watch over it all ended: %w", err)
		case <-time.After(100 * time.Microsecond):
		}
		if time.Since(began) > checkTime {
			return fmt.Errorf("the watch over it all is at %d, not at %d", f.seen.Load(), at)
		}
	}
	f.stop()
	return <-f.done
}
