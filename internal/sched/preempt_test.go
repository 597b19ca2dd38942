package sched_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/policy"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

// runner makes a pod on a node: its name, node, priority and CPU; started says
// how many minutes ago.
func runner(name, node string, priority int32, cpu string, started int) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.UID = "d", name, types.UID(name)
	p.Labels = map[string]string{"app": strings.TrimRight(name, "0123456789")}
	p.Spec.NodeName, p.Spec.Priority = node, &priority
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}
	at := metav1.NewTime(time.Unix(1e9, 0).Add(-time.Duration(started) * time.Minute))
	p.Status.StartTime = &at
	return p
}

func smallState(pods ...*corev1.Pod) *sched.State {
	s := sched.NewState()
	s.SetNamespace("d", nil)
	for i, name := range []string{"a", "b", "c"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "zone": []string{"x", "x", "y"}[i]}}}
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("10")}
		s.SetNode(n)
	}
	for _, p := range pods {
		s.AddPod(sched.NewPod(p), p.Spec.NodeName)
	}
	return s
}

func budget(s *sched.State, name, app string, left int32) {
	s.Budgets.Set(&policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: left},
	}, false)
}

// TestPreempt checks which pods leave which node, or why none do.
func TestPreempt(t *testing.T) {
	full := func(priority int32) []*corev1.Pod {
		return []*corev1.Pod{runner("low1", "a", priority, "4", 1), runner("low2", "b", priority, "4", 1), runner("low3", "c", priority, "4", 1)}
	}
	for _, tt := range []struct {
		name   string
		pods   []*corev1.Pod
		change func(*sched.State, *corev1.Pod)
		want   string
	}{
		{"nothing is less important", full(10), nil, "0/3 nodes are available: 3 No preemption victims found for incoming pod."},
		{"it would not help", []*corev1.Pod{runner("low1", "a", 0, "1", 1)}, func(_ *sched.State, p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("5")
		}, "0/3 nodes are available: 3 Preemption is not helpful for scheduling."},
		{"on some nodes it would not help", full(10), func(_ *sched.State, p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "x"} },
			"0/3 nodes are available: 2 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."},
		{"it does not want to", full(0), func(_ *sched.State, p *corev1.Pod) { never := corev1.PreemptNever; p.Spec.PreemptionPolicy = &never },
			"not eligible due to preemptionPolicy=Never."},
		{"the least important victim", []*corev1.Pod{runner("p1", "a", 5, "4", 1), runner("p2", "b", 3, "4", 1), runner("p3", "c", 4, "4", 1)}, nil, "b: p2"},
		{"the most important victim counts, not how many there are", []*corev1.Pod{
			runner("p1", "a", 5, "4", 1), runner("p2", "b", 3, "2", 1), runner("p4", "b", 3, "2", 1), runner("p3", "c", 5, "4", 1)}, nil, "b: p2 p4"},
		{"less in sum", []*corev1.Pod{
			runner("p1", "a", 5, "2", 1), runner("p2", "a", 4, "2", 1), runner("p3", "b", 5, "2", 1), runner("p4", "b", 3, "2", 1), runner("p5", "c", 6, "4", 1)}, nil, "b: p3 p4"},
		{"fewer", []*corev1.Pod{
			runner("p1", "a", 5, "2", 1), runner("p2", "a", 5, "2", 1), runner("p3", "b", 5, "4", 1), runner("p4", "c", 5, "1", 1), runner("p5", "c", 5, "3", 1)}, nil, "b: p3"},
		{"the youngest", []*corev1.Pod{runner("p1", "a", 5, "4", 30), runner("p2", "b", 5, "4", 20), runner("p3", "c", 5, "4", 25)}, nil, "b: p2"},
		{"only as many as needed, the important stay", []*corev1.Pod{
			runner("p1", "a", 1, "1", 1), runner("p2", "a", 2, "1", 1), runner("p3", "a", 3, "1", 1), runner("p4", "a", 4, "1", 1), runner("x1", "b", 10, "4", 1), runner("x2", "c", 10, "4", 1)},
			func(_ *sched.State, p *corev1.Pod) {
				p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
			}, "a: p2 p1"},
		{"a budget protects", full(0), func(s *sched.State, _ *corev1.Pod) {
			budget(s, "b", "low", 0)
			s.RemovePod("low2")
			s.AddPod(sched.NewPod(runner("free", "b", 9, "4", 1)), "b")
		}, "b: free"},
		{"a budget with room does not", []*corev1.Pod{runner("p1", "a", 1, "4", 1), runner("x1", "b", 2, "4", 1), runner("x2", "c", 2, "4", 1)}, func(s *sched.State, _ *corev1.Pod) { budget(s, "b", "p", 1) }, "a: p1"},
		{"a budget is broken if there is no other way", full(0), func(s *sched.State, p *corev1.Pod) {
			budget(s, "b", "low", 0)
			p.Spec.NodeSelector = map[string]string{"zone": "y"}
		}, "c: low3"},
		{"what a budget protects stays on the node if others do", []*corev1.Pod{
			runner("low1", "c", 0, "2", 1), runner("free", "c", 1, "2", 1), runner("x1", "a", 10, "4", 1), runner("x2", "b", 10, "4", 1)}, func(s *sched.State, p *corev1.Pod) {
			budget(s, "b", "low", 0)
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
		}, "c: free"},
		{"who keeps it away leaves", []*corev1.Pod{runner("p1", "a", 0, "1", 1), runner("p2", "b", 10, "1", 1), runner("p3", "c", 10, "1", 1)}, func(_ *sched.State, p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
				{TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "p"}}}}}}
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("1")
		}, "a: p1"},
		{"somebody else is to have the room", full(0), func(s *sched.State, p *corev1.Pod) {
			s.Nominate(sched.NewPod(runner("vip1", "", 20, "4", 1)), "a")
			s.Nominate(sched.NewPod(runner("vip2", "", 20, "4", 1)), "c")
		}, "b: low2"},
		{"it waits for those who leave", full(0), func(s *sched.State, p *corev1.Pod) {
			gone := runner("low1", "a", 0, "4", 1)
			gone.DeletionTimestamp = gone.Status.StartTime
			s.AddPod(sched.NewPod(gone), "a")
			s.Nominate(sched.NewPod(p), "a")
		}, "not eligible due to a terminating pod on the nominated node."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(10) {
				for _, second := range []bool{false, true} { // judged by itself, and by what is shared
					s := smallState(tt.pods...)
					p := runner("new", "", 10, "4", 0)
					if tt.change != nil {
						tt.change(s, p)
					}
					placer := &sched.Placer{Uses: sched.UsesOf(plugins.All), Rand: rand.New(rand.NewPCG(seed, 0)), Percent: 100}
					pod := sched.NewPod(p)
					if second {
						placer.Place(pod, s)
					}
					_, fail := placer.Place(pod, s)
					if fail == nil {
						t.Fatal("there is room")
					}
					plan := placer.Preempt(pod, s, sched.DefaultPreemption, fail)
					got := fail.More
					if plan != nil {
						got = plan.Node.Name + ":"
						for _, v := range plan.Victims {
							got += " " + v.Name
						}
					}
					if got != tt.want {
						t.Fatalf("seed %d, shared %v: got %q, want %q", seed, second, got, tt.want)
					}
				}
			}
		})
	}
}

// TestRoomIsMade lets an important pod come to a full cluster, and follows what
// happens to everybody.
func TestRoomIsMade(t *testing.T) {
	r := start(t, 1)
	r.node("a", "1", "1Gi")
	priority := func(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }
	patient := int64(30)
	r.pod("low", "800m", "100Mi", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &patient })
	r.on("low", "a")
	r.pod("high", "800m", "100Mi", priority(1000))
	r.wait("high", "nominated", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "a" })
	low := r.wait("low", "on its way out", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	i := slices.IndexFunc(low.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
	if i < 0 {
		t.Fatalf("the victim does not say why: %+v", low.Status.Conditions)
	}
	if c := low.Status.Conditions[i]; c.Status != corev1.ConditionTrue || c.Reason != "PreemptionByScheduler" || c.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
		t.Errorf("condition %+v", c)
	}
	// The room is kept: a less important pod does not slip in, and a second
	// important one finds nobody to push out.
	r.pod("sly", "500m", "100Mi", priority(10))
	r.refused("sly", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	r.delete("low")
	r.on("high", "a")
	if p, err := core.Pod.Get(r.ctx, r.h, "default", "sly"); err != nil || p.Spec.NodeName != "" {
		t.Errorf("the less important pod is on %q, %v", p.Spec.NodeName, err)
	}
	r.event("Normal", "Preempted", "Preempted by pod ")
}

// TestRoomForMany lets many important pods come to a cluster full of others:
// each gets a place of its own.
func TestRoomForMany(t *testing.T) {
	r := start(t, 3)
	const nodes = 6
	for i := range nodes {
		r.node(fmt.Sprintf("n%d", i), "1", "1Gi")
	}
	soon := int64(0)
	for i := range nodes * 2 {
		r.pod(fmt.Sprintf("low%d", i), "500m", "100Mi", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &soon })
	}
	for i := range nodes * 2 {
		r.on(fmt.Sprintf("low%d", i), "")
	}
	high := int32(5)
	for i := range nodes {
		r.pod(fmt.Sprintf("high%d", i), "1", "100Mi", func(p *corev1.Pod) { p.Spec.Priority = &high })
	}
	on := map[string]bool{}
	for i := range nodes {
		p := r.wait(fmt.Sprintf("high%d", i), "placed", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
		if on[p.Spec.NodeName] {
			t.Errorf("two on %s", p.Spec.NodeName)
		}
		on[p.Spec.NodeName] = true
	}
}

// TestNobodyLeavesForNobody has a pod deleted between the decision that another is to
// leave for it and the first write about that.
func TestNobodyLeavesForNobody(t *testing.T) {
	r := start(t, 1)
	r.node("a", "1", "1Gi")
	r.pod("low", "800m", "100Mi")
	r.on("low", "a")
	high := int32(10)
	r.pod("high", "800m", "100Mi", func(p *corev1.Pod) { p.Spec.Priority, p.Spec.SchedulerName = &high, "later" })
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan string, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = sched.Run(ctx, api.HandlerFunc(func(ctx context.Context, q *api.Request) (*api.Response, error) {
			switch {
			case q.Verb == api.Update && q.Name == "high":
				r.delete("high")
			case q.Verb == api.Delete:
				t.Errorf("%s is to leave", q.Name)
			}
			return r.h.Handle(ctx, q)
		}), sched.Config{Name: "later", Plugins: plugins.All, Seed: 1, Go: func(what string, write func()) {
			go func() { write(); done <- what }()
		}})
	})
	defer func() { cancel(); wg.Wait() }()
	if what := <-done; what != "make room for default/high" {
		t.Error(what)
	}
}

// TestBudgetsOnAServer has a budget protect the less important of two pods.
func TestBudgetsOnAServer(t *testing.T) {
	r := start(t, 1)
	r.node("a", "1", "1Gi")
	r.pod("guarded", "400m", "100Mi", labelled("guarded"))
	r.on("guarded", "a")
	some, high := int32(1), int32(10)
	r.pod("free", "400m", "100Mi", func(p *corev1.Pod) { p.Spec.Priority = &some })
	r.on("free", "a")
	least := intstr.FromInt32(1)
	if _, err := policy.PodDisruptionBudget.Create(r.ctx, r.h, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}}}); err != nil {
		t.Fatal(err)
	}
	r.pod("high", "500m", "100Mi", func(p *corev1.Pod) { p.Spec.Priority, p.Spec.SchedulerName = &high, "later" })
	r.later() // it has read the budget before it decides
	r.wait("high", "nominated", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "a" })
	r.wait("free", "on its way out", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if p, err := core.Pod.Get(r.ctx, r.h, "default", "guarded"); err != nil || p.DeletionTimestamp != nil {
		t.Errorf("the guarded pod is to go: %v", err)
	}
	r.delete("free")
	r.on("high", "a")
}

// TestOpens follows a node whose pods leave for a more important one: of the pods
// that wait only those are helped that find room beside it.
func TestOpens(t *testing.T) {
	leaving := func(name string) *corev1.Pod {
		p := runner(name, "a", 0, "2", 1)
		p.DeletionTimestamp = new(metav1.NewTime(time.Unix(1e9, 0)))
		return p
	}
	s := smallState(leaving("low1"), leaving("low2"), runner("other1", "b", 0, "4", 1))
	big, same := sched.NewPod(runner("big", "", 10, "3", 0)), sched.NewPod(runner("same", "", 10, "3", 0))
	small, higher := sched.NewPod(runner("small", "", 10, "1", 0)), sched.NewPod(runner("higher", "", 20, "3", 0))
	expect := func(when, node string, pod *sched.Pod, want bool) {
		t.Helper()
		if got := s.Opens(node, pod); got != want {
			t.Errorf("%s: node %s opens for %s: %v", when, node, pod.Name, got)
		}
	}
	expect("nobody is promised anything", "a", same, true)
	s.Nominate(big, "a")
	s.RemovePod("low1")
	expect("one has gone", "a", big, false)
	expect("one has gone", "a", same, false)
	expect("one has gone", "a", small, true)
	expect("one has gone", "a", higher, true)
	expect("elsewhere", "b", same, true)
	s.RemovePod("low2")
	expect("all have gone", "a", big, true)
	expect("all have gone", "a", same, false)
	s.Nominate(big, "")
	expect("it goes elsewhere", "a", same, true)
}
