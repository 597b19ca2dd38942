package faulttest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"proa/internal/store"
	"proa/internal/store/storetest"
)

// Crashes is a run with crash points: a load on a recorded disk, closed and opened
// again a few times, and a picture of the disk before its operations, as a
// crash would leave it. Each is opened, unattended, and compared with the truth.
type Crashes struct {
	Open     Opener
	Seed     uint64
	Load     Load
	Sessions int // openings of the load's engine
	Every    int // a picture before every how many-th operation that changes the disk; 1: all
	Nested   int // one in how many recoveries is itself crashed, at one of its operations; 0: none
}

// Found counts what a run did.
type Found struct {
	Points   int // crash points
	Nested   int // of them, in the middle of a recovery
	Kinds    map[Kind]int
	Writes   int // acknowledged
	Changes  int64
	Failures int // injected errors and full disks
	Flips    int
	Refused  int // flips because of which an opening was refused
	Told     int // flips that a read told of
	Events   int64
}

// Add adds up.
func (f *Found) Add(g Found) {
	f.Points, f.Nested, f.Writes, f.Changes = f.Points+g.Points, f.Nested+g.Nested, f.Writes+g.Writes, f.Changes+g.Changes
	f.Failures, f.Flips, f.Refused, f.Told, f.Events = f.Failures+g.Failures, f.Flips+g.Flips, f.Refused+g.Refused, f.Told+g.Told, f.Events+g.Events
	if f.Kinds == nil {
		f.Kinds = map[Kind]int{}
	}
	for k, n := range g.Kinds {
		f.Kinds[k] += n
	}
}

// A picture is a disk as a crash leaves it.
type picture struct {
	disk *Disk
	mark Mark
	now  time.Time
	op   Op
	part int // percent of what was not synced
	seed uint64
	deep int // crashes before this one, in recoveries
}

func (p *picture) String() string {
	return fmt.Sprintf("crash before %s, with %d%% of what was not synced, in recovery %d", p.op, p.part, p.deep)
}

// crashing is a run under way.
type crashing struct {
	Crashes
	t     *Truth
	queue chan *picture

	mu    sync.Mutex // of what follows
	r     *rand.Rand
	found Found
	err   error
}

// Run returns what it did, and the first violation.
func (c Crashes) Run(ctx context.Context) (Found, error) {
	x := &crashing{Crashes: c, t: NewTruth(), queue: make(chan *picture, 8), r: rand.New(rand.NewPCG(c.Seed, 1))}
	x.found.Kinds = map[Kind]int{}
	var checkers sync.WaitGroup
	for range max(2, runtime.GOMAXPROCS(0)) {
		checkers.Go(func() {
			for p := range x.queue {
				x.judge(ctx, p)
			}
		})
	}
	err := x.load(ctx)
	close(x.queue)
	checkers.Wait()
	if err == nil {
		err = x.err
	}
	if err != nil {
		err = fmt.Errorf("seed %d: %w", c.Seed, err)
	}
	x.found.Writes = x.t.Mark().acks
	return x.found, err
}

// load runs the load and takes the pictures.
func (x *crashing) load(ctx context.Context) error {
	disk, clock := NewDisk(), storetest.NewClock()
	disk.Before = func(op Op) error {
		if op.Kind.Changes() && op.N%int64(x.Every) == 0 {
			x.queue <- x.take(disk, op, clock)
		}
		return nil
	}
	for no := range x.Sessions {
		e, err := x.Open(disk, clock)
		if err != nil {
			return fmt.Errorf("open after an orderly end: %w", err)
		}
		s := &session{t: x.t, e: e, clock: clock, seed: x.Seed, no: no}
		for _, err := range s.run(ctx, x.Load) {
			return err
		}
		if err := e.Close(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	x.queue <- x.take(disk, Op{N: disk.Changes() + 1}, clock)
	x.found.Changes = disk.Changes()
	return nil
}

func (x *crashing) take(disk *Disk, op Op, clock store.Clock) *picture {
	mark := x.t.Mark() // first: what is acknowledged during the cloning need not be in it
	x.mu.Lock()
	defer x.mu.Unlock()
	p := &picture{mark: mark, now: clock.Now(), op: op, seed: x.r.Uint64(), part: []int{0, 20, 50, 80, 100}[x.r.IntN(5)]}
	p.disk = disk.Crash(x.r, p.part)
	x.found.Points++
	x.found.Kinds[op.Kind]++
	return p
}

// judge opens a picture, and those of its recovery.
func (x *crashing) judge(ctx context.Context, p *picture) {
	for p != nil {
		x.mu.Lock()
		over := x.err != nil
		x.mu.Unlock()
		if over {
			return
		}
		next, err := x.recover(ctx, p)
		x.mu.Lock()
		if err != nil && x.err == nil {
			x.err = fmt.Errorf("%s: %w", p, err)
		}
		if next != nil {
			x.found.Points++
			x.found.Nested++
			x.found.Kinds[next.op.Kind]++
		}
		x.mu.Unlock()
		p = next
	}
}

// deepest is how many recoveries in a row crash.
const deepest = 3

// recover opens a picture and compares it with the truth. It may return another
// one, from the middle of the recovery.
func (x *crashing) recover(ctx context.Context, p *picture) (next *picture, err error) {
	r := rand.New(rand.NewPCG(p.seed, 2))
	at := int64(0)
	if x.Nested > 0 && p.deep < deepest && r.IntN(x.Nested) == 0 {
		at = 1 + r.Int64N(25)
	}
	var mu sync.Mutex
	p.disk.Before = func(op Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.N == at && op.Kind.Changes() {
			next = &picture{mark: p.mark, now: p.now, op: op, part: p.part, seed: r.Uint64(), deep: p.deep + 1}
			next.disk = p.disk.Crash(r, p.part)
		}
		return nil
	}
	clock := storetest.NewClock()
	clock.Advance(p.now.Sub(clock.Now()))
	e, err := x.Open(p.disk, clock)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer func() { e.Close() }()
	mu.Lock()
	at = 0
	got := next
	mu.Unlock()
	check := rand.New(rand.NewPCG(p.seed, 3))
	if err := x.t.Check(ctx, e, p.mark, check); err != nil {
		return nil, err
	}
	if check.IntN(4) == 0 {
		e, err = x.goOn(ctx, e, p.disk, clock)
	}
	return got, err
}

// goOn uses a recovered engine: it takes writes, expires what is to end, and is
// the same after an orderly end. It returns the engine that is open at the end.
func (x *crashing) goOn(ctx context.Context, e Engine, disk *Disk, clock *storetest.Clock) (Engine, error) {
	newest := e.Revision()
	before, err := rangeAt(ctx, e, newest)
	if err != nil {
		return e, err
	}
	rev, err := e.Write(ctx, store.Op{Key: "zz", User: "after", Expect: store.Absent})
	if err != nil || rev != newest+1 {
		return e, fmt.Errorf("the first write has revision %d after %d: %w", rev, newest, err)
	}
	clock.Advance(time.Hour)
	after, err := rangeAt(ctx, e, e.Revision())
	if err != nil {
		return e, err
	}
	for key, r := range before {
		x.t.mu.Lock()
		ends := x.t.sent[r.User].TTL > 0
		x.t.mu.Unlock()
		if now, ok := after[key]; ok == ends || ok && !same(now, r) {
			return e, fmt.Errorf("an hour later %s is there: %v; it ends: %v", show(r), ok, ends)
		}
	}
	newest = e.Revision()
	if err := e.Close(); err != nil {
		return e, fmt.Errorf("close: %w", err)
	}
	again, err := x.Open(disk, clock)
	if err != nil {
		return e, fmt.Errorf("open after an orderly end: %w", err)
	}
	if again.Revision() != newest {
		return again, fmt.Errorf("revision %d after an orderly end at %d", again.Revision(), newest)
	}
	got, err := rangeAt(ctx, again, newest)
	if err == nil {
		err = got.differs(after)
	}
	return again, err
}
