// Package sched decides which node each pod runs on, and binds it there.
//
// One goroutine decides, on a state of the cluster that every watch event
// changes piece by piece; decisions are written by many at once. A pod that has
// been promised a node counts as running there from that moment on.
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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/kinds/core"
)

// Config is what a scheduler needs from outside. Plugins must be given; every
// other zero value is good.
type Config struct {
	Name    string // pods with this schedulerName are ours; "default-scheduler" if empty
	Plugins []*Plugin
	Log     *slog.Logger
	Events  *record.Recorder // where users are told; nowhere if nil
	Now     func() time.Time
	Seed    uint64 // of what chance decides; of the clock if 0
	Percent int    // see [Placer]
	Flying  int    // bindings that may be on their way at once; 128 if 0
}

// A Scheduler places pods.
type Scheduler struct {
	h   api.Handler
	cfg Config

	mu     sync.Mutex
	state  *State
	queue  *queue
	placer Placer
	bound  map[types.UID]bool // promised a node, and the watch has not shown it yet
	synced int                // kinds read once
	work   *sync.Cond         // there may be something to do
	ended  bool

	flying chan struct{}
	wg     sync.WaitGroup
}

// New prepares a scheduler.
func New(h api.Handler, cfg Config) *Scheduler {
	if cfg.Name == "" {
		cfg.Name = corev1.DefaultSchedulerName
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
	s := &Scheduler{
		h: h, cfg: cfg, state: NewState(), queue: newQueue(), bound: map[types.UID]bool{},
		placer: Placer{Plugins: cfg.Plugins, Rand: rand.New(rand.NewPCG(cfg.Seed, 0)), Percent: cfg.Percent},
		flying: make(chan struct{}, cfg.Flying),
	}
	s.work = sync.NewCond(&s.mu)
	return s
}

// Run schedules until ctx is done.
func Run(ctx context.Context, h api.Handler, cfg Config) error { return New(h, cfg).Run(ctx) }

// Run schedules until ctx is done.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.wg.Wait()
	s.wg.Go(func() { follow(ctx, s, core.Node, s.sawNodes) })
	s.wg.Go(func() { follow(ctx, s, core.Pod, s.sawPods) })
	s.wg.Go(func() { follow(ctx, s, core.Namespace, s.sawNamespaces) })
	s.wg.Go(func() { s.clock(ctx) })
	s.wg.Go(func() {
		<-ctx.Done()
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.work.Broadcast()
	})
	for {
		select {
		case s.flying <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		act, ok := s.next(ctx)
		if !ok {
			return ctx.Err()
		}
		s.wg.Go(func() {
			defer func() { <-s.flying }()
			act()
		})
	}
}

func follow[T api.Object](ctx context.Context, s *Scheduler, k *api.Kind[T], saw func(api.Change[T])) {
	failed := func(err error) { s.cfg.Log.Warn("watch broken", "kind", k.Resource, "err", err) }
	first := true
	for c := range k.Follow(ctx, s.h, "", api.Selectors{}, failed) {
		s.mu.Lock()
		saw(c)
		if first {
			first = false
			s.synced++
		}
		s.mu.Unlock()
		s.work.Signal()
	}
}

// sources is how many kinds are followed.
const sources = 3

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

// next waits for a pod and decides where it goes. It returns what has to be
// written, which may take a while.
func (s *Scheduler) next(ctx context.Context) (act func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.ended {
			return nil, false
		}
		if s.synced == sources {
			if it := s.queue.pop(); it != nil {
				return s.decide(ctx, it), true
			}
		}
		s.work.Wait()
	}
}

// decide places one pod.
func (s *Scheduler) decide(ctx context.Context, it *item) (act func()) {
	it.attempts++
	choice, fail := s.placer.Place(it.pod, s.state)
	if fail != nil {
		return s.keep(ctx, it, fail)
	}
	for i, c := range choice.checks {
		if c.Reserve == nil {
			continue
		}
		if err := c.Reserve(choice.Node); err != nil {
			for _, c := range choice.checks[:i] {
				if c.Unreserve != nil {
					c.Unreserve(choice.Node)
				}
			}
			return s.keep(ctx, it, &Failure{Error: err.Error(), Wakes: AnyEvent})
		}
	}
	s.state.AddPod(it.pod, choice.Name)
	s.bound[it.pod.UID] = true
	it.where = flying
	return func() { s.bind(ctx, it, choice) }
}

// keep puts a pod aside that fits nowhere, and returns how to tell its user.
func (s *Scheduler) keep(ctx context.Context, it *item, fail *Failure) (act func()) {
	message := fail.String()
	s.queue.wait(it, fail.Wakes, s.cfg.Now())
	pod := it.pod.Pod
	return func() { s.tell(ctx, pod, corev1.PodReasonUnschedulable, message) }
}

// ours says whether a pod waits for this scheduler.
func (s *Scheduler) ours(p *corev1.Pod) bool {
	return p.Spec.NodeName == "" && p.Spec.SchedulerName == s.cfg.Name && p.DeletionTimestamp == nil &&
		len(p.Spec.SchedulingGates) == 0 && !over(p)
}

func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func (s *Scheduler) sawNodes(c api.Change[*corev1.Node]) {
	switch {
	case c.Reset:
		have := map[string]bool{}
		for _, n := range c.All {
			have[n.Name] = true
		}
		for i := len(s.state.Nodes) - 1; i >= 0; i-- {
			if name := s.state.Nodes[i].Name; !have[name] {
				s.state.RemoveNode(name)
			}
		}
		for _, n := range c.All {
			s.wake(s.state.SetNode(n))
		}
	case c.Type == watch.Added || c.Type == watch.Modified:
		s.wake(s.state.SetNode(c.Object))
	case c.Type == watch.Deleted:
		s.state.RemoveNode(c.Object.Name)
		s.wake(NodeLabels) // spreading over fewer nodes
	}
}

func (s *Scheduler) sawNamespaces(c api.Change[*corev1.Namespace]) {
	for _, n := range c.All {
		s.wake(s.state.SetNamespace(n.Name, n.Labels))
	}
	switch {
	case c.Reset || c.Object == nil:
	case c.Type == watch.Deleted:
		s.state.RemoveNamespace(c.Object.Name)
	default:
		s.wake(s.state.SetNamespace(c.Object.Name, c.Object.Labels))
	}
}

func (s *Scheduler) wake(e Event) {
	if e != 0 {
		s.queue.wake(e, s.cfg.Now())
	}
}

func (s *Scheduler) sawPods(c api.Change[*corev1.Pod]) {
	switch {
	case c.Reset:
		have := map[types.UID]bool{}
		for _, p := range c.All {
			have[p.UID] = true
		}
		for uid := range s.state.pods {
			if !have[uid] {
				s.forget(uid)
			}
		}
		for uid := range s.queue.items {
			if !have[uid] {
				s.forget(uid)
			}
		}
		for _, p := range c.All {
			s.sawPod(p)
		}
	case c.Type == watch.Added || c.Type == watch.Modified:
		s.sawPod(c.Object)
	case c.Type == watch.Deleted:
		s.forget(c.Object.UID)
	}
}

// forget drops a pod that is gone.
func (s *Scheduler) forget(uid types.UID) {
	s.queue.remove(uid)
	delete(s.bound, uid)
	if s.state.RemovePod(uid) != nil {
		s.wake(PodGone)
	}
}

func (s *Scheduler) sawPod(p *corev1.Pod) {
	switch {
	case p.Spec.NodeName != "" && !over(p):
		s.sawPlaced(p)
	case p.Spec.NodeName == "" && s.bound[p.UID] && !over(p): // the watch lags behind our own decision
	case s.ours(p):
		s.sawWaiting(p)
	default:
		s.forget(p.UID)
	}
}

func (s *Scheduler) sawPlaced(p *corev1.Pod) {
	s.queue.remove(p.UID)
	delete(s.bound, p.UID)
	old := s.state.Pod(p.UID)
	if old != nil && old.node == s.state.byName[p.Spec.NodeName] && sameDemand(old.Pod, p) {
		old.Pod = p
		return
	}
	s.state.AddPod(NewPod(p), p.Spec.NodeName)
	e := PodPlaced
	if old != nil {
		e = PodGone | PodLabels
	}
	s.wake(e)
}

// sameDemand says whether two states of a pod ask the same of a node.
func sameDemand(a, b *corev1.Pod) bool {
	return a.Generation == b.Generation && equality.Semantic.DeepEqual(a.Labels, b.Labels) &&
		(a.Generation > 0 || equality.Semantic.DeepEqual(a.Spec.Containers, b.Spec.Containers)) &&
		a.Status.Resize == b.Status.Resize && equality.Semantic.DeepEqual(allocated(a), allocated(b))
}

func allocated(p *corev1.Pod) (out []corev1.ResourceList) {
	for _, c := range p.Status.ContainerStatuses {
		if c.AllocatedResources != nil || c.Resources != nil {
			out = append(out, c.AllocatedResources)
			if c.Resources != nil {
				out = append(out, c.Resources.Requests)
			}
		}
	}
	return out
}

func (s *Scheduler) sawWaiting(p *corev1.Pod) {
	it := s.queue.items[p.UID]
	if it == nil {
		s.queue.add(NewPod(p))
		return
	}
	old := it.pod.Pod
	if equality.Semantic.DeepEqual(old.Spec, p.Spec) && equality.Semantic.DeepEqual(old.Labels, p.Labels) {
		it.pod.Pod = p
		return
	}
	it.pod = NewPod(p)
	s.queue.changed(it, s.cfg.Now())
}
