package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

// TaintEviction removes pods from nodes with taints of the effect NoExecute that
// they do not tolerate, or not for so long.
//
// A node that was unreachable when the control plane went away may long be well when that
// comes back, and had nobody to tell. So that its pods stay, such a taint counts for at
// least as long as it takes to notice a heartbeat, from the first look on.
func TaintEviction() *control.Controller[*corev1.Node] {
	m := &taintTimes{seen: map[string]map[corev1.Taint]metav1.Time{}}
	return &control.Controller[*corev1.Node]{
		Name: "taint-eviction",
		For:  core.Node,
		Watches: []control.Watch{control.On(core.Pod, func(c *control.Cluster, p *corev1.Pod) []control.Key {
			n, ok := control.Get(c, core.Node, "", p.Spec.NodeName)
			if !ok || len(noExecute(n)) == 0 {
				return nil
			}
			return []control.Key{control.KeyOf(n)}
		})},
		Writes: []api.Definition{core.Pod},
		Reconcile: func(ctx context.Context, c *control.Cluster, n *corev1.Node) (time.Duration, error) {
			taints := noExecute(n)
			return evictTainted(ctx, c, n, taints, m.date(n.Name, taints, c.Now()))
		},
		Finalize: func(_ context.Context, _ *control.Cluster, key control.Key) error {
			m.date(key.Name, nil, time.Time{}) // which is no look
			return nil
		},
	}
}

// taintTimes remembers, by node, since when there are taints that do not say it
// themselves, like those of kubectl taint.
type taintTimes struct {
	mu    sync.Mutex
	seen  map[string]map[corev1.Taint]metav1.Time
	first time.Time // the first look
}

// date gives taints their times, and returns that of the first look at any. Those that the
// node no longer has are forgotten.
func (m *taintTimes) date(node string, taints []corev1.Taint, now time.Time) (first time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first.IsZero() {
		m.first = now
	}
	before := m.seen[node]
	delete(m.seen, node)
	for i := range taints {
		t := taints[i]
		if t.TimeAdded != nil {
			continue
		}
		since, known := before[t]
		if !known {
			since = metav1.NewTime(now)
		}
		if m.seen[node] == nil {
			m.seen[node] = map[corev1.Taint]metav1.Time{}
		}
		m.seen[node][t] = since
		taints[i].TimeAdded = &since
	}
	return m.first
}

func noExecute(n *corev1.Node) (out []corev1.Taint) {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

// evictTainted removes pods; those of a node that did not answer before the first look not
// before it had time to.
func evictTainted(ctx context.Context, c *control.Cluster, n *corev1.Node, taints []corev1.Taint, first time.Time) (again time.Duration, err error) {
	if len(taints) == 0 {
		return 0, nil
	}
	heard := first.Add(nodeGrace)
	silent := !slices.ContainsFunc(taints, func(t corev1.Taint) bool {
		return t.Key != corev1.TaintNodeUnreachable && t.Key != corev1.TaintNodeNotReady || t.TimeAdded == nil || !t.TimeAdded.Time.Before(first.Truncate(time.Second))
	})
	for _, p := range control.Having(c, core.Pod, "spec.nodeName", n.Name) {
		if p.DeletionTimestamp != nil || core.PodFinished(p) {
			continue
		}
		end, forever := toleratedUntil(p, taints, c.Now())
		if forever {
			continue
		}
		if silent && end.Before(heard) {
			end = heard
		}
		if left := end.Sub(c.Now()); left > 0 {
			again = sooner(again, left)
			continue
		}
		if err := evict(ctx, c, p); err != nil {
			return 0, err
		}
	}
	return again, nil
}

// toleratedUntil is when the first of the taints becomes too much for the pod,
// unless it bears them all for ever. Times count from when a taint was added,
// or from when the pod came if that was later.
func toleratedUntil(p *corev1.Pod, taints []corev1.Taint, now time.Time) (end time.Time, forever bool) {
	forever = true
	for i := range taints {
		since := p.CreationTimestamp.Time
		if cond := core.PodCondition(p, corev1.PodScheduled); cond != nil && cond.Status == corev1.ConditionTrue {
			since = cond.LastTransitionTime.Time
		}
		if t := taints[i].TimeAdded; t != nil && t.After(since) {
			since = t.Time
		}
		until, always := now, false
		first := true
		for j := range p.Spec.Tolerations {
			t := &p.Spec.Tolerations[j]
			if !t.ToleratesTaint(klog.Background(), &taints[i], true) {
				continue
			}
			if t.TolerationSeconds == nil {
				always = first || always
				first = false
				continue
			}
			at := since.Add(time.Duration(max(*t.TolerationSeconds, 0)) * time.Second)
			if first || always || at.Before(until) {
				until = at
			}
			always, first = false, false
		}
		if always {
			continue
		}
		if forever || until.Before(end) {
			end = until
		}
		forever = false
	}
	return end, forever
}

// evict says in the pod's condition why it goes, and deletes it.
func evict(ctx context.Context, c *control.Cluster, p *corev1.Pod) error {
	c.Eventf(p, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
	if err := disrupt(ctx, c, p, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", ""); err != nil {
		return err
	}
	return ignoreNotFound(core.Pod.Delete(ctx, c, p.Namespace, p.Name, api.Options{UID: &p.UID}))
}

// disrupt notes in the condition DisruptionTarget why a pod is about to be
// removed, and gives it a phase if that is not empty.
func disrupt(ctx context.Context, c *control.Cluster, p *corev1.Pod, reason, message string, phase corev1.PodPhase) error {
	_, err := control.SetStatus(ctx, c, core.Pod, p, func(p *corev1.Pod) {
		if phase != "" {
			p.Status.Phase = phase
		}
		next := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
			ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(c.Now()).Rfc3339Copy()}
		if old := core.PodCondition(p, corev1.DisruptionTarget); old == nil {
			p.Status.Conditions = append(p.Status.Conditions, next)
		} else if old.Status != next.Status || old.Reason != reason {
			*old = next
		}
	})
	return ignoreNotFound(err)
}
