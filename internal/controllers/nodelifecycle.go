package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/coordination"
	"proa/internal/kinds/core"
)

// How long a node may be silent before it counts as lost; a new one may a little longer.
const (
	nodeGrace        = 40 * time.Second
	nodeStartupGrace = 60 * time.Second
)

// NodeLifecycle watches over the nodes' heartbeats, which are their leases: it
// says in its conditions that a node is lost, taints nodes by their conditions,
// and marks the pods of nodes that are not ready.
func NodeLifecycle() *control.Controller[*corev1.Node] {
	m := newMonitor()
	return &control.Controller[*corev1.Node]{
		Name: "node-lifecycle",
		For:  core.Node,
		Watches: []control.Watch{
			control.On(coordination.Lease, func(_ *control.Cluster, l *coordinationv1.Lease) []control.Key {
				if l.Namespace != corev1.NamespaceNodeLease {
					return nil
				}
				return []control.Key{{Name: l.Name}}
			}),
			control.Reads(core.Pod),
		},
		Writes:    []api.Definition{core.Pod},
		Reconcile: m.reconcile,
		Finalize: func(_ context.Context, _ *control.Cluster, key control.Key) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.seen, key.Name)
			delete(m.chased, key.Name)
			return nil
		},
	}
}

// A monitor remembers when it last saw something change about each node, by
// the clock of this process: the nodes' clocks may be wrong.
type monitor struct {
	mu   sync.Mutex
	seen map[string]heartbeat
	zones
}

func newMonitor() *monitor {
	return &monitor{seen: map[string]heartbeat{}, zones: zones{chased: map[string]bool{}, next: map[string]time.Time{}}}
}

type heartbeat struct {
	uid   string
	renew metav1.MicroTime
	post  metav1.Time
	at    time.Time
	grace time.Duration
}

// left is the time until the node counts as lost.
func (m *monitor) left(c *control.Cluster, n *corev1.Node) time.Duration {
	now := c.Now()
	h := heartbeat{uid: string(n.UID), at: now, grace: nodeGrace}
	if l, ok := control.Get(c, coordination.Lease, corev1.NamespaceNodeLease, n.Name); ok && l.Spec.RenewTime != nil {
		h.renew = *l.Spec.RenewTime
	}
	if cond := core.NodeCondition(n, corev1.NodeReady); cond != nil && cond.Status != corev1.ConditionUnknown {
		h.post = cond.LastHeartbeatTime
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, known := m.seen[n.Name]
	switch {
	case !known || old.uid != h.uid:
		if core.NodeCondition(n, corev1.NodeReady) == nil {
			h.grace = nodeStartupGrace
		}
		m.seen[n.Name] = h
	case old.renew.Equal(&h.renew) && (h.post.IsZero() || old.post.Equal(&h.post)):
		h = old
	default:
		if h.post.IsZero() {
			h.post = old.post
		}
		m.seen[n.Name] = h
	}
	return h.at.Add(h.grace).Sub(now)
}

func (m *monitor) reconcile(ctx context.Context, c *control.Cluster, n *corev1.Node) (again time.Duration, err error) {
	left := m.left(c, n)
	if left <= 0 {
		if n, err = markLost(ctx, c, n); err != nil {
			return 0, ignoreNotFound(err)
		}
	} else {
		again = left
	}
	cond := core.NodeCondition(n, corev1.NodeReady)
	sick := cond != nil && cond.Status != corev1.ConditionTrue
	chase := false
	if sick {
		var wait time.Duration
		chase, wait = m.chase(c, n)
		again = sooner(again, wait)
	} else {
		m.well(c, n)
	}
	if n, err = retaint(ctx, c, n, chase); err != nil {
		return 0, ignoreNotFound(err)
	}
	if sick {
		return again, markPods(ctx, c, n)
	}
	return again, nil
}

// markLost says that nothing is known of the node any more.
func markLost(ctx context.Context, c *control.Cluster, n *corev1.Node) (*corev1.Node, error) {
	was := core.NodeCondition(n, corev1.NodeReady)
	now := metav1.NewTime(c.Now()).Rfc3339Copy()
	next, err := control.SetStatus(ctx, c, core.Node, n, func(n *corev1.Node) {
		for _, typ := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
			cond := core.NodeCondition(n, typ)
			switch {
			case cond == nil:
				n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
					Type: typ, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
					LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: now,
				})
			case cond.Status != corev1.ConditionUnknown:
				cond.Status, cond.Reason, cond.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
				cond.LastTransitionTime = now
			}
		}
	})
	if err == nil && (was == nil || was.Status == corev1.ConditionTrue) {
		c.Eventf(n, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", n.Name)
	}
	return next, err
}

// ours are the taints that follow from conditions.
var ours = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeUnschedulable, corev1.TaintNodeMemoryPressure,
	corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable,
}

// wantedTaints are the taints that a node's conditions ask for; chase says
// whether its pods may be chased away now.
func wantedTaints(n *corev1.Node, chase bool) (out []corev1.Taint) {
	add := func(key string, effect corev1.TaintEffect) { out = append(out, corev1.Taint{Key: key, Effect: effect}) }
	if n.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	if cond := core.NodeCondition(n, corev1.NodeReady); cond != nil && cond.Status != corev1.ConditionTrue {
		key := corev1.TaintNodeNotReady
		if cond.Status == corev1.ConditionUnknown {
			key = corev1.TaintNodeUnreachable
		}
		add(key, corev1.TaintEffectNoSchedule)
		if chase {
			add(key, corev1.TaintEffectNoExecute)
		}
	}
	for typ, key := range map[corev1.NodeConditionType]string{
		corev1.NodeMemoryPressure: corev1.TaintNodeMemoryPressure, corev1.NodeDiskPressure: corev1.TaintNodeDiskPressure,
		corev1.NodePIDPressure: corev1.TaintNodePIDPressure, corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
	} {
		if cond := core.NodeCondition(n, typ); cond != nil && cond.Status == corev1.ConditionTrue {
			add(key, corev1.TaintEffectNoSchedule)
		}
	}
	slices.SortFunc(out, func(a, b corev1.Taint) int {
		return slices.Compare([]string{a.Key, string(a.Effect)}, []string{b.Key, string(b.Effect)})
	})
	return out
}

func retaint(ctx context.Context, c *control.Cluster, n *corev1.Node, chase bool) (*corev1.Node, error) {
	now := metav1.NewTime(c.Now()).Rfc3339Copy()
	var taints []corev1.Taint
	want := wantedTaints(n, chase)
	for _, t := range n.Spec.Taints {
		i := slices.IndexFunc(want, func(w corev1.Taint) bool { return w.Key == t.Key && w.Effect == t.Effect })
		switch {
		case i >= 0:
			taints = append(taints, t)
			want = slices.Delete(want, i, i+1)
		case !slices.Contains(ours, t.Key) || core.NodeCondition(n, corev1.NodeReady) == nil:
			taints = append(taints, t)
		}
	}
	for _, t := range want {
		t.TimeAdded = &now
		taints = append(taints, t)
	}
	if equality.Semantic.DeepEqual(taints, n.Spec.Taints) {
		return n, nil
	}
	next := api.Clone(n)
	next.Spec.Taints = taints
	return core.Node.Update(ctx, c, next)
}

// markPods makes the pods of a node that is not ready count as not ready.
func markPods(ctx context.Context, c *control.Cluster, n *corev1.Node) error {
	var todo []*corev1.Pod
	for _, p := range control.Having(c, core.Pod, "spec.nodeName", n.Name) {
		if core.PodReady(p) {
			todo = append(todo, p)
		}
	}
	return c.Each(len(todo), func(i int) error {
		_, err := control.SetStatus(ctx, c, core.Pod, todo[i], func(p *corev1.Pod) {
			cond := core.PodCondition(p, corev1.PodReady)
			cond.Status, cond.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(c.Now()).Rfc3339Copy()
		})
		if err == nil {
			c.Eventf(todo[i], corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		}
		if apierrors.IsConflict(err) { // its node is there after all
			return nil
		}
		return ignoreNotFound(err)
	})
}
