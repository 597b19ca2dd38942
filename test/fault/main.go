// Fault runs the store's engine through crashes, failing and full disks, flipped
// bits, races and slow watches for as long as it is told, then every planted bug
// through the tests that must catch it, and prints what it did in one last
// line. See docs/design/013-faults.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"proa/internal/store/planted"
)

func main() {
	o := options{}
	flag.DurationVar(&o.time, "time", 10*time.Minute, "how long to run, without the planted bugs")
	flag.Uint64Var(&o.seed, "seed", 0, "where the random numbers begin; 0: somewhere")
	flag.BoolVar(&o.planted, "planted", true, "run the planted bugs, too")
	flag.StringVar(&o.root, "root", ".", "the root of the repository")
	flag.Parse()
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := o.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fault:", err)
	}
	if err != nil || !ok {
		stop()
		os.Exit(1)
	}
}

type options struct {
	time    time.Duration
	seed    uint64
	planted bool
	root    string
}

// run says whether all was well.
func (o options) run(ctx context.Context) (bool, error) {
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	say("seed %d, for %v", o.seed, o.time)
	t := &tally{say: say}
	t.runAll(ctx, o.seed, o.time)
	bugs := "not run"
	caught := len(planted.All)
	if o.planted && ctx.Err() == nil {
		c, err := newCatcher(o.root)
		if err != nil {
			return false, err
		}
		defer c.close()
		if err := c.control(ctx, planted.All); err != nil {
			return false, err
		}
		say("planted: without a bug, the tests pass")
		if caught, err = c.catchAll(ctx, planted.All, say); err != nil {
			return false, err
		}
		bugs = fmt.Sprintf("%d of %d caught", caught, len(planted.All))
	}
	f := &t.found
	say("fault: %d runs, %d crash points (%d in recoveries), %d failures, %d flips, %d events, %d violations, planted bugs: %s",
		t.runs, f.Points, f.Nested, f.Failures, f.Flips, f.Events, t.violations, bugs)
	return t.violations == 0 && caught == len(planted.All), nil
}
