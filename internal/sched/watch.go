package sched

import (
	"context"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/kinds/policy"
	"proa/internal/kinds/storage"
)

// followAll follows every kind that decisions depend on.
func (s *Scheduler) followAll(ctx context.Context) {
	follow(ctx, s, core.Node, each(s.sawNode))
	follow(ctx, s, core.Pod, s.sawPods)
	follow(ctx, s, core.Namespace, each(s.sawNamespace))
	v, sel := &s.state.Volumes, &s.state.Select
	stored := func() { s.wake(&Change{What: Storage}) }
	follow(ctx, s, core.PersistentVolumeClaim, table(v.Claims, stored))
	follow(ctx, s, core.PersistentVolume, table(v.Volumes, stored))
	follow(ctx, s, storage.StorageClass, table(v.Classes, stored))
	follow(ctx, s, storage.CSINode, table(v.Nodes, stored))
	follow(ctx, s, storage.CSIDriver, table(v.Drivers, stored))
	follow(ctx, s, storage.CSIStorageCapacity, table(v.Capacities, stored))
	s.followDevices(ctx)
	follow(ctx, s, policy.PodDisruptionBudget, each(s.state.Budgets.Set))
	follow(ctx, s, core.Service, each(func(o *corev1.Service, gone bool) {
		selector := o.Spec.Selector
		if gone {
			selector = nil
		}
		sel.SetService(o.Namespace, o.Name, selector)
	}))
	owner := func(uid types.UID, selector *metav1.LabelSelector, gone bool) {
		if gone {
			selector = nil
		}
		sel.SetOwner(uid, selector)
	}
	follow(ctx, s, apps.ReplicaSet, each(func(o *appsv1.ReplicaSet, gone bool) { owner(o.UID, o.Spec.Selector, gone) }))
	follow(ctx, s, apps.StatefulSet, each(func(o *appsv1.StatefulSet, gone bool) { owner(o.UID, o.Spec.Selector, gone) }))
	follow(ctx, s, core.ReplicationController, each(func(o *corev1.ReplicationController, gone bool) {
		owner(o.UID, &metav1.LabelSelector{MatchLabels: o.Spec.Selector}, gone)
	}))
}

func follow[T api.Object](ctx context.Context, s *Scheduler, k *api.Kind[T], saw func(api.Change[T])) {
	failed := func(err error) { s.cfg.Log.Warn("watch broken", "kind", k.Resource, "err", err) }
	s.sources++
	s.wg.Go(func() {
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
	})
}

// each turns changes into calls for single objects, those included that are
// gone when the whole is read again.
func each[T api.Object](saw func(o T, gone bool)) func(api.Change[T]) {
	known := map[types.UID]T{}
	one := func(o T, gone bool) {
		if gone {
			delete(known, o.GetUID())
		} else {
			known[o.GetUID()] = o
		}
		saw(o, gone)
	}
	return func(c api.Change[T]) {
		switch {
		case c.Reset:
			have := map[types.UID]bool{}
			for _, o := range c.All {
				have[o.GetUID()] = true
			}
			for _, uid := range missing(known, have) {
				one(known[uid], true)
			}
			for _, o := range c.All {
				one(o, false)
			}
		case c.Type != watch.Bookmark:
			one(c.Object, c.Type == watch.Deleted)
		}
	}
}

// missing are those of the known that are not there, in an order that is not chance's.
func missing[V any](known map[types.UID]V, have map[types.UID]bool) (out []types.UID) {
	for uid := range known {
		if !have[uid] {
			out = append(out, uid)
		}
	}
	slices.Sort(out)
	return out
}

// table keeps a table of the volumes' state.
func table[T api.Object](t Table[T], stored func()) func(api.Change[T]) {
	take := each(func(o T, gone bool) {
		if gone {
			t.Drop(o)
		} else {
			t.Put(o)
		}
	})
	return func(c api.Change[T]) {
		take(c)
		if c.Reset || c.Type != watch.Bookmark {
			stored()
		}
	}
}

func (s *Scheduler) sawNode(n *corev1.Node, gone bool) {
	what := NodeRemoved
	if gone {
		s.state.RemoveNode(n.Name)
	} else {
		what = s.state.SetNode(n)
	}
	s.wake(&Change{What: what, Node: n})
	if what&(NodeTaints|NodeRemoved) != 0 { // perhaps it will not have those any more that were to come
		for _, p := range s.state.nominatedFor(n.Name) {
			if it := s.queue.items[p.UID]; it != nil {
				s.queue.changed(it, s.cfg.Now())
			}
		}
	}
}

func (s *Scheduler) sawNamespace(n *corev1.Namespace, gone bool) {
	if gone {
		s.state.RemoveNamespace(n.Name)
	} else {
		s.wake(&Change{What: s.state.SetNamespace(n.Name, n.Labels)})
	}
}

func (s *Scheduler) wake(c *Change) {
	if c.What != 0 && len(s.queue.companies) > 0 {
		s.queue.wake(s.state, c, s.cfg.Now())
	}
}

func (s *Scheduler) sawPods(c api.Change[*corev1.Pod]) {
	switch {
	case c.Reset:
		clear(s.gated)
		have := map[types.UID]bool{}
		for _, p := range c.All {
			have[p.UID] = true
		}
		for _, uid := range missing(s.state.pods, have) {
			s.forget(uid)
		}
		for _, uid := range missing(s.queue.items, have) {
			s.forget(uid)
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
	if it := s.queue.items[uid]; it != nil {
		s.queue.remove(uid)
		if s.state.Nominated(uid) != "" { // others may have what was kept for it
			s.state.Nominate(it.pod, "")
			s.wake(&Change{What: PodGone, Pod: it.pod})
		}
	}
	delete(s.bound, uid)
	delete(s.gated, uid)
	delete(s.state.leaving, uid)
	if p := s.state.RemovePod(uid); p != nil {
		s.wake(&Change{What: PodGone, Pod: p})
	}
}

func (s *Scheduler) sawPod(p *corev1.Pod) {
	switch {
	case p.Spec.NodeName != "" && !core.PodFinished(p):
		s.sawPlaced(p)
	case p.Spec.NodeName == "" && s.bound[p.UID] && !core.PodFinished(p): // the watch lags behind our own decision
	case s.ours(p):
		s.sawWaiting(p)
	default:
		s.forget(p.UID)
	}
	if len(p.Spec.SchedulingGates) > 0 && p.DeletionTimestamp == nil && s.profiles[p.Spec.SchedulerName] != nil {
		s.gated[p.UID] = true
	} else {
		delete(s.gated, p.UID)
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
	now := NewPod(p)
	s.state.Nominate(now, "")
	s.state.AddPod(now, p.Spec.NodeName)
	c := &Change{What: PodPlaced, Pod: now}
	switch {
	case old != nil && old.DeletionTimestamp == nil && p.DeletionTimestamp != nil && equality.Semantic.DeepEqual(old.Labels, p.Labels) &&
		equality.Semantic.DeepEqual(old.Req, now.Req):
		c.What, c.Was = PodLeaves, old // what it has it keeps until it is gone
	case old != nil:
		c.What, c.Was = PodGone|PodLabels|PodPlaced, old
	}
	s.wake(c)
}

// sameDemand says whether two states of a pod ask the same of a node.
func sameDemand(a, b *corev1.Pod) bool {
	return a.Generation == b.Generation && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && equality.Semantic.DeepEqual(a.Labels, b.Labels) &&
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
		it = s.queue.add(NewPod(p))
		it.since = s.cfg.Now()
		s.state.Nominate(it.pod, p.Status.NominatedNodeName)
		if s.awaitsClaims(p) {
			s.queue.hold(it, it.since.Add(claimPause))
		}
		return
	}
	old := it.pod.Pod
	if len(p.Spec.ResourceClaims) > 0 && s.awaitsClaims(old) && !s.awaitsClaims(p) {
		it.pod.Pod = p
		s.queue.changed(it, s.cfg.Now())
		return
	}
	if equality.Semantic.DeepEqual(old.Spec, p.Spec) && equality.Semantic.DeepEqual(old.Labels, p.Labels) {
		it.pod.Pod = p
		return
	}
	at := s.state.Nominated(p.UID)
	it.pod = NewPod(p)
	s.state.Nominate(it.pod, at)
	s.queue.changed(it, s.cfg.Now())
}
