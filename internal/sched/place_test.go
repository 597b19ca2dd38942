package sched_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

// bigState has nodes that nothing tells apart.
func bigState(n int) *sched.State {
	s := sched.NewState()
	for i := range n {
		node := &corev1.Node{}
		node.Name = fmt.Sprintf("n%d", i)
		s.SetNode(node)
	}
	return s
}

// TestPercent counts the nodes that are looked at for a pod that shares nothing.
func TestPercent(t *testing.T) {
	for _, tt := range []struct{ nodes, percent, want int }{
		{80, 0, 80},     // all of a small cluster
		{80, 10, 80},    // whatever is said
		{1000, 0, 420},  // 50 - 1000/125 in a hundred
		{6000, 0, 300},  // never below 5 in a hundred
		{1000, 30, 300}, // as it is said
		{1000, 5, 100},  // never below a hundred nodes
		{1000, 100, 1000},
	} {
		s := bigState(tt.nodes)
		asked := map[string]int{}
		p := &sched.Placer{Rand: rand.New(rand.NewPCG(1, 0)), Percent: tt.percent, Alone: true, Uses: []sched.Use{{Plugin: &sched.Plugin{Name: "P",
			For: func(*sched.Pod, *sched.State) *sched.Check {
				return &sched.Check{Fits: func(n *sched.Node) sched.Verdict { asked[n.Name]++; return sched.Verdict{} }}
			}}}}}
		pod := sched.NewPod(&corev1.Pod{})
		p.Place(pod, s)
		if len(asked) != tt.want {
			t.Errorf("%d nodes at %d %%: looked at %d, want %d", tt.nodes, tt.percent, len(asked), tt.want)
		}
		// In the long run every node has its turn.
		for range tt.nodes/tt.want + 1 {
			p.Place(pod, s)
		}
		if len(asked) != tt.nodes {
			t.Errorf("%d nodes at %d %%: %d had their turn", tt.nodes, tt.percent, len(asked))
		}
	}
}

// TestSeed checks that chance decides between equals, and that a seed repeats it.
func TestSeed(t *testing.T) {
	play := func(seed uint64) string {
		s := smallState()
		p := &sched.Placer{Uses: sched.UsesOf(plugins.All), Rand: rand.New(rand.NewPCG(seed, 0))}
		var all []string
		for i := range 12 {
			one := runner(fmt.Sprint("p", i), "", 0, "100m", 0)
			one.UID = types.UID(fmt.Sprint(i))
			c, fail := p.Place(sched.NewPod(one), s)
			if fail != nil {
				t.Fatal(fail)
			}
			s.AddPod(sched.NewPod(one), c.Name)
			all = append(all, c.Name)
		}
		return strings.Join(all, "")
	}
	different := map[string]bool{}
	for seed := range uint64(10) {
		first := play(seed)
		if again := play(seed); again != first {
			t.Errorf("seed %d: %s, and %s", seed, first, again)
		}
		different[first] = true
	}
	if len(different) < 5 {
		t.Errorf("ten seeds gave %d orders: %v", len(different), different)
	}
}
