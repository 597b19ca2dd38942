package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

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

	// Turn, if there is one, is called before each reconcile of [Engine.Run] and holds it back
	// until its turn has come: whoever simulates a cluster chooses the order.
	Turn func(ctx context.Context, controller string, key Key)
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
	owners  owners
	cluster map[*task]*Cluster
	sweeps  []*sweeping
	steps   bool // driven by Step: no goroutines

	mu      sync.RWMutex // of what follows, and of what the sources say is the engine's
	sources map[schema.GroupVersionResource]*source
	order   []*source // replaced, never changed
	numbers int
	begin   func(*source) // follows a source; nil before Run
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
	e := &Engine{server: h, cfg: cfg, q: newQueue(cfg.Now), sources: map[schema.GroupVersionResource]*source{}, cluster: map[*task]*Cluster{}}
	e.q.metrics = m
	for _, r := range rs {
		t := r.task()
		m.know(t)
		c := &Cluster{Log: cfg.Log.With("controller", t.name), Now: cfg.Now, Events: cfg.Events.From(t.name + "-controller"), engine: e, task: t}
		e.cluster[t] = c
		for _, s := range t.subs {
			src := e.sources[s.kind.GroupVersionResource]
			if src == nil {
				src = e.add(s.kind)
			}
			e.join(src, subscriber{cluster: c, slim: s.slim, bare: s.slim, keys: s.keys})
		}
		if t.sweep != nil {
			w := &sweeping{cluster: c, sweep: t.sweep, have: map[schema.GroupVersionResource]bool{}}
			e.sweeps = append(e.sweeps, w)
			e.refresh(w)
		}
	}
	return e
}

// Run runs the controllers until ctx is done.
func Run(ctx context.Context, h api.Handler, rs []Runner, cfg Config) error {
	return New(h, rs, cfg).Run(ctx)
}

func (e *Engine) source(r *api.Resource) *source {
	s := e.find(r)
	if s == nil {
		panic(fmt.Sprintf("a controller reads %s without watching it", r.Resource))
	}
	return s
}

// notify queues all whom the changes concern, together: what several of them name is done once.
func (e *Engine) notify(s *source, changes []change) {
	var few [16]job
	jobs := few[:0]
	for _, ch := range changes {
		for _, sub := range e.subscribers(s) {
			jobs = e.jobs(jobs, sub.cluster, sub.keys(sub.cluster, ch.old, ch.new))
		}
		if len(jobs) > together {
			e.q.add(jobs...)
			jobs = jobs[:0]
		}
	}
	e.q.add(jobs...)
}

// together is how many jobs are queued at a time, but for those of one change.
const together = 4096

// enqueue adds the keys of kinds that are followed.
func (e *Engine) enqueue(c *Cluster, keys []Key) { e.q.add(e.jobs(nil, c, keys)...) }

// jobs appends those that keys name, of kinds that are followed.
func (e *Engine) jobs(to []job, c *Cluster, keys []Key) []job {
	for _, key := range keys {
		j := job{c.task, e.find(key.Kind), key.Namespace, key.Name}
		if j.kind != nil || key.Kind == nil {
			to = append(to, j)
		}
	}
	return to
}

// Run watches and reconciles until ctx is done. No controller runs before every
// kind has been read once.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	begin := func(s *source) {
		ctx, cancel := context.WithCancel(ctx)
		s.begin(cancel)
		wg.Go(func() { e.follow(ctx, s) })
	}
	e.mu.Lock()
	e.begin = begin
	first := e.order
	e.mu.Unlock()
	for _, s := range first {
		begin(s)
	}
	if err := e.synced(ctx, first); err != nil {
		return err
	}
	for _, w := range e.sweeps {
		wg.Go(func() { e.watchKinds(ctx, w) })
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
	failed := func(err error) { e.cfg.Log.Warn("watch broken", "kind", s.kind.Load().Resource, "err", err) }
	for c := range s.client().FollowItems(ctx, e.server, "", api.Selectors{}, failed) {
		if !c.Reset {
			e.notify(s, s.saw(c))
			continue
		}
		if err := e.reset(s, c.Items, c.Revision); err != nil {
			failed(err) // of what is on the disk; the server has said so, too
			return
		}
	}
}

// atOnce is how many objects of a kind that is kept slim are taken in together.
const atOnce = 256

// reset takes in the whole state of a kind. One of which all want bare metadata goes by in
// pieces, so that its objects are never all decoded at the same time.
func (e *Engine) reset(s *source, items []*api.Item, rev int64) error {
	if s.bare.Load() && s.empty() {
		for part := range slices.Chunk(items, atOnce) {
			objs, err := s.read(part)
			if err != nil {
				return err
			}
			e.notify(s, s.came(objs))
			runtime.Gosched() // requests are answered meanwhile
		}
		s.complete(rev)
		s.told()
		return nil
	}
	all, err := s.read(items)
	if err != nil {
		return err
	}
	e.notify(s, s.saw(api.Change[api.Object]{Reset: true, All: all, Revision: rev}))
	s.told()
	return nil
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
	for _, w := range e.sweeps {
		select {
		case <-w.changed:
			e.refresh(w)
		default:
		}
	}
	order := e.all()
	for _, s := range order {
		if !s.started {
			if err := e.sync(ctx, s); err != nil {
				return true, err
			}
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
		return true, e.sync(ctx, order[r.IntN(len(order))])
	}
	for _, s := range order {
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
	if s.comes.Load() && apierrors.IsNotFound(err) {
		return nil // the kind has gone, which the engine will be told
	}
	e.notify(s, changes)
	return err
}

// do reconciles one key and decides when to look at it again.
func (e *Engine) do(ctx context.Context, j job) {
	defer e.q.done(j)
	if j.kind != nil && j.kind.gone() {
		e.q.succeeded(j)
		return
	}
	c := e.cluster[j.task]
	if e.cfg.Turn != nil {
		e.cfg.Turn(ctx, j.task.name, j.key())
	}
	again, err := call(ctx, c, j)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		e.q.succeeded(j)
		if again > 0 {
			e.q.addAfter(j, again)
		}
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		if s := e.find(j.task.main); s != nil {
			e.check(ctx, s, j.namespace, j.name)
		}
		pause := e.q.failed(j, time.Millisecond, time.Second)
		c.Log.Debug("conflict", "namespace", j.namespace, "name", j.name, "pause", pause, "err", err)
	default:
		pause := e.q.failed(j, firstPause, mostPause)
		c.Log.Warn("reconcile failed", "namespace", j.namespace, "name", j.name, "pause", pause, "err", err)
	}
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
	return j.task.reconcile(ctx, c, j.key())
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
