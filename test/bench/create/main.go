// Command create measures durable creates of a Pod of 2.3 KB at 1, 16, 64 and
// 256 clients, each with a connection of its own, over TLS and HTTP/2, in JSON
// and in protobuf. In turns with proa, on the same core: the same Pods on
// Kubernetes' generic registry, typed, and as custom resources, both on etcd; raw
// puts into etcd, a bare Go server on Pebble, and bare Pebble puts. The load
// comes from another core.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"proa/test/bench/load"
	"proa/test/bench/measure"
)

// Cores of the servers and of the load.
const serverCore, loadCore = 0, 1

type settings struct {
	rounds  int
	length  time.Duration
	clients []int
	only    string // contestants, for a profile
}

func main() {
	done, err := bareMode(os.Args[1:])
	if done {
		exit(err)
	}
	var s settings
	flag.IntVar(&s.rounds, "rounds", 7, "rounds, each of one run of every contestant, after one to warm up")
	flag.DurationVar(&s.length, "length", time.Second, "length of a run")
	clients := flag.String("clients", "1,16,64,256", "numbers of clients")
	flag.StringVar(&s.only, "only", "", "measure only these contestants, with commas: "+strings.Join(names, ", "))
	flag.Parse()
	for c := range strings.SplitSeq(*clients, ",") {
		n, convErr := strconv.Atoi(c)
		err = errors.Join(err, convErr)
		s.clients = append(s.clients, n)
	}
	if err == nil {
		err = run(s)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-create:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Contestants in the order of a round.
var names = []string{"proa", "typed", "crd", "proa-pb", "typed-pb", "etcd", "server", "pebble"}

func (s settings) has(name string) bool {
	if s.only == "" {
		return true
	}
	for only := range strings.SplitSeq(s.only, ",") {
		if only == name {
			return true
		}
	}
	return false
}

// A level is all that was measured at one number of clients, by contestant.
type level struct {
	clients int
	rates   map[string][]float64
	p99     map[string][]float64 // ms
	cpu     map[string][]float64 // µs of the servers' processor time per create
	syncs   map[string]float64   // per create
	half    []float64            // proa's p99 at half load, ms
}

func run(s settings) error {
	refs, err := measure.BuildReferences()
	if err != nil {
		return err
	}
	if err := measure.PinSelf(loadCore); err != nil {
		return err
	}
	raw := measure.NewRaw("contestant", "round", "clients", "creates_per_s", "p50_ms", "p99_ms", "cpu_us_each")
	var levels []*level
	var half float64
	for _, clients := range s.clients {
		l, err := runLevel(s, refs, clients, raw)
		if err != nil {
			return fmt.Errorf("%d clients: %w", clients, err)
		}
		levels = append(levels, l)
		half = max(half, measure.Median(l.half))
		l.print()
	}
	if err := raw.Write("create"); err != nil {
		return err
	}
	report(levels, half)
	return nil
}

func runLevel(s settings, refs string, clients int, raw *measure.Raw) (*level, error) {
	dir, remove, err := measure.Scratch()
	if err != nil {
		return nil, err
	}
	defer remove()
	a := &arena{dir: dir, all: map[string]contestant{}}
	defer a.stop()
	if err := a.start(s, refs); err != nil {
		return nil, err
	}
	l := &level{clients: clients, rates: map[string][]float64{}, p99: map[string][]float64{}, cpu: map[string][]float64{}, syncs: map[string]float64{}}
	for round := range s.rounds + 1 {
		for _, name := range names {
			if !s.has(name) {
				continue
			}
			if err := a.round(l, name, round, s.length, raw); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return l, a.halfLoad(s, l, raw)
}

// round is one run of one contestant; round 0 warms it up.
func (a *arena) round(l *level, name string, round int, length time.Duration, raw *measure.Raw) error {
	prefix := fmt.Sprintf("p%d-%d", l.clients, round)
	if name == "pebble" {
		rate, err := a.pebble(l.clients, prefix, length)
		if err == nil && round > 0 {
			l.rates[name] = append(l.rates[name], rate)
			raw.Add(name, round, float64(l.clients), rate, 0, 0, 0)
		}
		return err
	}
	c := a.all[name]
	before, err := c.syncs()
	if err != nil {
		return err
	}
	r, err := load.Closed(c, load.Load{Clients: l.clients, Prefix: c.prefix + prefix, Length: length, CPU: c.cpu})
	if err != nil {
		return err
	}
	after, err := c.syncs()
	if err != nil || round == 0 {
		return err
	}
	made := float64(len(r.Latency) + l.clients)
	raw.Add(name, round, float64(l.clients), r.PerSecond, r.P50(), r.P99(), r.Each())
	l.cpu[name] = append(l.cpu[name], r.Each())
	l.rates[name] = append(l.rates[name], r.PerSecond)
	l.p99[name] = append(l.p99[name], r.P99())
	if after > before {
		l.syncs[name] = (after - before) / made
	}
	return nil
}

func (l *level) print() {
	fmt.Printf("  %3d clients:", l.clients)
	for _, name := range names {
		if len(l.rates[name]) == 0 {
			continue
		}
		fmt.Printf("  %s %.0f/s", name, measure.Median(l.rates[name]))
		if len(l.p99[name]) > 0 {
			fmt.Printf(" (p99 %.1f ms, %.0f µs of CPU", measure.Median(l.p99[name]), measure.Median(l.cpu[name]))
			if n, ok := l.syncs[name]; ok {
				fmt.Printf(", %.2f syncs each", n)
			}
			fmt.Print(")")
		}
	}
	fmt.Println()
}

// A rival is what a contestant is compared with.
type rival struct {
	name, is string
	target   float64 // 0: none
}

// report says how far each target is. Of two references the harder one counts.
func report(levels []*level, half float64) {
	targets := map[int]float64{1: 4, 16: 7, 64: 6}
	var claims []measure.Claim
	for _, l := range levels {
		compare := func(ours string, others ...rival) {
			hard := -1
			for i, r := range others {
				ratios := measure.Ratios(l.rates[ours], l.rates[r.name])
				if len(ratios) == 0 {
					continue
				}
				fmt.Printf("  %d clients, %s: ratio to %s: %s", l.clients, ours, r.is, measure.Spread(ratios))
				// A machine that others use too disturbs this less than creates a second.
				if a, b := measure.Median(l.cpu[ours]), measure.Median(l.cpu[r.name]); a > 0 && b > 0 {
					fmt.Printf("; processor time of a create %.1fx", b/a)
				}
				fmt.Println()
				if hard < 0 || measure.Median(l.rates[r.name]) > measure.Median(l.rates[others[hard].name]) {
					hard = i
				}
			}
			if hard >= 0 && others[hard].target > 0 {
				claims = append(claims, measure.Claim{Figure: measure.Median(l.rates[ours]), Unit: fmt.Sprintf("creates/s at %d clients (%s)", l.clients, ours),
					Ratio: measure.Median(measure.Ratios(l.rates[ours], l.rates[others[hard].name])), Reference: others[hard].is, Target: others[hard].target})
			}
		}
		target := targets[l.clients]
		const typed, crd = "typed Pods on Kubernetes' generic registry and etcd", "custom resources on Kubernetes' API machinery and etcd"
		compare("proa", rival{"typed", typed, target}, rival{"crd", crd, target})
		compare("proa-pb", rival{"typed-pb", typed, target})
		compare("proa", rival{"etcd", "raw etcd puts", 0.7})
		compare("proa", rival{"server", "a bare Go server on Pebble", 0})
		compare("proa", rival{"pebble", "bare Pebble puts", 0})
	}
	if half > 0 {
		claims = append(claims, measure.Claim{Figure: half, Unit: "ms p99 at half load", Target: 10, In: "ms", Less: true})
	}
	measure.Report("create", claims)
}

// halfLoad measures proa's latency at half of what it can do with 16 clients.
func (a *arena) halfLoad(s settings, l *level, raw *measure.Raw) error {
	if l.clients != 16 || len(l.rates["proa"]) == 0 {
		return nil
	}
	rate := measure.Median(l.rates["proa"]) / 2
	for round := range s.rounds {
		c := a.all["proa"]
		r, err := load.Open(c, load.Load{Clients: 64, Prefix: fmt.Sprintf("half-%d", round), Length: s.length, CPU: c.cpu}, rate)
		if err != nil {
			return err
		}
		l.half = append(l.half, r.P99())
		raw.Add("proa-half-load", round, 64, r.PerSecond, r.P50(), r.P99(), 0)
	}
	fmt.Printf("  proa at half load, %.0f creates/s at even intervals: p99 %s ms\n", rate, measure.Spread(l.half))
	return nil
}

// pebble runs bare puts on the servers' core and returns how many a second.
func (a *arena) pebble(clients int, prefix string, length time.Duration) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	log := filepath.Join(a.dir, "pebble-"+prefix)
	p, err := measure.Start(serverCore, log, self, "bare-puts", "-dir", log+".db", "-clients", strconv.Itoa(clients), "-length", length.String())
	if err != nil {
		return 0, err
	}
	<-p.Ended()
	b, err := os.ReadFile(log)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	return n, errors.Join(err, os.RemoveAll(log+".db"))
}
