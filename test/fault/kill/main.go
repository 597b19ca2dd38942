// Command kill ends a server with kill -9 again and again while many writers
// create, change and delete objects through its API over TLS, starts it again at
// once as a supervisor does, and checks that nothing that was acknowledged is
// lost: each writer knows what its objects must be, and a watch that goes on
// over every kill must show every acknowledged write once and in order.
//
// Settings are flags, or environment variables under the same names: SECONDS,
// WRITERS, SEED, ONLY. Beside proa it does the same to Kubernetes' server of
// custom resources on etcd, both killed, for comparison; ONLY=proa leaves that out.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"proa/test/bench/measure"
)

type settings struct {
	length  time.Duration // of the run of each contestant
	writers int
	seed    uint64
	only    string // proa or crd; both if empty
}

func main() {
	s, err := configure()
	if err == nil {
		err = compare(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kill:", err)
		os.Exit(1)
	}
}

// configure reads the settings.
func configure() (s settings, err error) {
	number := func(name string, otherwise uint64) uint64 {
		v := os.Getenv(name)
		if v == "" {
			return otherwise
		}
		n, e := strconv.ParseUint(v, 10, 64)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s=%s is no number", name, v))
		}
		return n
	}
	seconds := flag.Uint64("seconds", number("SECONDS", 60), "length of the run of each contestant")
	flag.IntVar(&s.writers, "writers", int(number("WRITERS", 64)), "writers, each with a connection of its own")
	flag.Uint64Var(&s.seed, "seed", number("SEED", 0), "seed of the random numbers; 0: from the time")
	flag.StringVar(&s.only, "only", os.Getenv("ONLY"), "only this contestant: proa or crd")
	flag.Parse()
	s.length = time.Duration(*seconds) * time.Second
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano())
	}
	return s, err
}

func compare(s settings) error {
	dir, remove, err := measure.Scratch()
	if err != nil {
		return err
	}
	defer remove()
	fmt.Printf("kill: seed %d\n", s.seed)
	if s.only != "proa" {
		refs, err := measure.BuildReferences()
		if err != nil {
			return err
		}
		c, err := measure.NewCRDPair(measure.AnyCore, refs, filepath.Join(dir, "r"))
		if err != nil {
			return err
		}
		r, err := run(s, c)
		fmt.Printf("kill: a CRD server and etcd: %v\n", r)
		if err != nil {
			fmt.Printf("kill: a CRD server and etcd: %v\n", err) // not ours to mend
		}
	}
	if s.only == "crd" {
		return nil
	}
	program, err := measure.Proa()
	if err != nil {
		return err
	}
	p, err := measure.NewPretendCluster(measure.AnyCore, program, filepath.Join(dir, "p"))
	if err != nil {
		return err
	}
	r, err := run(s, p)
	fmt.Printf("kill: proa: %v\n", r)
	return err
}

// A report is what a run has seen.
type report struct {
	kills, early  int // early: before the server had come back from the kill before
	acknowledged  int
	unknown       int // writes that were under way at a kill
	kept          int // of those: found to have been made
	events        int // that the watch has shown
	gone          int // times the watch was told to list anew
	startFailures int
	violations    []string
	back          []float64 // seconds from a kill to the first write acknowledged after it
}

func (r *report) String() string {
	return fmt.Sprintf("%d kills (%d of them while it came back), %d acknowledged writes, %d under way at a kill (%d of them made), "+
		"lost or wrong %d; %d events watched, %d times told to list anew; first write after a kill p50 %.3f s, p99 %.3f s, at most %.3f s; start failures %d",
		r.kills, r.early, r.acknowledged, r.unknown, r.kept, len(r.violations), r.events, r.gone,
		measure.Median(r.back), measure.Quantile(r.back, 0.99), measure.Quantile(r.back, 1), r.startFailures)
}

// err is what a run that has gone wrong returns; it names the first violations.
func (r *report) err() error {
	var errs []error
	for _, v := range r.violations[:min(len(r.violations), 10)] {
		errs = append(errs, errors.New(v))
	}
	if r.startFailures > 0 {
		errs = append(errs, fmt.Errorf("%d starts have failed", r.startFailures))
	}
	return errors.Join(errs...)
}

// run drives one contestant.
func run(s settings, c measure.Killable) (*report, error) {
	random := rand.New(rand.NewPCG(s.seed, 1))
	if err := c.Launch(); err != nil {
		return &report{}, err
	}
	defer func() { c.Stop() }()
	if err := c.Ready(); err != nil {
		return &report{}, err
	}
	t := newTrial(s, c)
	t.begin()
	end := time.Now().Add(s.length)
	var err error
	for err == nil && time.Now().Before(end) {
		time.Sleep(time.Duration(200+random.IntN(1800)) * time.Millisecond)
		err = t.killOnce(random)
	}
	return t.finish(cmp.Or(err, c.Failed()))
}
