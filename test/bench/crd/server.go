package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"proa/test/bench/measure"
)

const (
	kb = 1 << 10
	mb = 1e6
	// trial is the number of the first definition that is made to measure it.
	trial = 100_000
	// patience is how long a try may take, and filling a server.
	patience, fillTime = time.Minute, 15 * time.Minute
)

// A server is one contestant's, with a number of definitions.
type server struct {
	measure.Target
	client  *http.Client
	process *measure.Process   // the one that serves
	all     []*measure.Process // and its store
	filled  time.Duration
	rest    time.Duration // how long it is left alone before its memory is looked at
	// describes: the server publishes schemas; the reference as a program of its own does not.
	describes bool
}

// An arena is one contestant: a server with few definitions, and one with many.
type arena struct {
	results
	small, big *server
	stops      []func()
}

func (a *arena) stop() {
	for i := len(a.stops) - 1; i >= 0; i-- {
		a.stops[i]()
	}
}

// newArena starts a contestant's servers and fills them.
func newArena(name, refs, dir string, s settings, raw *measure.Raw) (*arena, error) {
	a := &arena{results: results{settings: s}}
	start := a.startProa
	if name == "crd" {
		start = func(dir string) (*server, error) { return a.startCRD(refs, dir) }
	}
	var err error
	if a.small, err = start(filepath.Join(dir, name+"-s")); err != nil {
		return a, err
	}
	if a.big, err = start(filepath.Join(dir, name+"-b")); err != nil {
		return a, err
	}
	a.big.rest = s.rest
	ctx, cancel := context.WithTimeout(context.Background(), fillTime)
	defer cancel()
	if err := a.small.fill(ctx, 0, s.few); err != nil {
		return a, err
	}
	if err := a.big.fill(ctx, 0, s.few); err != nil {
		return a, err
	}
	if a.empty, err = a.big.memory(ctx); err != nil {
		return a, err
	}
	began := time.Now()
	if err := a.big.fill(ctx, s.few, s.many); err != nil {
		return a, err
	}
	a.big.filled = time.Since(began)
	if a.full, err = a.big.memory(ctx); err != nil {
		return a, err
	}
	raw.Add(name, 0, float64(s.few), 0, 0, 0, a.empty.heap/mb, a.empty.pss/mb)
	raw.Add(name, 0, float64(s.many), 0, 0, 0, a.full.heap/mb, a.full.pss/mb)
	return a, nil
}

func (a *arena) startProa(root string) (*server, error) {
	proa, err := measure.Proa()
	if err != nil {
		return nil, err
	}
	port, err := measure.FreePort()
	if err != nil {
		return nil, err
	}
	p, err := measure.Start(serverCore, root+".log", proa, "up", "--pretend", "--root", root, "--ports", strconv.Itoa(port), "--bind", "127.0.0.1", "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	a.stops = append(a.stops, p.Stop)
	s := &server{process: p, all: []*measure.Process{p}, describes: true}
	err = p.Await("proa", 10*time.Millisecond, func(ctx context.Context) error {
		if s.Target, err = measure.TargetOf(filepath.Join(root, "etc", "kubeconfig")); err != nil {
			return err
		}
		s.client = s.Target.Client()
		_, err := s.Get(ctx, s.client, "/api/v1/namespaces/default/serviceaccounts/default")
		return err
	})
	return s, err
}

func (a *arena) startCRD(refs, dir string) (*server, error) {
	id, err := measure.NewIdentity(dir)
	if err != nil {
		return nil, err
	}
	e, err := measure.StartEtcd(serverCore, refs, dir, id)
	if err != nil {
		return nil, err
	}
	a.stops = append(a.stops, e.Stop)
	c, err := measure.StartCRD(serverCore, refs, dir, id, e)
	if err != nil {
		return nil, err
	}
	a.stops = append(a.stops, c.Stop)
	return &server{Target: c.Target, client: c.Client(), process: c.Process, all: []*measure.Process{c.Process, e.Process}}, nil
}

// fill creates definitions from 16 clients, and waits until each is established.
func (s *server) fill(ctx context.Context, from, to int) error {
	next, errs := make(chan int), make(chan error, 16)
	var wg sync.WaitGroup
	for range cap(errs) {
		wg.Go(func() {
			c := s.Target.Client()
			defer c.CloseIdleConnections()
			var err error
			for n := range next {
				if err == nil { // else the rest is only taken
					err = s.establish(ctx, c, n)
				}
			}
			errs <- err
		})
	}
	for n := from; n < to; n++ {
		next <- n
	}
	close(next)
	wg.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

func (s *server) establish(ctx context.Context, c *http.Client, n int) error {
	if _, err := s.Do(ctx, c, http.MethodPost, definitions, small(n)); err != nil {
		return err
	}
	return until(ctx, 50*time.Millisecond, func() error {
		b, err := s.Get(ctx, c, definitions+"/"+definitionName(n))
		if err != nil {
			return err
		}
		var crd struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
		if err := json.Unmarshal(b, &crd); err != nil {
			return err
		}
		for _, x := range crd.Status.Conditions {
			if x.Type == "Established" && x.Status == "True" {
				return nil
			}
		}
		return fmt.Errorf("%s is not established: %v", definitionName(n), crd.Status)
	})
}

// until asks every so often, and gives up with the context.
func until(ctx context.Context, every time.Duration, try func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// times are milliseconds since the create of a definition was sent.
type times struct{ listed, created, described float64 }

// try makes one more definition, uses it, and takes it away again.
func (s *server) try(ctx context.Context, n int, body func(int) string) (t times, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	text := body(n)
	const every = 2 * time.Millisecond
	began := time.Now()
	since := func() float64 { return measure.Millis(time.Since(began)) }
	if _, err = s.Do(ctx, s.client, http.MethodPost, definitions, text); err != nil {
		return t, err
	}
	err = until(ctx, every, func() error {
		_, err := s.Get(ctx, s.client, objects(n))
		return err
	})
	if err != nil {
		return t, err
	}
	t.listed = since()
	err = until(ctx, every, func() error {
		_, err := s.Do(ctx, s.client, http.MethodPost, objects(n), object(n))
		return err
	})
	if err != nil {
		return t, err
	}
	t.created = since()
	if !s.describes {
		return t, s.remove(ctx, n)
	}
	err = until(ctx, 5*time.Millisecond, func() error {
		b, err := s.Get(ctx, s.client, "/openapi/v3/apis/"+group(n)+"/v1")
		if err == nil && !bytes.Contains(b, []byte(plural(n))) {
			err = errors.New("not described")
		}
		return err
	})
	if err != nil {
		return t, err
	}
	t.described = since()
	return t, s.remove(ctx, n)
}

// remove takes a definition away, with what there is of it.
func (s *server) remove(ctx context.Context, n int) error {
	if _, err := s.Do(ctx, s.client, http.MethodDelete, definitions+"/"+definitionName(n), ""); err != nil {
		return err
	}
	return until(ctx, 20*time.Millisecond, func() error {
		_, err := s.Get(ctx, s.client, definitions+"/"+definitionName(n))
		if err != nil && strings.Contains(err.Error(), "404") {
			return nil
		}
		return fmt.Errorf("%s is still there: %w", definitionName(n), err)
	})
}

// use lists and creates objects of the first definitions.
func (s *server) use(ctx context.Context, count int) (memory, error) {
	ctx, cancel := context.WithTimeout(ctx, patience+s.rest)
	defer cancel()
	for n := range count {
		err := until(ctx, 2*time.Millisecond, func() error { // a storage may ask to come again
			_, err := s.Get(ctx, s.client, objects(n))
			return err
		})
		if err != nil {
			return memory{}, err
		}
		if _, err := s.Do(ctx, s.client, http.MethodPost, objects(n), object(n)); err != nil {
			return memory{}, err
		}
	}
	return s.memory(ctx)
}

// memory is what a server takes, in bytes: the heap of the process that serves,
// after a collection, and the PSS of all of its processes.
type memory struct{ heap, pss float64 }

// memory leaves a server alone for a time, so that what is kept for a while only
// is gone, and then looks.
func (s *server) memory(ctx context.Context) (m memory, err error) {
	select {
	case <-time.After(s.rest):
	case <-ctx.Done():
		return m, ctx.Err()
	}
	if m.heap, err = s.heap(ctx); err != nil {
		return m, err
	}
	for _, p := range s.all {
		pss, err := measure.PSS(p.PID())
		if err != nil {
			return m, err
		}
		m.pss += float64(pss)
	}
	return m, nil
}

// heap is the live heap, after a collection.
func (s *server) heap(ctx context.Context) (float64, error) {
	b, err := s.Get(ctx, s.client, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return 0, err
	}
	_, text, _ := strings.Cut(string(b), "# HeapAlloc = ")
	text, _, _ = strings.Cut(text, "\n")
	live, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		return 0, fmt.Errorf("the profile of the heap tells no size: %w", err)
	}
	return live, nil
}
