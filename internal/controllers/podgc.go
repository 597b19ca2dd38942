package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

const (
	nodeQuarantine = 40 * time.Second // how long a node must be gone before its pods go
	finishedPods   = 12500            // finished pods that may stay in the cluster
	finishedPeriod = 20 * time.Second // how often they are counted
)

// PodGC removes pods that no node will end any more: those whose node is gone,
// those deleted before they had one, those on their way out on a node that its
// keeper has put out of service, and the oldest of too many finished ones.
func PodGC() *control.Sweep {
	g := &podCollector{gone: map[string]time.Time{}}
	return &control.Sweep{
		Name:      "pod-garbage-collector",
		Kinds:     control.Fixed(core.Pod.Def(), core.Node.Def()),
		Changed:   g.changed,
		Reconcile: g.reconcile,
	}
}

type podCollector struct {
	mu      sync.Mutex
	gone    map[string]time.Time // since when a node is missing
	counted time.Time            // when finished pods were last counted
}

// countFinished is the key under which finished pods are counted; no pod's key is empty.
var countFinished = control.Key{}

func (g *podCollector) changed(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
	if kind == core.Node.Def() {
		if new == nil {
			for _, p := range control.Having(c, core.Pod, "spec.nodeName", old.GetName()) {
				keys = append(keys, control.KeyOf(p))
			}
		} else if n := new.(*corev1.Node); outOfService(n) {
			for _, p := range control.Having(c, core.Pod, "spec.nodeName", n.Name) {
				if p.DeletionTimestamp != nil {
					keys = append(keys, control.KeyOf(p))
				}
			}
		}
		return keys
	}
	p, ok := new.(*corev1.Pod)
	if !ok {
		return nil
	}
	if g.orphaned(c, p) || p.DeletionTimestamp != nil && (p.Spec.NodeName == "" || g.stranded(c, p)) {
		keys = append(keys, control.KeyOf(p))
	}
	if was, ok := old.(*corev1.Pod); core.PodFinished(p) && !(ok && core.PodFinished(was)) {
		keys = append(keys, countFinished)
	}
	return keys
}

func (g *podCollector) orphaned(c *control.Cluster, p *corev1.Pod) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	_, ok := control.Get(c, core.Node, "", p.Spec.NodeName)
	return !ok
}

// stranded says whether a pod is on a node that will not end it, as its keeper says.
func (g *podCollector) stranded(c *control.Cluster, p *corev1.Pod) bool {
	n, ok := control.Get(c, core.Node, "", p.Spec.NodeName)
	return ok && outOfService(n)
}

// outOfService says whether a node is not ready and somebody has vouched, with the
// taint, that nothing runs there any more.
func outOfService(n *corev1.Node) bool {
	return !core.NodeReady(n) &&
		slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (g *podCollector) reconcile(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	if key == countFinished {
		return g.thin(ctx, c)
	}
	p, ok := control.Get(c, core.Pod, key.Namespace, key.Name)
	switch {
	case !ok:
		return 0, nil
	case p.DeletionTimestamp != nil && (p.Spec.NodeName == "" || g.stranded(c, p)):
		return 0, g.end(ctx, c, p, "")
	case !g.orphaned(c, p):
		g.mu.Lock()
		delete(g.gone, p.Spec.NodeName)
		g.mu.Unlock()
		return 0, nil
	}
	g.mu.Lock()
	since, known := g.gone[p.Spec.NodeName]
	if !known {
		since = c.Now()
		g.gone[p.Spec.NodeName] = since
	}
	g.mu.Unlock()
	if left := since.Add(nodeQuarantine).Sub(c.Now()); left > 0 {
		return left, nil
	}
	if _, err := core.Node.Get(ctx, c, "", p.Spec.NodeName); !apierrors.IsNotFound(err) {
		return time.Second, err
	}
	return 0, g.end(ctx, c, p, "PodGC: node no longer exists")
}

// end removes a pod without waiting for anyone.
func (g *podCollector) end(ctx context.Context, c *control.Cluster, p *corev1.Pod, why string) error {
	if !core.PodFinished(p) {
		var err error
		if why != "" {
			err = disrupt(ctx, c, p, "DeletionByPodGC", why, corev1.PodFailed)
		} else {
			_, err = control.SetStatus(ctx, c, core.Pod, p, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
			err = ignoreNotFound(err)
		}
		if err != nil {
			return err
		}
	}
	zero := int64(0)
	return ignoreNotFound(core.Pod.Delete(ctx, c, p.Namespace, p.Name, api.Options{UID: &p.UID, GracePeriod: &zero}))
}

// thin removes the oldest finished pods above the limit.
func (g *podCollector) thin(ctx context.Context, c *control.Cluster) (time.Duration, error) {
	g.mu.Lock()
	left := g.counted.Add(finishedPeriod).Sub(c.Now())
	if left <= 0 {
		g.counted = c.Now()
	}
	g.mu.Unlock()
	if left > 0 {
		return left, nil
	}
	pods := slices.DeleteFunc(control.All(c, core.Pod, ""), func(p *corev1.Pod) bool { return !core.PodFinished(p) || p.DeletionTimestamp != nil })
	n := len(pods) - finishedPods
	if n <= 0 {
		return 0, nil
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return 0, c.Each(n, func(i int) error { return g.end(ctx, c, pods[i], "") })
}
