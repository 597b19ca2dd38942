package faulttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"

	"proa/internal/store"
	"proa/internal/store/storetest"
)

// A Linear run lets clients race on a few keys through several failures of the
// engine, one a life, and asks whether all that they saw has one order. A write
// that got no answer is settled by the log of the engine afterwards.
type Linear struct {
	Open    Opener
	Seed    uint64
	Clients int
	Ops     int // of each client in each life
	Lives   int
}

// The ends of a life.
const (
	endPower  = iota // the disk keeps what was synced, and some of the rest
	endKill          // the process ends; the disk keeps all
	endError         // an operation on the disk fails, and the engine is reopened in place
	endOrder         // the engine is closed under its clients
	endLength        // how many there are
)

// Run returns what it did, and the first violation.
func (l Linear) Run(ctx context.Context) (Found, error) {
	r := rand.New(rand.NewPCG(l.Seed, 5))
	clock := storetest.NewClock()
	var log storetest.Log
	found := Found{}
	disk := NewDisk()
	e, err := l.Open(disk, clock)
	for life := 0; err == nil; life++ {
		var next Engine
		next, disk, err = l.live(ctx, e, disk, clock, &log, r, life)
		found.Failures++
		if err != nil {
			break
		}
		e = next
		made := map[string]store.Revision{}
		var all []store.Event
		if all, err = events(ctx, e, "", 0, e.Revision()); err != nil {
			break
		}
		for _, ev := range all {
			made[ev.User] = ev.Revision
		}
		log.Resolve(made)
		if life == l.Lives {
			break
		}
	}
	if err == nil {
		err = log.Check()
	}
	if err == nil {
		err = e.Close()
	}
	found.Writes = log.Len()
	if err != nil {
		err = fmt.Errorf("seed %d: %w", l.Seed, err)
	}
	return found, err
}

// live lets the clients work until the life's failure, and makes the next life.
func (l Linear) live(ctx context.Context, e Engine, disk *Disk, clock *storetest.Clock, log *storetest.Log, r *rand.Rand, life int) (Engine, *Disk, error) {
	end, at := r.IntN(endLength), disk.Changes()+1+r.Int64N(int64(l.Clients*l.Ops))
	part, seed := r.IntN(101), r.Uint64()
	var dead atomic.Bool
	var left atomic.Pointer[Disk]
	gone := make(chan struct{})
	disk.intercept(func(op Op) error {
		if dead.Load() {
			return syscall.EIO
		}
		if op.N != at || !op.Kind.Changes() {
			return nil
		}
		switch end {
		case endPower:
			left.Store(disk.Crash(rand.New(rand.NewPCG(seed, 6)), part))
		case endKill:
			left.Store(disk.Clone())
		case endOrder:
			close(gone)
			return nil
		}
		dead.Store(true)
		return syscall.EIO
	})
	var clients, closing sync.WaitGroup
	failed := make(chan error, l.Clients)
	for id := range l.Clients {
		c := rand.New(rand.NewPCG(seed, uint64(100+id)))
		clients.Go(func() { failed <- log.Client(ctx, e, life*l.Clients+id, c, l.Ops) })
	}
	over := make(chan struct{})
	if end == endOrder {
		closing.Go(func() {
			select {
			case <-gone:
				_ = e.Close()
			case <-over:
			}
		})
	}
	clients.Wait()
	close(over)
	closing.Wait()
	close(failed)
	for err := range failed {
		if err != nil && !errors.Is(err, store.ErrPoisoned) && !errors.Is(err, store.ErrClosed) && !errors.Is(err, syscall.EIO) {
			return nil, nil, err
		}
	}
	return l.next(ctx, e, disk, left.Load(), clock, &dead)
}

// next is the engine of the next life.
func (l Linear) next(ctx context.Context, e Engine, disk, left *Disk, clock *storetest.Clock, dead *atomic.Bool) (Engine, *Disk, error) {
	if left != nil {
		_ = e.Close() // it has nothing any more to say to anybody
		e, err := l.Open(left, clock)
		return e, left, err
	}
	dead.Store(false)
	if _, _, err := e.Get(ctx, "k0"); errors.Is(err, store.ErrClosed) {
		disk.intercept(nil)
		e, err := l.Open(disk, clock)
		return e, disk, err
	}
	if e.Err() != nil {
		if err := e.Reopen(ctx); err != nil {
			return nil, nil, err
		}
	}
	return e, disk, nil
}
