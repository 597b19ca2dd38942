// Command get measures reads beside Kubernetes' own API machinery on etcd and
// beside nginx, which serves the same bytes as static files: GET of one Pod of
// 2.3 KB at 1 and 16 clients, LIST with limit=500, and LIST of the hundred pods of
// a label and of a field out of 150,000. The servers share one core, the load
// comes from another.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"proa/test/bench/load"
	"proa/test/bench/measure"
)

// Cores of the servers and of the load.
const serverCore, loadCore = 0, 1

// hot is how many objects GET reads in turns, and how many the server of custom
// resources has.
const hot = 1000

type settings struct {
	rounds  int
	length  time.Duration
	objects int
	only    string
}

func main() {
	var s settings
	flag.IntVar(&s.rounds, "rounds", 7, "rounds, each of one run of every contestant, after one to warm up")
	flag.DurationVar(&s.length, "length", time.Second, "length of a run")
	flag.IntVar(&s.objects, "objects", 150_000, "objects out of which some are selected")
	flag.StringVar(&s.only, "only", "", "measure only this contestant: proa, typed, crd or nginx")
	flag.Parse()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "bench-get:", err)
		os.Exit(1)
	}
}

func run(s settings) error {
	if s.objects < 2*hot {
		return fmt.Errorf("%d objects: take at least %d", s.objects, 2*hot)
	}
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
	a := &arena{s: s, dir: dir}
	defer a.stop()
	if err := a.start(refs); err != nil {
		return err
	}
	raw := measure.NewRaw("case", "round", "clients", "requests_per_s", "p50_ms", "p99_ms", "cpu_us_each")
	cases := a.cases()
	for i := range cases {
		if err := cases[i].run(s, raw); err != nil {
			return fmt.Errorf("%s: %w", cases[i].what, err)
		}
		cases[i].print()
	}
	if err := raw.Write("get"); err != nil {
		return err
	}
	var claims []measure.Claim
	for i := range cases {
		claims = append(claims, cases[i].claims()...)
	}
	measure.Report("get", claims)
	return nil
}

// An arena is the contestants, running.
type arena struct {
	s     settings
	dir   string
	pods  []*measure.Pods // proa first
	nginx *measure.Nginx  // nil: there is none
}

func (a *arena) stop() {
	for _, p := range a.pods {
		p.Stop()
	}
	if a.nginx != nil {
		a.nginx.Stop()
	}
}

func (a *arena) start(refs string) error {
	id, err := measure.NewIdentity(a.dir)
	if err != nil {
		return err
	}
	for _, x := range []struct {
		name    string
		objects int
		start   func() (*measure.Pods, error)
	}{
		{"proa", a.s.objects, func() (*measure.Pods, error) { return measure.StartProa(serverCore, a.dir) }},
		{"typed", a.s.objects, func() (*measure.Pods, error) { return measure.StartTyped(serverCore, refs, a.dir, id) }},
		{"crd", hot, func() (*measure.Pods, error) { return measure.StartCRDPods(serverCore, refs, a.dir, id) }},
	} {
		if a.s.only != "" && a.s.only != x.name && !(x.name == "proa" && a.s.only == "nginx") {
			continue
		}
		p, err := x.start()
		if err != nil {
			return err
		}
		a.pods = append(a.pods, p)
		began := time.Now()
		if err := load.Seed(p, 0, x.objects); err != nil {
			return err
		}
		fmt.Printf("  %s has %d objects after %.0f s\n", p.Name, x.objects, time.Since(began).Seconds())
	}
	if a.pods[0].Name != "proa" {
		return nil
	}
	return a.startNginx(refs, id)
}

// startNginx lets nginx serve what proa answers.
func (a *arena) startNginx(refs string, id *measure.Identity) (err error) {
	files := map[string]string{"ready": "/version", "list": a.pods[0].Path + "?limit=500"}
	for n := range hot {
		files[load.Seeded(n)] = load.Path(a.pods[0], n)
	}
	a.nginx, err = load.StartNginx(serverCore, refs, a.dir, id, a.pods[0].Target, files)
	return err
}

// cases are all that is measured.
func (a *arena) cases() []testCase {
	shard := a.s.objects / 200 // in the middle
	var out []testCase
	add := func(c testCase, path func(p *measure.Pods, n int) string, many int, file func(n int) string) {
		for _, p := range a.pods {
			if c.accept == load.Accepts["protobuf"] && p.Protobuf == "" || c.selects && p.Name == "crd" {
				continue
			}
			c.add(p.Name, p.Is, p.Target, p.CPU, many, func(n int) string { return path(p, n) })
		}
		if a.nginx != nil && file != nil {
			n := measure.Pods{Processes: []*measure.Process{a.nginx.Process}}
			c.add("nginx", "nginx", a.nginx.Target, n.CPU, many, file)
		}
		out = append(out, c)
	}
	json, protobuf := load.Accepts["json"], load.Accepts["protobuf"]
	static := func(n int) string { return "/" + load.Seeded(n) }
	add(testCase{what: "GET, JSON", unit: "GET/s", clients: 1, accept: json}, load.Path, hot, static)
	add(testCase{what: "GET, JSON", unit: "GET/s", clients: 16, accept: json, times: 15, nginx: 0.5}, load.Path, hot, static)
	add(testCase{what: "GET, protobuf", unit: "GET/s", clients: 16, accept: protobuf, times: 15}, load.Path, hot, nil)
	limit := func(p *measure.Pods, _ int) string { return p.Path + "?limit=500" }
	add(testCase{what: "LIST limit=500, JSON", unit: "LIST/s", clients: 1, accept: json}, limit, 1, func(int) string { return "/list" })
	add(testCase{what: "LIST limit=500, protobuf", unit: "LIST/s", clients: 1, accept: protobuf}, limit, 1, nil)
	value := measure.Shard(shard)
	add(testCase{what: fmt.Sprintf("LIST by label, 100 of %d", a.s.objects), unit: "LIST/s", clients: 1, accept: json, selects: true, millis: 2},
		func(p *measure.Pods, _ int) string { return p.Path + "?labelSelector=shard%3D" + value }, 1, nil)
	add(testCase{what: fmt.Sprintf("LIST by field, 100 of %d", a.s.objects), unit: "LIST/s", clients: 1, accept: json, selects: true, millis: 2},
		func(p *measure.Pods, _ int) string { return p.Path + "?fieldSelector=spec.schedulerName%3D" + value }, 1, nil)
	return out
}

// A testCase is one kind of request to all who can answer it.
type testCase struct {
	what, unit, accept string
	clients            int
	selects            bool
	times              float64 // target of the ratio to the harder reference
	nginx              float64 // target of the ratio to nginx
	millis             float64 // target of the median latency
	of                 []*entry
}

// An entry is a contestant in a case.
type entry struct {
	name, is string
	ask      load.Asker
	cpu      func() time.Duration

	rates, p50, each []float64
}

func (c *testCase) add(name, is string, t measure.Target, cpu func() time.Duration, many int, path func(n int) string) {
	requests := make([]load.Request, many)
	for n := range requests {
		requests[n] = load.Request{Method: "GET", Path: path(n), Accept: c.accept}
	}
	next := func(name string) *load.Request {
		h := uint32(2166136261) // FNV-1a, so that every contestant reads the same objects
		for i := range len(name) {
			h = (h ^ uint32(name[i])) * 16777619
		}
		return &requests[int(h)%many]
	}
	c.of = append(c.of, &entry{name: name, is: is, ask: load.Asker{Target: t, Next: next}, cpu: cpu})
}

func (c *testCase) run(s settings, raw *measure.Raw) error {
	for round := range s.rounds + 1 {
		for _, e := range c.of {
			r, err := load.Closed(e.ask, load.Load{Clients: c.clients, Prefix: fmt.Sprint("r", round), Length: s.length, CPU: e.cpu})
			if err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			if round == 0 {
				continue
			}
			raw.Add(strings.ReplaceAll(c.what+", "+e.name, ", ", ";"), round, float64(c.clients), r.PerSecond, r.P50(), r.P99(), r.Each())
			e.rates, e.p50, e.each = append(e.rates, r.PerSecond), append(e.p50, r.P50()), append(e.each, r.Each())
		}
	}
	return nil
}

func (c *testCase) print() {
	fmt.Printf("  %s, %d clients:", c.what, c.clients)
	for _, e := range c.of {
		fmt.Printf("  %s %.0f/s (p50 %.2f ms, %.0f µs of CPU)", e.name, measure.Median(e.rates), measure.Median(e.p50), measure.Median(e.each))
	}
	fmt.Println()
}

// claims compares proa with the others. Of two references the harder one counts.
func (c *testCase) claims() (out []measure.Claim) {
	ours := c.of[0]
	if ours.name != "proa" {
		return nil
	}
	claim := measure.Claim{Figure: measure.Median(ours.rates), Unit: fmt.Sprintf("%s at %d clients (%s)", c.unit, c.clients, c.what)}
	var hard *entry
	for _, e := range c.of[1:] {
		ratios := measure.Ratios(ours.rates, e.rates)
		fmt.Printf("  %s, %d clients: ratio to %s: %s; processor time of one %.1fx\n", c.what, c.clients, e.is, measure.Spread(ratios),
			measure.Median(e.each)/measure.Median(ours.each))
		if e.name == "nginx" {
			if c.nginx > 0 {
				x := claim
				x.Ratio, x.Reference, x.Target = measure.Median(ratios), e.is, c.nginx
				out = append(out, x)
			}
		} else if hard == nil || measure.Median(e.rates) > measure.Median(hard.rates) {
			hard = e
		}
	}
	if c.times > 0 && hard != nil {
		x := claim
		x.Ratio, x.Reference, x.Target = measure.Median(measure.Ratios(ours.rates, hard.rates)), hard.is, c.times
		out = append(out, x)
	}
	if c.millis > 0 {
		x := measure.Claim{Figure: measure.Median(ours.p50), Unit: "ms p50 (" + c.what + ")", Target: c.millis, In: "ms", Less: true}
		if hard != nil {
			x.Ratio, x.Reference = measure.Median(measure.Ratios(ours.p50, hard.p50)), hard.is
		}
		out = append(out, x)
	}
	return out
}
