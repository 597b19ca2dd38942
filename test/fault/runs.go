package main

import (
	"context"
	"math/rand/v2"
	"syscall"
	"time"

	"proa/internal/store"
	"proa/internal/store/faulttest"
	"proa/internal/store/lsm"
)

func open(d *faulttest.Disk, clock store.Clock) (faulttest.Engine, error) {
	e, err := lsm.Open("d", lsm.Options{FS: d, Clock: clock, Reserve: -1, ScrubEvery: -1, Tune: faulttest.Tiny, FeedEvents: 100})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// roomy has an engine as a server does.
func roomy(d *faulttest.Disk, clock store.Clock) (faulttest.Engine, error) {
	e, err := lsm.Open("d", lsm.Options{FS: d, Clock: clock, Reserve: -1, ScrubEvery: -1})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// A sort is one kind of run.
type sort struct {
	name  string
	share int // of the time, in percent
	run   func(context.Context, *rand.Rand) (faulttest.Found, error)
}

var sorts = []sort{
	{"crashes", 35, crashes},
	{"failures", 15, failures},
	{"flips", 15, flips},
	{"races", 10, races},
	{"watches", 25, watches},
}

func crashes(ctx context.Context, r *rand.Rand) (faulttest.Found, error) {
	return faulttest.Crashes{Open: open, Seed: r.Uint64(), Sessions: 1 + r.IntN(4), Every: 1, Nested: 1 + r.IntN(5),
		Load: faulttest.Load{Writers: 1 + r.IntN(6), Writes: 10 + r.IntN(60), Value: 1 << r.IntN(13), Jumps: r.IntN(2) == 0}}.Run(ctx)
}

// failures fails the operations of one load, one after another, with a step.
func failures(ctx context.Context, r *rand.Rand) (found faulttest.Found, err error) {
	f := faulttest.Failure{Open: open, Seed: r.Uint64(), Errno: []syscall.Errno{syscall.EIO, syscall.ENOSPC}[r.IntN(2)], Lasting: r.IntN(2) == 0,
		Load: faulttest.Load{Writers: 1 + r.IntN(4), Writes: 30, Value: 1500}}
	const step = 5
	for f.At = 1 + r.Int64N(step); ctx.Err() == nil; f.At += step {
		hit, err := f.Run(ctx)
		if err != nil || !hit {
			return found, err
		}
		found.Failures++
	}
	return found, nil
}

// flips turns over a bit of every byte of what a small load leaves.
func flips(ctx context.Context, r *rand.Rand) (faulttest.Found, error) {
	return faulttest.Flips{Open: open, Seed: r.Uint64(), Crash: r.IntN(2) == 0,
		Load: faulttest.Load{Writers: 2, Writes: 8, Value: 100, Jumps: true}}.Run(ctx)
}

func races(ctx context.Context, r *rand.Rand) (faulttest.Found, error) {
	return faulttest.Linear{Open: open, Seed: r.Uint64(), Clients: 2 + r.IntN(6), Ops: 10 + r.IntN(20), Lives: 1 + r.IntN(5)}.Run(ctx)
}

func watches(ctx context.Context, r *rand.Rand) (faulttest.Found, error) {
	how := open
	if r.IntN(4) > 0 {
		how = roomy // mostly from memory, and faster
	}
	return faulttest.Watching{Open: how, Seed: r.Uint64(), Writers: 1 + r.IntN(16), Writes: 1000, Watchers: 10 + r.IntN(190), Lives: 1 + r.IntN(3)}.Run(ctx)
}

// A tally adds up what the runs do.
type tally struct {
	say        func(string, ...any)
	runs       int
	violations int
	found      faulttest.Found
}

// mostViolations ends everything.
const mostViolations = 10

// runAll goes round the sorts until the time is over, each for its share.
func (t *tally) runAll(ctx context.Context, seed uint64, whole time.Duration) {
	r := rand.New(rand.NewPCG(seed, 0))
	round := max(min(whole, 100*time.Second), time.Second)
	for began := time.Now(); time.Since(began) < whole && t.violations < mostViolations && ctx.Err() == nil; {
		for _, s := range sorts {
			t.runSort(ctx, s, r, min(round*time.Duration(s.share)/100, whole-time.Since(began)))
		}
	}
}

func (t *tally) runSort(ctx context.Context, s sort, r *rand.Rand, budget time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	began, runs := time.Now(), 0
	var found faulttest.Found
	for (runs == 0 || time.Since(began) < budget) && t.violations < mostViolations && ctx.Err() == nil {
		f, err := s.run(ctx, r)
		found.Add(f)
		runs++
		if err != nil && ctx.Err() == nil {
			t.violations++
			t.say("VIOLATION in %s: %v", s.name, err)
		}
	}
	t.runs += runs
	t.found.Add(found)
	d := time.Since(began)
	t.say("%-8s %4d runs in %5.1fs: %d crash points, %d failures, %d flips (%d refused, %d told), %d events (%.0f a second), %d writes",
		s.name, runs, d.Seconds(), found.Points, found.Failures, found.Flips, found.Refused, found.Told, found.Events, float64(found.Events)/d.Seconds(), found.Writes)
}
