// Command crd measures what one more CustomResourceDefinition costs: the time
// from sending its create until its resource is listed, then until an object of it
// is created, then (of proa) until OpenAPI describes it, in a cluster that has 10 and in one
// that has 2,000 others; and the memory of each. Beside it, in turns, Kubernetes' own
// server of custom resources on etcd, with the same definitions. Servers are pinned
// to one core, the load to another.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"proa/test/bench/measure"
)

// Cores of the servers and of the load.
const serverCore, loadCore = 0, 1

type settings struct {
	rounds int
	few    int
	many   int
	used   int
	rest   time.Duration
	only   string
}

func main() {
	var s settings
	flag.IntVar(&s.rounds, "rounds", 9, "rounds, each of one try on every server, after one to warm up")
	flag.IntVar(&s.few, "few", 10, "definitions in a small cluster")
	flag.IntVar(&s.many, "many", 2000, "definitions in a large one")
	flag.IntVar(&s.used, "used", 100, "how many of them are used, last, to see what that costs")
	flag.DurationVar(&s.rest, "rest", time.Minute, "how long a server is left alone before its memory is looked at")
	flag.StringVar(&s.only, "only", "", "measure only this contestant: proa or crd")
	flag.Parse()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "bench-crd:", err)
		os.Exit(1)
	}
}

// all that was measured of one contestant.
type results struct {
	few, many   []times
	large       []times // of a large definition, where there are few
	empty, full memory
	used        memory
	settings    settings
}

// at is one of the times of every try.
func at(tries []times, which func(times) float64) (v []float64) {
	for _, t := range tries {
		v = append(v, which(t))
	}
	return v
}

func listed(t times) float64    { return t.listed }
func created(t times) float64   { return t.created }
func described(t times) float64 { return t.described }

func run(s settings) error {
	refs, err := measure.BuildReferences()
	if err != nil {
		return err
	}
	if err := measure.PinSelf(loadCore); err != nil {
		return err
	}
	dir, remove, err := measure.Scratch()
	if err != nil {
		return err
	}
	defer remove()
	raw := measure.NewRaw("contestant", "round", "definitions", "listed_ms", "created_ms", "described_ms", "heap_mb", "pss_mb")
	arenas := map[string]*arena{}
	for _, name := range names {
		if s.only != "" && s.only != name {
			continue
		}
		a, err := newArena(name, refs, dir, s, raw)
		if a != nil {
			defer a.stop()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		arenas[name] = a
	}
	if err := play(s, arenas, raw); err != nil {
		return err
	}
	if err := raw.Write("crd"); err != nil {
		return err
	}
	report(s, arenas)
	return nil
}

// names of the contestants, in the order of a round.
var names = []string{"proa", "crd"}

// play has the servers take turns.
func play(s settings, arenas map[string]*arena, raw *measure.Raw) error {
	ctx := context.Background()
	for round := range s.rounds + 1 {
		for _, name := range names {
			a := arenas[name]
			if a == nil {
				continue
			}
			for _, turn := range []struct {
				srv  *server
				body func(int) string
				out  *[]times
				n    int
			}{{a.small, small, &a.few, s.few}, {a.big, small, &a.many, s.many}, {a.small, large, &a.large, s.few}} {
				t, err := turn.srv.try(ctx, trial+round, turn.body)
				if err != nil {
					return fmt.Errorf("%s with %d definitions: %w", name, turn.n, err)
				}
				if round == 0 {
					continue
				}
				*turn.out = append(*turn.out, t)
				if turn.out != &a.large {
					raw.Add(name, round, float64(turn.n), t.listed, t.created, t.described, 0, 0)
				} else {
					raw.Add(name+"-large-definition", round, float64(turn.n), t.listed, t.created, t.described, 0, 0)
				}
			}
		}
	}
	for name, a := range arenas {
		var err error
		if a.used, err = a.big.use(ctx, s.used); err != nil {
			return fmt.Errorf("%s: use %d definitions: %w", name, s.used, err)
		}
		raw.Add(name+"-used", 0, float64(s.many), 0, 0, 0, a.used.heap/mb, a.used.pss/mb)
	}
	return nil
}

// report says how far each target is.
func report(s settings, arenas map[string]*arena) {
	for _, name := range names {
		if a := arenas[name]; a != nil {
			a.print(name)
		}
	}
	ours, theirs := arenas["proa"], arenas["crd"]
	if ours == nil {
		return
	}
	grows := measure.Ratios(at(ours.many, created), at(ours.few, created))
	fmt.Printf("  proa, time at %d to time at %d: %s\n", s.many, s.few, measure.Spread(grows))
	claims := []measure.Claim{{Figure: measure.Median(at(ours.many, created)), Unit: fmt.Sprintf("ms until one more definition takes objects, at %d", s.many),
		Ratio: measure.Median(grows), Reference: fmt.Sprintf("the same at %d", s.few), Target: 1.5, Less: true}}
	each := measure.Claim{Figure: ours.perDefinition().heap / kb, Unit: "KB of heap for a definition", Target: 50, In: "KB", Less: true}
	if theirs != nil {
		// The reference's list comes seconds before it takes objects: the harder comparison.
		ratios := measure.Ratios(at(ours.many, listed), at(theirs.many, listed))
		fmt.Printf("  proa to a CRD server on etcd, until listed: at %d %s, at %d %s\n", s.few, measure.Spread(measure.Ratios(at(ours.few, listed), at(theirs.few, listed))), s.many, measure.Spread(ratios))
		fmt.Printf("  proa to a CRD server on etcd, until an object is created: at %d %s\n", s.many, measure.Spread(measure.Ratios(at(ours.many, created), at(theirs.many, created))))
		claims = append(claims, measure.Claim{Figure: measure.Median(at(ours.many, listed)), Unit: fmt.Sprintf("ms until one more definition is listed, at %d", s.many),
			Ratio: measure.Median(ratios), Reference: "a CRD server on etcd", Target: 1, Less: true})
		each.Ratio, each.Reference = ours.perDefinition().heap/theirs.perDefinition().heap, "a CRD server"
	}
	measure.Report("crd", append(claims, each))
}

func (a *arena) print(name string) {
	s := a.settings
	for _, level := range []struct {
		n     int
		tries []times
		what  string
	}{{s.few, a.few, ""}, {s.many, a.many, ""}, {s.few, a.large, fmt.Sprintf(", of %d KB", len(large(0))/kb)}} {
		fmt.Printf("  %s, one more definition at %d%s: listed after %s ms, an object created after %s ms", name, level.n, level.what,
			measure.Spread(at(level.tries, listed)), measure.Spread(at(level.tries, created)))
		if a.small.describes {
			fmt.Printf(", described after %s ms", measure.Spread(at(level.tries, described)))
		}
		fmt.Println()
	}
	each := a.perDefinition()
	n := float64(s.used)
	fmt.Printf("  %s, a definition of %.1f KB: %.1f KB of heap, %.1f KB of PSS until used; used it takes %.1f KB and %.1f KB more; %d were made in %v\n", name,
		float64(len(small(0)))/kb, each.heap/kb, each.pss/kb, (a.used.heap-a.full.heap)/n/kb, (a.used.pss-a.full.pss)/n/kb, s.many, a.big.filled.Round(time.Millisecond))
}

// perDefinition is the memory of one that is not used.
func (r *results) perDefinition() memory {
	n := float64(r.settings.many - r.settings.few)
	return memory{(r.full.heap - r.empty.heap) / n, (r.full.pss - r.empty.pss) / n}
}
