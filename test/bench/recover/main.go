// Command recover measures a kill -9: from the signal to the first good write
// of the server that is started again at once, and the memory that it takes.
// With 10,000 Pods of 2.3 KB, created through the API, and with 1,000,000
// ConfigMaps of 1 KB, laid into the store with the bytes that the API makes.
// Beside it, in turns and on the same core, a CRD server and etcd, both killed,
// with the same objects as custom resources.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"proa/test/bench/measure"
)

type settings struct {
	core        int
	small       int // objects of 2.3 KB
	smallRounds int
	large       int // objects of 1 KB
	largeRounds int
	only        string
	hold        time.Duration
	keep        string // a folder in which filled data stay for the next time
}

func main() {
	var s settings
	flag.IntVar(&s.core, "core", 0, "core that all servers run on; -1 for all cores")
	flag.IntVar(&s.small, "small", 10_000, "objects of 2.3 KB")
	flag.IntVar(&s.smallRounds, "rounds", 7, "rounds with these, each of one kill of every contestant, after one to warm up")
	flag.IntVar(&s.large, "large", 1_000_000, "objects of 1 KB")
	flag.IntVar(&s.largeRounds, "large-rounds", 2, "rounds with these, after one to warm up")
	flag.StringVar(&s.only, "only", "", "measure only this contestant: proa or crd")
	flag.DurationVar(&s.hold, "hold", 3*time.Second, "how long a server that is back is left alone before its memory is looked at")
	flag.StringVar(&s.keep, "keep", "", "folder in which filled data stay for the next run, for profiles")
	flag.Parse()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "bench-recover:", err)
		os.Exit(1)
	}
}

// A contestant is a server that can be filled quickly.
type contestant interface {
	measure.Killable
	lay(k kind, n int) error // n objects into its store, from the sample that the API has made; it may stop meanwhile
}

const mb = 1e6

func run(s settings) error {
	refs := ""
	if s.only != "proa" {
		var err error
		if refs, err = measure.BuildReferences(); err != nil {
			return err
		}
	}
	raw := measure.NewRaw("contestant", "round", "objects", "back_ms", "peak_mb", "pss_mb")
	var claims []measure.Claim
	for _, c := range []struct {
		kind
		objects, rounds int
		target          float64 // s
		memory          float64 // MB; 0: none
	}{{pods, s.small, s.smallRounds, 0.3, 0}, {configMaps, s.large, s.largeRounds, 3, 1600}} {
		if c.objects == 0 || c.rounds == 0 {
			continue
		}
		ours, theirs, err := series(s, refs, c.kind, c.objects, c.rounds, raw)
		if err != nil {
			return fmt.Errorf("%d objects: %w", c.objects, err)
		}
		if len(ours.back) == 0 {
			continue // left out by -only: there is nothing to claim
		}
		claim := measure.Claim{Figure: measure.Median(ours.back), Unit: fmt.Sprintf("s back with %d objects", c.objects), Target: c.target, In: "s", Less: true}
		if r := measure.Ratios(ours.back, theirs.back); len(r) > 0 {
			claim.Ratio, claim.Reference = measure.Median(r), "a CRD server and etcd"
			fmt.Printf("  %d objects, ratio to a CRD server and etcd: %s\n", c.objects, measure.Spread(r))
			over := claim
			over.Target, over.In = 0.3, ""
			if c.memory > 0 {
				claims = append(claims, over)
			}
		}
		claims = append(claims, claim)
		if c.memory > 0 && len(ours.peak) > 0 {
			claims = append(claims, measure.Claim{Figure: measure.Median(ours.peak), Unit: fmt.Sprintf("MB at most with %d objects", c.objects), Target: c.memory, In: "MB", Less: true})
		}
	}
	if err := raw.Write("recover"); err != nil {
		return err
	}
	measure.Report("recover", claims)
	return nil
}

// outcome is what one contestant's rounds gave: seconds, and MB.
type outcome struct{ back, peak, pss []float64 }

// series fills both contestants and then kills them in turns.
func series(s settings, refs string, k kind, objects, rounds int, raw *measure.Raw) (ours, theirs outcome, err error) {
	dir, remove, err := measure.Scratch()
	if err != nil {
		return ours, theirs, err
	}
	defer remove()
	if s.keep != "" {
		dir = filepath.Join(s.keep, fmt.Sprint(objects))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return ours, theirs, err
		}
	}
	var all []contestant
	if s.only != "crd" {
		program, err := measure.Proa()
		if err != nil {
			return ours, theirs, err
		}
		p, err := measure.NewPretendCluster(s.core, program, filepath.Join(dir, "p"))
		if err != nil {
			return ours, theirs, err
		}
		all = append(all, proa{p})
	}
	if s.only != "proa" {
		c, err := measure.NewCRDPair(s.core, refs, filepath.Join(dir, "r"))
		if err != nil {
			return ours, theirs, err
		}
		all = append(all, crd{c})
	}
	for _, c := range all {
		filled := filepath.Join(dir, c.Name()+".filled")
		if _, err := os.Stat(filled); err == nil {
			continue
		}
		began := time.Now()
		if err := errors.Join(c.Launch(), c.Ready()); err != nil {
			return ours, theirs, fmt.Errorf("start %s: %w", c.Name(), err)
		}
		err := fill(c, k, objects)
		c.Stop()
		if err != nil {
			return ours, theirs, fmt.Errorf("fill %s: %w", c.Name(), err)
		}
		fmt.Printf("  %s holds %d objects after %.0f s\n", c.Name(), objects, time.Since(began).Seconds())
		if err := os.WriteFile(filled, nil, 0o600); err != nil {
			return ours, theirs, err
		}
	}
	for round := range rounds + 1 {
		for _, c := range all {
			out := &theirs
			if c.Name() == "proa" {
				out = &ours
			}
			back, peak, pss, err := once(s, c, k, round)
			if err != nil {
				return ours, theirs, fmt.Errorf("%s, round %d: %w", c.Name(), round, err)
			}
			if round == 0 {
				continue // the files come into the page cache
			}
			raw.Add(c.Name(), round, float64(objects), back*1000, peak/mb, pss/mb)
			out.back, out.peak, out.pss = append(out.back, back), append(out.peak, peak/mb), append(out.pss, pss/mb)
		}
	}
	for _, o := range []struct {
		name string
		outcome
	}{{"proa", ours}, {"a CRD server and etcd", theirs}} {
		if len(o.back) > 0 {
			fmt.Printf("  %d objects, %s: back after %s s, at most %.0f MB, then %.0f MB PSS\n", objects, o.name, measure.Spread(o.back), measure.Median(o.peak), measure.Median(o.pss))
		}
	}
	return ours, theirs, nil
}

// written is how many objects are written before a kill, so that there is a log
// to read.
const written = 500

// once starts a server, writes, kills it, starts it again at once, and says how
// many seconds after the kill a write succeeded, and what it took in memory.
func once(s settings, c contestant, k kind, round int) (back, peak, pss float64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := errors.Join(c.Launch(), c.Ready()); err != nil {
		return 0, 0, 0, err
	}
	first := (round+1)*1_000_000 + int(time.Now().UnixNano()%900)*1000 // other names than in a run before on the same data
	for n := range written {
		if err := write(ctx, c, k, fmt.Sprint("bench-", first+n)); err != nil {
			c.Kill()
			return 0, 0, 0, err
		}
	}
	killed := time.Now()
	c.Kill()
	if err := c.Launch(); err != nil {
		return 0, 0, 0, err
	}
	defer c.Kill()
	back, err = firstWrite(ctx, c, k, first+written, killed)
	if err != nil {
		return 0, 0, 0, err
	}
	time.Sleep(s.hold)
	for _, pid := range c.PIDs() {
		high, err1 := measure.Peak(pid)
		now, err2 := measure.PSS(pid)
		err = errors.Join(err, err1, err2)
		peak, pss = peak+float64(high), pss+float64(now)
	}
	return back, peak, pss, err
}

// firstWrite tries until a write succeeds.
func firstWrite(ctx context.Context, c contestant, k kind, n int, killed time.Time) (float64, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := write(ctx, c, k, fmt.Sprint("bench-", n))
		if err == nil {
			return time.Since(killed).Seconds(), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("no write succeeded: %w", err)
		}
	}
}
