// Package sched decides which node each pod runs on, and binds it there.
//
// One goroutine decides, many pods in a row, on a state of the cluster that every
// watch event changes piece by piece; decisions are written by many at once. A
// pod that has been promised a node counts as running there from that moment on.
// Pods that are alike share what is worked out about nodes (see [Placer]). If no
// node will do, less important pods may be made to leave one (see [Plan]).
//
// A pod that fits nowhere waits until something happens that the plugins that
// kept it out say may help, and not before:
//
//	 new or changed        node found
//	──────────────> active ──────────> bound
//	                 ↑  │ no node
//	    back-off over│  ↓
//	            backing off <── waiting
//	                    an event helps
package sched

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/kinds/core"
)

// Config is what a scheduler needs from outside. Profiles or Plugins must be
// given; every other zero value is good.
type Config struct {
	Profiles []Profile // none: one of all Plugins as they are
	Name     string    // of that one profile; "default-scheduler" if empty
	Plugins  []*Plugin
	Log      *slog.Logger
	Events   *record.Recorder // where users are told; nowhere if nil
	Now      func() time.Time
	Seed     uint64 // of what chance decides; of the clock if 0
	Percent  int    // see [Placer]
	Flying   int    // bindings that may be on their way at once; 128 if 0

	Register prometheus.Registerer // takes the metrics; none are kept if nil

	FirstPause, MostPause time.Duration // after failed attempts; 1 s and 10 s if 0

	// Go, if there is one, runs what has to be written for a decision, in a goroutine of its
	// own and when its turn has come: whoever simulates a cluster chooses the order. What says
	// which of the writes it is.
	Go func(what string, write func())
}

// A Profile is how the pods with one schedulerName are placed.
type Profile struct {
	Name    string
	Uses    []Use
	Percent int         // see [Placer]
	Preempt *Preemption // nil if no pods leave for others
}

// DefaultPreemption is how many nodes are looked at if nothing else is said.
var DefaultPreemption = Preemption{Percent: 10, Nodes: 100}

// A Scheduler places pods.
type Scheduler struct {
	h   api.Handler
	cfg Config

	mu       sync.Mutex
	state    *State
	queue    *queue
	profiles map[string]*profile
	bound    map[types.UID]bool // promised a node, and the watch has not shown it yet
	gated    map[types.UID]bool // pods of ours that somebody holds back
	synced   int                // kinds read once
	sources  int                // kinds that are followed
	work     *sync.Cond         // there may be something to do
	ended    bool
	metrics  *metrics

	flying chan struct{}
	wg     sync.WaitGroup
}

type profile struct {
	Placer
	name    string
	preempt *Preemption
	events  *record.Recorder
}

// New prepares a scheduler.
func New(h api.Handler, cfg Config) *Scheduler {
	if cfg.Name == "" {
		cfg.Name = corev1.DefaultSchedulerName
	}
	if len(cfg.Profiles) == 0 {
		cfg.Profiles = []Profile{{Name: cfg.Name, Uses: UsesOf(cfg.Plugins), Percent: cfg.Percent, Preempt: &DefaultPreemption}}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Seed == 0 {
		cfg.Seed = uint64(cfg.Now().UnixNano())
	}
	if cfg.Flying == 0 {
		cfg.Flying = 128
	}
	if cfg.FirstPause == 0 {
		cfg.FirstPause = firstPause
	}
	if cfg.MostPause == 0 {
		cfg.MostPause = mostPause
	}
	s := &Scheduler{
		h: h, cfg: cfg, state: NewState(), queue: newQueue(cfg.FirstPause, cfg.MostPause), profiles: map[string]*profile{},
		bound: map[types.UID]bool{}, gated: map[types.UID]bool{}, flying: make(chan struct{}, cfg.Flying),
	}
	for i, p := range cfg.Profiles {
		s.profiles[p.Name] = &profile{
			Placer: Placer{Uses: p.Uses, Rand: rand.New(rand.NewPCG(cfg.Seed, uint64(i))), Percent: p.Percent},
			name:   p.Name, preempt: p.Preempt, events: cfg.Events.From(p.Name),
		}
	}
	s.work = sync.NewCond(&s.mu)
	s.metrics = newMetrics(cfg.Register, s)
	return s
}

// Run schedules until ctx is done.
func Run(ctx context.Context, h api.Handler, cfg Config) error { return New(h, cfg).Run(ctx) }

// Run schedules until ctx is done.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.wg.Wait()
	s.followAll(ctx)
	s.wg.Go(func() { s.clock(ctx) })
	s.wg.Go(func() {
		<-ctx.Done()
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.work.Broadcast()
	})
	for {
		acts, ok := s.next(ctx)
		if !ok {
			return ctx.Err()
		}
		for _, act := range acts {
			if act.waits {
				s.start(&s.wg, act.what, act.do)
				continue
			}
			select {
			case s.flying <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			s.start(&s.wg, act.what, func() {
				defer func() { <-s.flying }()
				act.do()
			})
		}
	}
}

// start runs a piece of work in a goroutine of its own; wg waits for it.
func (s *Scheduler) start(wg *sync.WaitGroup, what string, do func()) {
	if s.cfg.Go == nil {
		wg.Go(do)
		return
	}
	wg.Add(1)
	s.cfg.Go(what, func() {
		defer wg.Done()
		do()
	})
}

// clock brings pods back whose pause is over.
func (s *Scheduler) clock(ctx context.Context) {
	for {
		s.mu.Lock()
		wait := s.queue.fire(s.cfg.Now())
		timer := s.queue.sooner
		s.mu.Unlock()
		s.work.Signal()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-timer:
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// An action is what has to be written for a decision.
type action struct {
	what  string
	do    func()
	waits bool // for others, perhaps for minutes
}

// How many decisions are made in a row before the cluster's changes are let in,
// and for how long at the most.
const (
	batch     = 64
	batchTime = 5 * time.Millisecond
)

// next waits for pods and decides where they go.
func (s *Scheduler) next(ctx context.Context) (acts []action, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.ended {
			return nil, false
		}
		if s.synced == s.sources {
			// One at the least: whoever was not running for that long may have been woken for the last time.
			for began := s.cfg.Now(); len(acts) == 0 || len(acts) < batch && s.cfg.Now().Sub(began) < batchTime; {
				it := s.queue.pop()
				if it == nil {
					break
				}
				acts = append(acts, s.decide(ctx, it))
			}
			if len(acts) > 0 {
				return acts, true
			}
		}
		s.work.Wait()
	}
}

// decide places one pod.
func (s *Scheduler) decide(ctx context.Context, it *item) action {
	it.attempts++
	it.tried = s.cfg.Now()
	p := s.profiles[it.pod.Spec.SchedulerName]
	choice, fail := p.Place(it.pod, s.state)
	s.metrics.decided(it.tried)
	if fail != nil {
		return s.makeRoom(ctx, p, it, fail)
	}
	for i, c := range choice.checks {
		if c.Reserve == nil {
			continue
		}
		if err := c.Reserve(choice.Node); err != nil {
			unreserve(choice.checks[:i], choice.Node)
			return s.keep(ctx, p, it, &Failure{Error: err.Error(), Wakes: AnyEvent})
		}
	}
	s.state.Nominate(it.pod, "")
	s.state.AddPod(it.pod, choice.Name)
	s.bound[it.pod.UID] = true
	it.where = flying
	s.wake(&Change{What: PodPlaced, Pod: it.pod})
	return action{named("bind", it.pod.Pod), it.after(func() { s.bind(ctx, p, it, choice) }), len(choice.checks) > 0}
}

// keep puts a pod aside that fits nowhere, and tells its user.
func (s *Scheduler) keep(ctx context.Context, p *profile, it *item, fail *Failure) action {
	result := unschedulable
	if fail.Error != "" {
		result = failed
	}
	s.metrics.ended(p.name, result, it)
	message := fail.String()
	s.queue.wait(it, fail, s.cfg.Now())
	pod := it.pod.Pod
	return action{named("tell", pod), it.after(func() { s.tell(ctx, p, pod, message, nil) }), false}
}

// named says what is done about which pod.
func named(what string, p *corev1.Pod) string { return what + " " + p.Namespace + "/" + p.Name }

// ours says whether a pod waits for this scheduler.
func (s *Scheduler) ours(p *corev1.Pod) bool {
	return p.Spec.NodeName == "" && s.profiles[p.Spec.SchedulerName] != nil && p.DeletionTimestamp == nil &&
		len(p.Spec.SchedulingGates) == 0 && !core.PodFinished(p)
}
