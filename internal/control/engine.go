package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/api/record"
)

// Config is what an engine needs from outside. The zero value of every field
// but Events is good.
type Config struct {
	Log     *slog.Logger
	Now     func() time.Time
	Workers int              // reconciles at once; 16 if 0
	Events  *record.Recorder // where controllers tell what happened; nowhere if nil

	Register prometheus.Registerer // takes the metrics of the queue; none are kept if nil
}

// Pauses after a failure: the first, and the most.
const (
	firstPause = 5 * time.Millisecond
	mostPause  = 5 * time.Minute
	writers    = 32 // writes at once in one Each
)

// An Engine runs a set of controllers against a server.
type Engine struct {
	server  api.Handler
	cfg     Config
	q       *queue
	sources map[*api.Resource]*source
	order   []*source
	cluster map[*task]*Cluster
	steps   bool // driven by Step: no goroutines
}

// New prepares an engine for [Engine.Step] or [Engine.Run].
func New(h api.Handler, rs []Runner, cfg Config) *Engine {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Workers == 0 {
		cfg.Workers = 16
	}
	m := newMetrics(cfg.Register, cfg.Now)
	e := &Engine{server: h, cfg: cfg, q: newQueue(cfg.Now), sources: map[*api.Resource]*source{}, cluster: map[*task]*Cluster{}}
	e.q.metrics = m
	for _, r := range rs {
		t := r.task()
		m.know(t)
		c := &Cluster{Log: cfg.Log.With("controller", t.name), Now: cfg.Now, Events: cfg.Events.From(t.name + "-controller"), engine: e, task: t}
		e.cluster[t] = c
		for _, s := range t.subs {
			src := e.sources[s.kind]
			if src == nil {
				src = newSource(s.kind)
				e.sources[s.kind] = src
				e.order = append(e.order, src)
			}
			src.subs = append(src.subs, subscriber{c, s.keys})
		}
	}
	return e
}

// Run runs the controllers until ctx is done.
func Run(ctx context.Context, h api.Handler, rs []Runner, cfg Config) error {
	return New(h, rs, cfg).Run(ctx)
}

func (e *Engine) source(r *api.Resource) *source {
	s := e.sources[r]
	if s == nil {
		panic(fmt.Sprintf("a controller reads %s without watching it", r.Resource))
	}
	return s
}

func (e *Engine) notify(s *source, changes []change) {
	for _, ch := range changes {
		for _, sub := range s.subs {
			for _, key := range sub.keys(sub.cluster, ch.old, ch.new) {
				e.q.add(job{sub.cluster.task, key})
			}
		}
	}
}

// Run watches and reconciles until ctx is done. No controller runs before every
// kind has been read once.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range e.order {
		wg.Go(func() { e.follow(ctx, s) })
	}
	for _, s := range e.order {
		select {
		case <-s.synced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range e.cfg.Workers {
		wg.Go(func() {
			for {
				j, ok := e.q.take()
				if !ok {
					return
				}
				e.do(ctx, j)
			}
		})
	}
	wg.Go(func() { e.clock(ctx) })
	<-ctx.Done()
	e.q.close()
	return ctx.Err()
}

func (e *Engine) follow(ctx context.Context, s *source) {
	failed := func(err error) { e.cfg.Log.Warn("watch broken", "kind", s.kind.Resource, "err", err) }
	for c := range s.client.Follow(ctx, e.server, "", api.Selectors{}, failed) {
		e.notify(s, s.saw(c))
	}
}

// clock puts jobs back when their time comes.
func (e *Engine) clock(ctx context.Context) {
	for {
		wait := time.Hour
		if next, ok := e.q.fire(); ok {
			wait = max(next.Sub(e.cfg.Now()), 0)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-e.q.timer:
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// Step does one thing, chosen by r, in the caller's goroutine: it brings what
// the engine knows of one kind up to date, or reconciles one key. It returns
// false when there is nothing left to do before [Engine.Next].
func (e *Engine) Step(ctx context.Context, r *rand.Rand) (bool, error) {
	e.steps = true
	for _, s := range e.order {
		if !s.started {
			changes, err := s.sync(ctx, e.server)
			if err != nil {
				return true, err
			}
			e.notify(s, changes)
		}
	}
	e.q.fire()
	if e.q.len() > 0 && r.IntN(4) > 0 {
		if j, ok := e.q.takeAny(r); ok {
			e.do(ctx, j)
			return true, nil
		}
	}
	if e.q.len() > 0 {
		return true, e.sync(ctx, e.order[r.IntN(len(e.order))])
	}
	for _, s := range e.order {
		if err := e.sync(ctx, s); err != nil {
			return true, err
		}
	}
	return e.q.len() > 0, nil
}

// Next is when the next timer goes off; false if there is none.
func (e *Engine) Next() (time.Time, bool) { return e.q.fire() }

func (e *Engine) sync(ctx context.Context, s *source) error {
	changes, err := s.sync(ctx, e.server)
	e.notify(s, changes)
	return err
}

// do reconciles one key and decides when to look at it again.
func (e *Engine) do(ctx context.Context, j job) {
	defer e.q.done(j)
	c := e.cluster[j.task]
	again, err := call(ctx, c, j)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		e.q.succeeded(j)
		if again > 0 {
			e.q.addAfter(j, again)
		}
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		if s := e.sources[j.task.main]; s != nil {
			e.check(ctx, s, j.key.Namespace, j.key.Name)
		}
		pause := e.q.failed(j, time.Millisecond, time.Second)
		c.Log.Debug("conflict", "namespace", j.key.Namespace, "name", j.key.Name, "pause", pause, "err", err)
	default:
		pause := e.q.failed(j, firstPause, mostPause)
		c.Log.Warn("reconcile failed", "namespace", j.key.Namespace, "name", j.key.Name, "pause", pause, "err", err)
	}
}

// clear reads again what the task writes if a write of it may or may not have happened.
func (e *Engine) clear(ctx context.Context, t *task) error {
	for _, r := range t.writes {
		if s := e.sources[r]; s != nil && s.doubt.CompareAndSwap(true, false) {
			if err := e.sync(ctx, s); err != nil {
				s.doubt.Store(true)
				return fmt.Errorf("find out what became of a write: %w", err)
			}
		}
	}
	return nil
}

func call(ctx context.Context, c *Cluster, j job) (again time.Duration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := c.engine.clear(ctx, j.task); err != nil {
		return 0, err
	}
	return j.task.reconcile(ctx, c, j.key)
}

// Handle passes the request to the server, and remembers what a write did.
func (c *Cluster) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	if r.Verb.Writes() && c.task.writes != nil && !slices.Contains(c.task.writes, r.Resource) {
		return nil, fmt.Errorf("controller %s does not declare that it writes %s", c.task.name, r.Resource.Resource)
	}
	resp, err := c.engine.server.Handle(ctx, r)
	if r.Verb.Writes() {
		c.engine.wrote(ctx, r, resp, err)
	}
	return resp, err
}

// wrote takes the outcome of an own write into what the engine knows.
func (e *Engine) wrote(ctx context.Context, r *api.Request, resp *api.Response, err error) {
	s := e.sources[r.Resource]
	switch {
	case s == nil:
	case apierrors.IsNotFound(err) && r.Verb != api.Create:
		e.check(ctx, s, r.Namespace, r.Name)
	case err != nil:
		if doubtful(err) {
			s.doubt.Store(true)
		}
	case r.Verb == api.DeleteCollection:
		if err := e.sync(ctx, s); err != nil {
			e.cfg.Log.Debug("refresh failed", "kind", r.Resource.Resource, "err", err)
		}
	case resp.Deleted || r.Verb == api.Delete && (resp.Result() == nil || resp.Result().GetDeletionTimestamp() == nil):
		e.check(ctx, s, r.Namespace, r.Name)
	default:
		if o := resp.Result(); o != nil && o.GetObjectKind().GroupVersionKind() == r.Resource.GVK() {
			e.notify(s, s.wrote(o))
		}
	}
}

// doubtful says whether a write that failed so may have happened all the same.
func doubtful(err error) bool {
	return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsInternalError(err) || apierrors.IsUnexpectedServerError(err)
}

// check asks the server for the state of one object.
func (e *Engine) check(ctx context.Context, s *source, ns, name string) {
	known, ok := s.get(ns, name)
	if !ok {
		return
	}
	o, err := s.client.Get(ctx, e.server, ns, name)
	switch {
	case err == nil && o.GetUID() == known.GetUID():
		e.notify(s, s.wrote(o))
	case err == nil || apierrors.IsNotFound(err):
		e.notify(s, s.deleted(ns, name, known.GetUID()))
	}
}

// Each calls f for 0 to n-1, several at once, and returns the errors joined.
// After an error no further call begins.
func (c *Cluster) Each(n int, f func(i int) error) error {
	if c.engine.steps || n < 2 {
		for i := range n {
			if err := f(i); err != nil {
				return err
			}
		}
		return nil
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	next := 0
	for range min(n, writers) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= n || len(errs) > 0
				mu.Unlock()
				if stop {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
