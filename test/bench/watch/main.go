// Command watch measures how a write reaches 100, 1,000 and 10,000 watchers,
// beside Kubernetes' own API machinery on etcd: from the time when the write was
// due until each watcher has the whole event; and what a watch that waits costs
// in memory. The servers share one core, writer and watchers another.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"proa/test/bench/measure"
)

// Cores of the servers and of the load.
const serverCore, loadCore = 0, 1

type settings struct {
	rounds   int
	watchers []int
	each     int
	only     string
}

func main() {
	var s settings
	flag.IntVar(&s.rounds, "rounds", 7, "rounds, each of one run of every contestant, after one to warm up")
	flag.IntVar(&s.each, "connection", 100, "watches on one connection")
	watchers := flag.String("watchers", "100,1000,10000", "numbers of watchers")
	flag.StringVar(&s.only, "only", "", "measure only this contestant: proa, typed or crd")
	flag.Parse()
	var err error
	for w := range strings.SplitSeq(*watchers, ",") {
		n, convErr := strconv.Atoi(w)
		err = errors.Join(err, convErr)
		s.watchers = append(s.watchers, n)
	}
	if err == nil {
		err = run(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-watch:", err)
		os.Exit(1)
	}
}

// pace is how many writes a run has, and how far apart they are.
func pace(watchers int) (writes int, every time.Duration) {
	switch {
	case watchers <= 100:
		return 25, 40 * time.Millisecond
	case watchers <= 1000:
		return 8, 250 * time.Millisecond
	}
	return 3, 1500 * time.Millisecond
}

// figures are of one contestant at one number of watchers, a value a round.
type figures struct {
	p50, p99, cpu []float64 // ms, ms, ms of processor a write
	memory        float64   // KiB a watch, while all wait
}

func run(s settings) error {
	refs, err := measure.BuildReferences()
	if err != nil {
		return err
	}
	if err := measure.PinSelf(loadCore); err != nil {
		return err
	}
	raw := measure.NewRaw("contestant", "round", "watchers", "p50_ms", "p99_ms", "cpu_ms_a_write", "kib_a_watch")
	results := map[int]map[string]*figures{}
	names := map[string]string{}
	for _, n := range s.watchers {
		if results[n], err = level(s, refs, n, names, raw); err != nil {
			return fmt.Errorf("%d watchers: %w", n, err)
		}
	}
	if err := raw.Write("watch"); err != nil {
		return err
	}
	report(s, results, names)
	return nil
}

// level measures at one number of watchers, with fresh servers.
func level(s settings, refs string, n int, names map[string]string, raw *measure.Raw) (map[string]*figures, error) {
	dir, remove, err := measure.Scratch()
	if err != nil {
		return nil, err
	}
	defer remove()
	var crowds []*crowd
	defer func() {
		for _, c := range crowds {
			c.close()
			c.pods.Stop()
		}
	}()
	out := map[string]*figures{}
	err = measure.StartPods(serverCore, refs, dir, s.only, func(p *measure.Pods) error {
		c := &crowd{pods: p}
		crowds = append(crowds, c)
		writes, _ := pace(n)
		kib, err := c.gather(n, s.each, (s.rounds+1)*writes)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		names[p.Name], out[p.Name] = p.Is, &figures{memory: kib}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for round := range s.rounds + 1 {
		for _, c := range crowds {
			writes, every := pace(n)
			cpu := c.pods.CPU()
			took, err := c.write(writes, every)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.pods.Name, err)
			}
			used := measure.Millis(c.pods.CPU()-cpu) / float64(writes)
			if round == 0 {
				continue
			}
			f := out[c.pods.Name]
			f.p50, f.p99 = append(f.p50, measure.Millis(measure.Median(took))), append(f.p99, measure.Millis(measure.Quantile(took, 0.99)))
			f.cpu = append(f.cpu, used)
			raw.Add(c.pods.Name, round, float64(n), f.p50[len(f.p50)-1], f.p99[len(f.p99)-1], used, f.memory)
		}
	}
	fmt.Printf("  %5d watchers:", n)
	for _, c := range crowds {
		f := out[c.pods.Name]
		fmt.Printf("  %s p50 %.1f ms, p99 %.1f ms (%.1f ms of CPU a write, %.1f KiB a watch)", c.pods.Name, measure.Median(f.p50), measure.Median(f.p99), measure.Median(f.cpu), f.memory)
	}
	fmt.Println()
	return out, nil
}

// report says how far each target is. Of two references the harder one counts.
func report(s settings, results map[int]map[string]*figures, names map[string]string) {
	targets := map[int][2]float64{100: {1.5, 5}, 1000: {5, 15}, 10000: {0, 100}}
	var claims []measure.Claim
	for _, n := range s.watchers {
		ours := results[n]["proa"]
		if ours == nil {
			return
		}
		hard := ""
		for _, name := range []string{"typed", "crd"} {
			f := results[n][name]
			if f == nil {
				continue
			}
			fmt.Printf("  %d watchers, ratio to %s: p50 %s, p99 %s, processor time %.3fx\n", n, names[name],
				measure.Spread(measure.Ratios(ours.p50, f.p50)), measure.Spread(measure.Ratios(ours.p99, f.p99)), measure.Median(ours.cpu)/measure.Median(f.cpu))
			if hard == "" || measure.Median(f.p99) < measure.Median(results[n][hard].p99) {
				hard = name
			}
		}
		for i, part := range []struct {
			what string
			of   func(*figures) []float64
		}{{"p50", func(f *figures) []float64 { return f.p50 }}, {"p99", func(f *figures) []float64 { return f.p99 }}} {
			if targets[n][i] == 0 {
				continue
			}
			c := measure.Claim{Figure: measure.Median(part.of(ours)), Unit: fmt.Sprintf("ms %s at %d watchers", part.what, n), Target: targets[n][i], In: "ms", Less: true}
			if hard != "" {
				c.Ratio, c.Reference = measure.Median(measure.Ratios(part.of(ours), part.of(results[n][hard]))), names[hard]
			}
			claims = append(claims, c)
		}
	}
	if most := slices.Max(s.watchers); most >= 1000 {
		c := measure.Claim{Figure: results[most]["proa"].memory, Unit: fmt.Sprintf("KiB for each of %d watches", most), Target: 16, In: "KiB", Less: true}
		if f := results[most]["typed"]; f != nil {
			c.Ratio, c.Reference = c.Figure/f.memory, names["typed"]
		}
		claims = append(claims, c)
	}
	measure.Report("watch", claims)
}
