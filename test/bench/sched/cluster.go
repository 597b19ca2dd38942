package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kinds/scheduling"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
	"proa/internal/store/lsm"
)

// clients is how many make objects at once: they share the disk's syncs.
const clients = 64

// serve opens the store in a folder with an API server on it; end closes both.
func serve(ctx context.Context, dir string) (h api.Handler, end func() error, err error) {
	e, err := lsm.Open(dir, lsm.Options{})
	if err != nil {
		return nil, nil, err
	}
	s, err := apiserver.New(ctx, apiserver.Config{Engine: e, Kinds: kinds.All, Admit: admit.All(admit.Settings{}), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, errors.Join(err, e.Close())
	}
	h = api.As(api.User{Name: "bench", Groups: []string{api.GroupMasters}}, s)
	return h, func() error { s.Close(); return e.Close() }, nil
}

// many calls f for 0 to n-1, by many clients at once.
func many(n int, f func(i int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, clients)
	for c := range clients {
		wg.Go(func() {
			for errs[c] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				errs[c] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// layNodes makes a store with the nodes and what else all rows need.
func (b *bench) layNodes(ctx context.Context) error {
	h, end, err := serve(ctx, b.base)
	if err != nil {
		return err
	}
	if _, err := core.Namespace.Create(ctx, h, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil {
		return errors.Join(err, end())
	}
	_, err1 := core.Service.Create(ctx, h, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: served},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": served}}})
	_, err2 := core.ServiceAccount.Create(ctx, h, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	_, err3 := scheduling.PriorityClass.Create(ctx, h, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: important}, Value: 10})
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110")}
	err4 := many(b.nodes, func(i int) error {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{hostname: nodeName(i), zone: fmt.Sprintf("z%d", i%3)}}}
		made, err := core.Node.Create(ctx, h, n)
		if err != nil {
			return err
		}
		made = api.Clone(made)
		made.Status.Capacity, made.Status.Allocatable = capacity, capacity
		made.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		made, err = core.Node.UpdateStatus(ctx, h, made)
		if err != nil || len(made.Spec.Taints) == 0 {
			return err
		}
		made = api.Clone(made)
		made.Spec.Taints = nil // as the controller of nodes does with one that is ready
		_, err = core.Node.Update(ctx, h, made)
		return err
	})
	return errors.Join(err1, err2, err3, err4, end())
}

// layPods makes the pods that a row finds.
func (b *bench) layPods(ctx context.Context, h api.Handler, r *row) error {
	n := r.before
	if r.full {
		n *= b.nodes
	}
	return many(n, func(i int) error {
		p := newPod(fmt.Sprintf("old-%d", i))
		p.Spec.NodeName = nodeName(i * 7 % b.nodes)
		if r.full {
			p.Spec.NodeName = nodeName(i % b.nodes)
			p.Spec.TerminationGracePeriodSeconds = new(int64(0)) // no agent is there to say that they have ended
			request(p, "900m", "500Mi")
		}
		if r.old != nil {
			r.old(p)
		}
		_, err := core.Pod.Create(ctx, h, p)
		return err
	})
}

// measure is how long a row's pods took from the first creation to the last binding.
func (b *bench) measure(ctx context.Context, r *row, dir string) (took time.Duration, err error) {
	if err := os.CopyFS(dir, os.DirFS(b.base)); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	h, end, err := serve(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := b.layPods(ctx, h, r); err != nil {
		return 0, fmt.Errorf("pods that are there before: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	events := record.New(core.Event, h, corev1.DefaultSchedulerName, "", nil, nil)
	wg.Go(func() { events.Run(ctx) })
	wg.Go(func() { _ = sched.Run(ctx, h, sched.Config{Plugins: plugins.All, Events: events, Seed: 1}) }) // ends with ctx
	pod := func(i int, name string) *corev1.Pod {
		p := newPod(name)
		if r.pod != nil {
			r.pod(i, p)
		}
		return p
	}
	// One pod ahead: the scheduler has read the whole state once it is placed.
	seen := newPlaced()
	wg.Go(func() { seen.follow(ctx, h) })
	if _, err := core.Pod.Create(ctx, h, pod(b.nodes-1, "new-first")); err != nil {
		return 0, err
	}
	if err := seen.await(ctx, 1); err != nil {
		return 0, err
	}
	if b.profile != "" {
		f, err := os.Create(b.profile)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return 0, err
		}
		defer pprof.StopCPUProfile()
	}
	began := time.Now()
	if err := many(b.pods, func(i int) error {
		_, err := core.Pod.Create(ctx, h, pod(i, fmt.Sprintf("new-%d", i)))
		return err
	}); err != nil {
		return 0, err
	}
	err = seen.await(ctx, 1+b.pods)
	return time.Since(began), err
}

// placed counts the measured pods that a watch shows with a node.
type placed struct {
	mu    sync.Mutex
	pods  map[types.UID]bool
	moved chan struct{}
}

func newPlaced() *placed { return &placed{pods: map[types.UID]bool{}, moved: make(chan struct{})} }

func (s *placed) follow(ctx context.Context, h api.Handler) {
	for c := range core.Pod.Follow(ctx, h, "default", api.Selectors{}, func(error) {}) {
		if c.Object != nil && c.Type != watch.Deleted {
			c.All = append(c.All, c.Object)
		}
		s.mu.Lock()
		for _, p := range c.All {
			if p.Spec.NodeName != "" && strings.HasPrefix(p.Name, "new-") {
				s.pods[p.UID] = true
			}
		}
		close(s.moved)
		s.moved = make(chan struct{})
		s.mu.Unlock()
	}
}

func (s *placed) await(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		have, moved := len(s.pods), s.moved
		s.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d pods have a node: %w", have, n, ctx.Err())
		}
	}
}
