package sched

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
)

// TestWhatIsMissingIsGone reads nodes and namespaces again after a watch was lost.
func TestWhatIsMissingIsGone(t *testing.T) {
	s := New(nil, Config{})
	node := func(name string) *corev1.Node {
		n := &corev1.Node{}
		n.Name, n.UID = name, types.UID(name)
		return n
	}
	space := &corev1.Namespace{}
	space.Name, space.UID, space.Labels = "old", "old", map[string]string{"a": "b"}
	a, b := node("a"), node("b")
	nodes, spaces := each(s.sawNode), each(s.sawNamespace)
	nodes(api.Change[*corev1.Node]{Reset: true, All: []*corev1.Node{a, b}})
	spaces(api.Change[*corev1.Namespace]{Reset: true, All: []*corev1.Namespace{space}})
	p := &corev1.Pod{}
	p.Name, p.UID = "p", "p"
	it := s.queue.add(NewPod(p))
	s.queue.pop()
	s.queue.wait(it, &Failure{Wakes: NodeRemoved}, s.cfg.Now())
	nodes(api.Change[*corev1.Node]{Reset: true, All: []*corev1.Node{a}})
	spaces(api.Change[*corev1.Namespace]{Reset: true})
	if len(s.state.Nodes) != 1 || s.state.Node("a") == nil || s.state.NamespaceLabels("old") != nil {
		t.Errorf("%d nodes, and a namespace with labels %v", len(s.state.Nodes), s.state.NamespaceLabels("old"))
	}
	if it.where == waiting {
		t.Error("a pod that a node's going helps waits for more")
	}
}
