// Command list measures LIST of all Pods, 10,000 and 150,000 of 2.3 KB, beside
// Kubernetes' own API machinery on etcd: latency, processor time, and of sixteen
// at once the time until all are done and the memory that they take. The servers
// share one core, the load comes from another.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"proa/test/bench/load"
	"proa/test/bench/measure"
)

// Cores of the servers and of the load.
const serverCore, loadCore = 0, 1

const atOnce = 16

type settings struct {
	rounds    int
	small     int
	large     int
	crdRounds int
	only      string
}

func main() {
	var s settings
	flag.IntVar(&s.rounds, "rounds", 7, "rounds, each of one run of every contestant, after one to warm up")
	flag.IntVar(&s.small, "small", 10_000, "objects first")
	flag.IntVar(&s.large, "large", 150_000, "objects then, without custom resources; 0: leave it out")
	flag.IntVar(&s.crdRounds, "crd-rounds", 2, "rounds of sixteen at once for custom resources, which take 20 s each")
	flag.StringVar(&s.only, "only", "", "measure only this contestant: proa, typed or crd")
	flag.Parse()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "bench-list:", err)
		os.Exit(1)
	}
}

// A contestant is a server and what was measured.
type contestant struct {
	*measure.Pods
	first string // what a connection asks for first
	cases map[string]*figures
}

// figures are of one case, a value a round.
type figures struct{ latency, cpu, extra []float64 } // ms, ms each, MB each

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
	all, err := start(s, refs, dir)
	defer func() {
		for _, c := range all {
			c.Stop()
		}
	}()
	if err != nil {
		return err
	}
	raw := measure.NewRaw("case", "round", "objects", "at_once", "ms", "cpu_ms_each", "extra_mb_each", "mb_each")
	if err := fill(all, 0, s.small); err != nil {
		return err
	}
	if len(all) > 1 {
		if all, err = withNginx(all, refs, dir); err != nil {
			return err
		}
	}
	if err := size(s, all, s.small, raw); err != nil {
		return err
	}
	if s.large > s.small {
		var two []*contestant
		for _, c := range all {
			if c.Name != "crd" && c.Name != "nginx" {
				two = append(two, c)
			}
		}
		if err := fill(two, s.small, s.large); err != nil {
			return err
		}
		if err := size(s, two, s.large, raw); err != nil {
			return err
		}
	}
	if err := raw.Write("list"); err != nil {
		return err
	}
	report(s, all)
	return nil
}

func start(s settings, refs, dir string) (all []*contestant, err error) {
	err = measure.StartPods(serverCore, refs, dir, s.only, func(p *measure.Pods) error {
		all = append(all, &contestant{Pods: p, first: load.Path(p, 0), cases: map[string]*figures{}})
		return nil
	})
	return all, err
}

// withNginx adds nginx, if there is one, with a list of proa's as a file: what the way to
// the client takes alone.
func withNginx(all []*contestant, refs, dir string) ([]*contestant, error) {
	id, err := measure.NewIdentity(dir)
	if err != nil {
		return all, err
	}
	n, err := load.StartNginx(serverCore, refs, dir, id, all[0].Target, map[string]string{"ready": "/version", "list": all[0].Path})
	if n == nil {
		return all, err
	}
	return append(all, &contestant{first: "/ready", cases: map[string]*figures{}, Pods: &measure.Pods{
		Name: "nginx", Is: "nginx with the same bytes as a file", Path: "/list", Target: n.Target, Processes: []*measure.Process{n.Process}}}), nil
}

// fill fills the stores up to a number of objects.
func fill(all []*contestant, from, to int) error {
	for _, c := range all {
		began := time.Now()
		if err := load.Seed(c.Pods, from, to); err != nil {
			return err
		}
		fmt.Printf("  %s has %d objects after %.0f s\n", c.Name, to, time.Since(began).Seconds())
	}
	return nil
}

// size measures with as many objects as there are.
func size(s settings, all []*contestant, to int, raw *measure.Raw) error {
	for _, x := range []struct {
		encoding string
		n        int
	}{{"json", 1}, {"protobuf", 1}, {"json", atOnce}} {
		if x.n > 1 && to != s.small {
			continue
		}
		for round := range s.rounds + 1 {
			for _, c := range all {
				if x.encoding == "protobuf" && c.Protobuf == "" || c.Name == "crd" && x.n > 1 && round > s.crdRounds {
					continue
				}
				if err := c.measure(x.encoding, x.n, to, round, raw); err != nil {
					return fmt.Errorf("%s: %w", c.Name, err)
				}
			}
		}
		name := caseName(x.encoding, x.n, to)
		fmt.Printf("  %s:", name)
		for _, c := range all {
			if f := c.cases[name]; f != nil {
				fmt.Printf("  %s %.1f ms (%.1f ms of CPU, %.1f MB more memory each)", c.Name, measure.Median(f.latency), measure.Median(f.cpu), measure.Median(f.extra))
			}
		}
		fmt.Println()
	}
	return nil
}

func caseName(encoding string, n, objects int) string {
	return fmt.Sprintf("LIST of %d, %s, %d at once", objects, encoding, n)
}

// lists is how many a run is made of where they come one after the other, so
// that the processor time, which is counted in ticks of 10 ms, can be told.
func lists(n, objects int) int {
	if n > 1 {
		return 1
	}
	return max(1, 50_000/objects)
}

// measure is one run of one contestant; round 0 warms it up.
func (c *contestant) measure(encoding string, n, objects, round int, raw *measure.Raw) error {
	conns, err := c.connect(n)
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	if err != nil {
		return err
	}
	if err := c.ResetPeak(); err != nil {
		return err
	}
	before, err := c.Peak()
	if err != nil {
		return err
	}
	cpu := c.CPU()
	times := lists(n, objects)
	var took []float64
	var bytes int64
	for range times {
		began := time.Now()
		size, err := c.together(encoding, conns)
		if err != nil {
			return err
		}
		took = append(took, measure.Millis(time.Since(began)))
		bytes = size
	}
	used := c.CPU() - cpu
	peak, err := c.Peak()
	if err != nil || round == 0 {
		return err
	}
	name := caseName(encoding, n, objects)
	f := c.cases[name]
	if f == nil {
		f = new(figures)
		c.cases[name] = f
	}
	const mb = 1e6
	f.latency = append(f.latency, measure.Median(took))
	f.cpu = append(f.cpu, measure.Millis(used)/float64(times*n))
	f.extra = append(f.extra, max(0, float64(peak-before))/mb/float64(n))
	last := len(f.cpu) - 1
	raw.Add(c.Name+";"+encoding, round, float64(objects), float64(n), f.latency[last], f.cpu[last], f.extra[last], float64(bytes)/mb/float64(n))
	return nil
}

// connect makes connections that have been used once.
func (c *contestant) connect(n int) (conns []*load.Conn, err error) {
	for range n {
		conn, err := load.Dial(c.Target)
		if err != nil {
			return conns, err
		}
		conns = append(conns, conn)
		if _, err := conn.Do(&load.Request{Method: "GET", Path: c.first}, nil); err != nil {
			return conns, err
		}
	}
	return conns, nil
}

// together asks for a list over each connection at once and returns how many bytes they were.
func (c *contestant) together(encoding string, conns []*load.Conn) (int64, error) {
	n := len(conns)
	var wg sync.WaitGroup
	errs := make([]error, n)
	sizes := make([]int64, n)
	for i := range n {
		wg.Go(func() {
			sizes[i], errs[i] = conns[i].Do(&load.Request{Method: "GET", Path: c.Path, Accept: load.Accepts[encoding]}, nil)
		})
	}
	wg.Wait()
	var sum int64
	for _, n := range sizes {
		sum += n
	}
	return sum, errors.Join(errs...)
}

// report says how far each target is. Of two references the harder one counts.
func report(s settings, all []*contestant) {
	if all[0].Name != "proa" {
		return
	}
	var claims []measure.Claim
	for name, ours := range all[0].cases {
		var hard *contestant
		for _, c := range all[1:] {
			f := c.cases[name]
			if f == nil {
				continue
			}
			fmt.Printf("  %s: ratio of the time to %s: %s; processor time %.3fx\n", name, c.Is,
				measure.Spread(measure.Ratios(ours.latency, f.latency)), measure.Median(ours.cpu)/measure.Median(f.cpu))
			if c.Name == "nginx" {
				continue
			}
			if hard == nil || cmp.Less(measure.Median(f.latency), measure.Median(hard.cases[name].latency)) {
				hard = c
			}
		}
		claim := measure.Claim{Figure: measure.Median(ours.latency), Unit: "ms (" + name + ")", In: "ms", Less: true}
		if hard != nil {
			claim.Ratio, claim.Reference = measure.Median(measure.Ratios(ours.latency, hard.cases[name].latency)), hard.Is
		}
		memory := measure.Claim{Figure: measure.Median(ours.extra), Unit: "MB more memory each (" + name + ")", Target: 4, In: "MB", Less: true}
		switch name {
		case caseName("json", 1, s.small):
			claim.Target = 40
			processor := measure.Claim{Figure: measure.Median(ours.cpu), Unit: "ms of the server's processor (" + name + ")", Target: 20, In: "ms", Less: true}
			ratio := claim
			ratio.In, ratio.Target = "", 0.2
			if claims = append(claims, claim, processor); hard != nil {
				claims = append(claims, ratio)
			}
		case caseName("json", atOnce, s.small):
			claim.Target = 600
			claims = append(claims, claim, memory)
		}
	}
	measure.Report("list", claims)
}
