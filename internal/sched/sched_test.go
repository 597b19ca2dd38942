package sched_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
	"proa/internal/store"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
)

type rig struct {
	testing.TB
	h   api.Handler
	ctx context.Context
}

func start(t testing.TB, seed uint64) *rig { return startOn(t, memory.New(nil), plain(seed)) }

func plain(seed uint64) sched.Config { return sched.Config{Plugins: plugins.All, Seed: seed} }

// startOn starts a server on an engine, and a scheduler beside it.
func startOn(t testing.TB, engine store.Engine, c sched.Config) *rig {
	t.Helper()
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: engine, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.Events = record.New(core.Event, s, "default-scheduler", "", nil, nil)
	if os.Getenv("PROA_TEST_LOG") != "" {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.Events.Run(ctx) })
	wg.Go(func() { _ = sched.Run(ctx, s, c) })
	t.Cleanup(func() { cancel(); wg.Wait(); s.Close() })
	return &rig{t, s, ctx}
}

// later starts a second scheduler, for pods that name it: it has read everything
// that is there before it decides.
func (r *rig) later() {
	ctx, cancel := context.WithCancel(r.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = sched.Run(ctx, r.h, sched.Config{Name: "later", Plugins: plugins.All, Seed: 1})
	})
	r.Cleanup(func() { cancel(); wg.Wait() })
}

// change changes a node.
func (r *rig) change(name string, what func(*corev1.Node)) {
	r.Helper()
	n, err := core.Node.Get(r.ctx, r.h, "", name)
	if err != nil {
		r.Fatal(err)
	}
	n = n.DeepCopy()
	what(n)
	if _, err := core.Node.Update(r.ctx, r.h, n); err != nil {
		r.Fatal(err)
	}
}

// delete takes a pod away at once.
func (r *rig) delete(name string) {
	r.Helper()
	if err := core.Pod.Delete(r.ctx, r.h, "default", name, api.Options{GracePeriod: new(int64(0))}); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) node(name, cpu, memory string, change ...func(*corev1.Node)) {
	r.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourcePods: resource.MustParse("110"),
	}
	for _, f := range change {
		f(n)
	}
	status := n.Status
	made, err := core.Node.Create(r.ctx, r.h, n)
	if err != nil {
		r.Fatal(err)
	}
	made = made.DeepCopy()
	made.Status = status
	if _, err := core.Node.UpdateStatus(r.ctx, r.h, made); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) pod(name, cpu, memory string, change ...func(*corev1.Pod)) {
	r.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	c := corev1.Container{Name: "c", Image: "img"}
	if cpu != "" {
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	p.Spec.Containers = []corev1.Container{c}
	for _, f := range change {
		f(p)
	}
	if _, err := core.Pod.Create(r.ctx, r.h, p); err != nil {
		r.Fatal(err)
	}
}

// wait returns the pod once ok says so.
func (r *rig) wait(name string, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	r.Helper()
	var p *corev1.Pod
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		var err error
		if p, err = core.Pod.Get(r.ctx, r.h, "default", name); err != nil {
			r.Fatal(err)
		}
		if ok(p) {
			return p
		}
	}
	r.Fatalf("pod %s: not %s: on %q, %+v", name, what, p.Spec.NodeName, p.Status.Conditions)
	return nil
}

func (r *rig) on(name, node string) {
	r.Helper()
	r.wait(name, "on "+node, func(p *corev1.Pod) bool { return p.Spec.NodeName != "" && (node == "" || p.Spec.NodeName == node) })
}

func (r *rig) refused(name, message string) {
	r.Helper()
	r.wait(name, "refused with "+message, func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == "Unschedulable" && c.Message == message {
				return true
			}
		}
		return false
	})
}

// event waits for an event whose message begins so.
func (r *rig) event(typ, reason, message string) {
	r.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		events, err := core.Event.List(r.ctx, r.h, "default", api.Selectors{})
		if err != nil {
			r.Fatal(err)
		}
		for _, e := range events {
			if e.Type == typ && e.Reason == reason && strings.HasPrefix(e.Message, message) {
				return
			}
		}
	}
	r.Errorf("no event %s %s %q", typ, reason, message)
}

func TestReasonsAreCountedAndEventsHelp(t *testing.T) {
	r := start(t, 1)
	r.pod("early", "", "")
	r.refused("early", "no nodes available to schedule pods")
	r.node("a", "1", "1Gi")
	r.on("early", "a")
	r.node("b", "1", "4Gi", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	})
	r.node("c", "4", "4Gi", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	r.pod("big", "2", "2Gi")
	r.refused("big", "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.")
	var scheduled, failed bool
	for end := time.Now().Add(5 * time.Second); !(scheduled && failed) && time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		events, err := core.Event.List(r.ctx, r.h, "default", api.Selectors{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			scheduled = scheduled || e.Reason == "Scheduled" && e.Message == "Successfully assigned default/early to a" && e.Source.Component == "default-scheduler"
			failed = failed || e.Reason == "FailedScheduling" && e.Type == "Warning" && strings.HasPrefix(e.Message, "0/3 nodes")
		}
	}
	if !scheduled || !failed {
		t.Errorf("events: scheduled %v, failed %v", scheduled, failed)
	}
	r.change("c", func(n *corev1.Node) { n.Spec.Unschedulable = false })
	r.on("big", "c")
}

func TestRoomComesBackWithAPod(t *testing.T) {
	r := start(t, 1)
	r.node("a", "1", "1Gi")
	r.pod("first", "800m", "100Mi")
	r.on("first", "a")
	r.pod("second", "800m", "100Mi")
	r.refused("second", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	r.delete("first")
	r.on("second", "a")
}

func TestOthersPodsAndGates(t *testing.T) {
	r := start(t, 1)
	r.node("a", "1", "1Gi")
	r.pod("theirs", "", "", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" })
	r.pod("gated", "", "", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}} })
	r.pod("mine", "", "")
	r.on("mine", "a")
	for _, name := range []string{"theirs", "gated"} {
		if p, err := core.Pod.Get(r.ctx, r.h, "default", name); err != nil || p.Spec.NodeName != "" {
			t.Errorf("%s is on %q, %v", name, p.Spec.NodeName, err)
		}
	}
	p, _ := core.Pod.Get(r.ctx, r.h, "default", "gated")
	p = p.DeepCopy()
	p.Spec.SchedulingGates = nil
	if _, err := core.Pod.Update(r.ctx, r.h, p); err != nil {
		t.Fatal(err)
	}
	r.on("gated", "a")
}

// TestNeverOverfull schedules many pods at once and checks that no node got
// more than it has.
func TestNeverOverfull(t *testing.T) {
	r := start(t, 7)
	const nodes, each = 10, 10
	for i := range nodes {
		r.node(fmt.Sprintf("n%d", i), "1", "4Gi")
	}
	for i := range nodes*each + 5 {
		r.pod(fmt.Sprintf("p%d", i), "100m", "10Mi")
	}
	count := map[string]int{}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		clear(count)
		pods, err := core.Pod.List(r.ctx, r.h, "", api.Selectors{})
		if err != nil {
			t.Fatal(err)
		}
		bound := 0
		for _, p := range pods {
			if p.Spec.NodeName != "" {
				bound++
				count[p.Spec.NodeName]++
			}
		}
		if bound >= nodes*each || time.Now().After(end) {
			break
		}
	}
	for i := range nodes {
		if n := count[fmt.Sprintf("n%d", i)]; n != each {
			t.Errorf("node n%d has %d pods, want %d", i, n, each)
		}
	}
}

// BenchmarkBasic binds plain pods on 5,000 nodes through a server on the memory
// engine, and BenchmarkDurable on the one that syncs to disk.
func BenchmarkBasic(b *testing.B) { benchmark(b, memory.New(nil)) }

func BenchmarkDurable(b *testing.B) {
	e, err := lsm.Open(b.TempDir(), lsm.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	benchmark(b, e)
}

func benchmark(b *testing.B, engine store.Engine) {
	r := startOn(b, engine, plain(1))
	const nodes = 5000
	for i := range nodes {
		r.node(fmt.Sprintf("n%d", i), "64", "256Gi")
	}
	var wg sync.WaitGroup
	for w := range 32 { // many at once share the disk's syncs
		wg.Go(func() {
			for i := w; i < b.N; i += 32 {
				r.pod(fmt.Sprintf("p%d", i), "100m", "100Mi", func(p *corev1.Pod) { p.Spec.SchedulerName = "later" })
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.Logf("%d pods", b.N)
	// A scheduler of its own for the pods, so that their creation is not measured.
	b.StartTimer()
	began := time.Now()
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() {
		done <- sched.Run(ctx, r.h, sched.Config{Name: "later", Plugins: plugins.All, Seed: 1})
	}()
	left := b.N
	for c := range core.Pod.Follow(ctx, r.h, "", api.Selectors{}, nil) {
		all := c.All
		if c.Object != nil {
			all = append(all, c.Object)
		}
		for _, p := range all {
			if p.Spec.NodeName != "" {
				left--
			}
		}
		if left <= 0 {
			break
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "pods/s")
	cancel()
	<-done
}
