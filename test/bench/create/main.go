// Command create measures durable creates of a Pod of 2.3 KB at 1, 16, 64 and
// 256 clients, each with a connection of its own, over TLS and HTTP/2. In turns
// with proa, on the same core: custom resources of the same bytes on Kubernetes'
// API machinery and etcd, raw puts into etcd, a bare Go server on Pebble, and
// bare Pebble puts. The load comes from another core.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"proa/test/bench/measure"
)

// Cores of the servers and of the load.
const serverCore, loadCore = 0, 1

type settings struct {
	rounds  int
	length  time.Duration
	clients []int
	only    string // a contestant, for a profile
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
	flag.StringVar(&s.only, "only", "", "measure only this contestant: proa, crd, etcd, server or pebble")
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

// A level is all that was measured at one number of clients.
type level struct {
	clients int
	rates   map[string][]float64
	p99     map[string][]float64 // ms
	cpu     map[string][]float64 // µs of the servers' processor time per create
	syncs   map[string]float64   // per create
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
		if h := l.p99["proa at half load"]; len(h) > 0 {
			half = max(half, measure.Median(h))
		}
		l.print()
	}
	if err := raw.Write("create"); err != nil {
		return err
	}
	report(levels, half)
	return nil
}

// contestants in the order of a round.
var names = []string{"proa", "crd", "etcd", "server", "pebble"}

func runLevel(s settings, refs string, clients int, raw *measure.Raw) (*level, error) {
	dir, remove, err := measure.Scratch()
	if err != nil {
		return nil, err
	}
	defer remove()
	a, err := startAll(s, refs, dir)
	defer a.stop()
	if err != nil {
		return nil, err
	}
	l := &level{clients, map[string][]float64{}, map[string][]float64{}, map[string][]float64{}, map[string]float64{}}
	for round := range s.rounds + 1 {
		for _, name := range names {
			if s.only != "" && s.only != name {
				continue
			}
			before, err := a.syncs(name)
			if err != nil {
				return nil, err
			}
			cpu := a.cpu(name)
			r, err := a.one(name, clients, fmt.Sprintf("p%d-%d", clients, round), s.length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			after, err := a.syncs(name)
			if err != nil {
				return nil, err
			}
			if round == 0 {
				continue
			}
			p99 := measure.Millis(measure.Quantile(r.latency, 0.99))
			each := 0.0
			if used := a.cpu(name) - cpu; used > 0 {
				each = float64(used.Microseconds()) / float64(len(r.latency)+clients)
				l.cpu[name] = append(l.cpu[name], each)
			}
			raw.Add(name, round, float64(clients), r.perSecond, measure.Millis(measure.Median(r.latency)), p99, each)
			l.rates[name] = append(l.rates[name], r.perSecond)
			l.p99[name] = append(l.p99[name], p99)
			if after > before {
				l.syncs[name] = (after - before) / float64(len(r.latency)+clients)
			}
		}
	}
	return l, a.halfLoad(s, l, raw)
}

func (l *level) print() {
	fmt.Printf("  %3d clients:", l.clients)
	for _, name := range names {
		if len(l.rates[name]) == 0 {
			continue
		}
		fmt.Printf("  %s %.0f/s", name, measure.Median(l.rates[name]))
		if len(l.p99[name]) > 0 && measure.Median(l.p99[name]) > 0 {
			fmt.Printf(" (p99 %.1f ms", measure.Median(l.p99[name]))
			if used := l.cpu[name]; len(used) > 0 {
				fmt.Printf(", %.0f µs of CPU", measure.Median(used))
			}
			if n, ok := l.syncs[name]; ok {
				fmt.Printf(", %.2f syncs each", n)
			}
			fmt.Print(")")
		}
	}
	fmt.Println()
}

// report says how far each target is.
func report(levels []*level, half float64) {
	targets := map[int]float64{1: 4, 16: 7, 64: 6}
	var claims []measure.Claim
	for _, l := range levels {
		ours := l.rates["proa"]
		if len(ours) == 0 {
			continue
		}
		claim := func(name, reference string, target float64) {
			ratios := measure.Ratios(ours, l.rates[name])
			if len(ratios) == 0 {
				return
			}
			fmt.Printf("  %d clients, ratio to %s: %s\n", l.clients, reference, measure.Spread(ratios))
			if target > 0 {
				claims = append(claims, measure.Claim{Figure: measure.Median(ours), Unit: fmt.Sprintf("creates/s at %d clients", l.clients),
					Ratio: measure.Median(ratios), Reference: reference, Target: target})
			}
		}
		if theirs := l.cpu["crd"]; len(theirs) > 0 && len(l.cpu["proa"]) > 0 {
			// A machine that others use too disturbs this less than creates a second.
			fmt.Printf("  %d clients, processor time of a create: a CRD server on etcd takes %.1fx\n", l.clients, measure.Median(theirs)/measure.Median(l.cpu["proa"]))
		}
		claim("crd", "a CRD server on etcd", targets[l.clients])
		claim("etcd", "raw etcd puts", 0.7)
		claim("server", "a bare Go server on Pebble", 0)
		claim("pebble", "bare Pebble puts", 0)
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
		r, err := open(a.proa, 64, fmt.Sprintf("half-%d", round), s.length, rate)
		if err != nil {
			return err
		}
		p99 := measure.Millis(measure.Quantile(r.latency, 0.99))
		l.p99["proa at half load"] = append(l.p99["proa at half load"], p99)
		raw.Add("proa-half-load", round, 64, r.perSecond, measure.Millis(measure.Median(r.latency)), p99, 0)
	}
	fmt.Printf("  proa at half load, %.0f creates/s at even intervals: p99 %s ms\n", rate, measure.Spread(l.p99["proa at half load"]))
	return nil
}

// An arena is the contestants, running.
type arena struct {
	dir     string
	proa    poster
	server  poster
	crd     poster
	etcd    putter
	metrics string // etcd's
	servers map[string][]*measure.Process
	stops   []func()
}

func (a *arena) stop() {
	for i := len(a.stops) - 1; i >= 0; i-- {
		a.stops[i]()
	}
}

func startAll(s settings, refs, dir string) (*arena, error) {
	a := &arena{dir: dir, servers: map[string][]*measure.Process{}}
	id, err := measure.NewIdentity(dir)
	if err != nil {
		return a, err
	}
	if err := a.startProa(); err != nil {
		return a, err
	}
	p, t, err := startBare(serverCore, dir, id)
	if err != nil {
		return a, err
	}
	a.stops, a.servers["server"] = append(a.stops, p.Stop), []*measure.Process{p}
	a.server = poster{t, "/api/v1/namespaces/default/pods", podBody("bench")}
	if s.only == "proa" {
		return a, nil
	}
	e, err := measure.StartEtcd(serverCore, refs, dir, id)
	if err != nil {
		return a, err
	}
	a.stops, a.metrics, a.servers["etcd"] = append(a.stops, e.Stop), e.Metrics, []*measure.Process{e.Process}
	config, err := id.TLS()
	if err != nil {
		return a, err
	}
	a.etcd = putter{e.Secure, config, podBody("bench")}
	return a, a.startCRD(refs, id, e)
}

// startProa starts a control plane with one pretend node; the pods of the bench
// ask for another scheduler, so they stay where they are.
func (a *arena) startProa() error {
	proa, err := measure.Proa()
	if err != nil {
		return err
	}
	port, err := measure.FreePort()
	if err != nil {
		return err
	}
	root := filepath.Join(a.dir, "proa")
	p, err := measure.Start(serverCore, root+".log", proa, "up", "--pretend", "--root", root, "--ports", strconv.Itoa(port), "--bind", "127.0.0.1", "--log-level", "warn")
	if err != nil {
		return err
	}
	a.stops, a.servers["proa"] = append(a.stops, p.Stop), []*measure.Process{p}
	path := "/api/v1/namespaces/default/pods"
	return p.Await("proa", 10*time.Millisecond, func(ctx context.Context) error {
		t, err := measure.TargetOf(filepath.Join(root, "etc", "kubeconfig"))
		if err != nil {
			return err
		}
		// The namespace's account is there when the controllers run.
		if _, err := t.Get(ctx, t.Client(), "/api/v1/namespaces/default/serviceaccounts/default"); err != nil {
			return err
		}
		a.proa = poster{t, path, podBody("bench")}
		return nil
	})
}

const crdPath = "/apis/bench.proa.local/v1/namespaces/default/pods"

func (a *arena) startCRD(refs string, id *measure.Identity, e *measure.Etcd) error {
	c, err := measure.StartCRD(serverCore, refs, a.dir, id, e)
	if err != nil {
		return err
	}
	a.stops, a.servers["crd"] = append(a.stops, c.Stop), []*measure.Process{c.Process, e.Process}
	a.crd = poster{c.Target, crdPath, strings.Replace(podBody("bench"), `"apiVersion":"v1"`, `"apiVersion":"bench.proa.local/v1"`, 1)}
	client := c.Client()
	_, err = c.Do(context.Background(), client, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crdManifest)
	if err != nil {
		return err
	}
	return c.Await("the custom resource", 20*time.Millisecond, func(ctx context.Context) error {
		_, err := c.Get(ctx, client, crdPath)
		return err
	})
}

// one is one run of one contestant.
func (a *arena) one(name string, clients int, prefix string, length time.Duration) (result, error) {
	switch name {
	case "proa":
		return closed(a.proa, clients, prefix, length)
	case "crd":
		return closed(a.crd, clients, prefix, length)
	case "etcd":
		return closed(a.etcd, clients, prefix, length)
	case "server":
		return closed(a.server, clients, prefix, length)
	}
	return a.pebble(clients, prefix, length)
}

// pebble runs bare puts on the servers' core.
func (a *arena) pebble(clients int, prefix string, length time.Duration) (result, error) {
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	log := filepath.Join(a.dir, "pebble-"+prefix)
	p, err := measure.Start(serverCore, log, self, "bare-puts", "-dir", log+".db", "-clients", strconv.Itoa(clients), "-length", length.String())
	if err != nil {
		return result{}, err
	}
	<-p.Ended()
	b, err := os.ReadFile(log)
	if err != nil {
		return result{}, err
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	return result{perSecond: n}, errors.Join(err, os.RemoveAll(log+".db"))
}

// cpu is the processor time that a contestant's servers have used.
func (a *arena) cpu(name string) (sum time.Duration) {
	for _, p := range a.servers[name] {
		used, err := measure.CPU(p.PID())
		if err != nil {
			return 0 // it has ended: the next request will say so
		}
		sum += used
	}
	return sum
}

// syncs is how often a contestant's store has synced, as it says itself; 0 if
// it does not say.
func (a *arena) syncs(name string) (float64, error) {
	ctx := context.Background()
	switch name {
	case "proa":
		b, err := a.proa.Get(ctx, a.proa.Client(), "/metrics")
		return measure.Metric(b, "proa_store_syncs_total"), err
	case "etcd", "crd":
		b, err := measure.Plain(ctx, a.metrics+"/metrics")
		return measure.Metric(b, "etcd_disk_wal_fsync_duration_seconds_count"), err
	}
	return 0, nil
}
