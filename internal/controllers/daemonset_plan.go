package controllers

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"proa/internal/kinds/core"
)

// A fit says what a daemon set wants of a node.
type fit struct {
	node string
	run  bool // a pod is to be there
	stay bool // one that is there may stay
}

// daemonFits says what a daemon set wants of each node.
func daemonFits(d *appsv1.DaemonSet, nodes []*corev1.Node) []fit {
	t := &d.Spec.Template.Spec
	need := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: *t})
	tolerations := daemonTolerations(t)
	of := func(n *corev1.Node) (f fit) {
		f.node = n.Name
		if t.NodeName != "" && t.NodeName != n.Name {
			return f
		}
		if ok, err := need.Match(n); !ok || err != nil {
			return f
		}
		f.run, f.stay = true, true
		for i := range n.Spec.Taints {
			taint := &n.Spec.Taints[i]
			bears := slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, true) })
			switch {
			case bears:
			case taint.Effect == corev1.TaintEffectNoExecute:
				return fit{node: n.Name}
			case taint.Effect == corev1.TaintEffectNoSchedule:
				f.run = false
			}
		}
		return f
	}
	out := make([]fit, len(nodes))
	for i, n := range nodes {
		out[i] = of(n)
	}
	return out
}

// A daemonPlan is what to do now about the pods of a daemon set.
type daemonPlan struct {
	create []string // nodes
	remove []*corev1.Pod
	ended  []*corev1.Pod // to be removed, but not too often
}

// onNodes sorts pods by the nodes that they are on or for, the oldest first.
func onNodes(pods []*corev1.Pod) map[string][]*corev1.Pod {
	out := map[string][]*corev1.Pod{}
	for _, p := range pods {
		out[targetOf(p)] = append(out[targetOf(p)], p)
	}
	for _, all := range out {
		slices.SortFunc(all, olderFirst)
	}
	return out
}

// daemonLimits are how many nodes may have two pods, or none that is available,
// during an update.
func daemonLimits(d *appsv1.DaemonSet, desired int) (surge, unavailable int) {
	u := d.Spec.UpdateStrategy.RollingUpdate
	if d.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || u == nil {
		return 0, 0
	}
	part := func(v *intstr.IntOrString) int {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), desired, true)
		if err != nil {
			return 0
		}
		return n
	}
	if surge, unavailable = part(u.MaxSurge), part(u.MaxUnavailable); surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// planDaemons decides the next step: every node that is to have a pod gets one
// and keeps just one, every other loses what it has, and old pods are replaced
// within the limits of the update.
func planDaemons(d *appsv1.DaemonSet, nodes []fit, pods []*corev1.Pod, updated func(*corev1.Pod) bool, now time.Time) (p daemonPlan) {
	at := onNodes(pods)
	known, desired := map[string]bool{}, 0
	for _, f := range nodes {
		known[f.node] = true
		desired += truth(f.run)
	}
	surge, unavailable := daemonLimits(d, desired)
	works := func(pod *corev1.Pod) bool {
		ok, _ := available(pod, d.Spec.MinReadySeconds, now)
		return ok
	}
	u := daemonUpdate{works: works, updated: updated}
	for _, f := range nodes {
		here := at[f.node]
		switch {
		case f.run && len(here) == 0:
			p.create = append(p.create, f.node)
			u.missing++
		case !f.stay:
			p.remove = append(p.remove, notGoing(here)...)
		default:
			live, extra := p.sift(here, updated, surge > 0, works)
			p.remove = append(p.remove, extra...)
			if f.run {
				u.look(live)
			}
		}
	}
	for node, here := range at {
		if node != "" && !known[node] {
			for _, pod := range notGoing(here) {
				if pod.Spec.NodeName == "" { // it waits for a node that is not there
					p.remove = append(p.remove, pod)
				}
			}
		}
	}
	if d.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		u.into(&p, surge, unavailable)
	}
	return p
}

// notGoing are the pods that are not on their way out.
func notGoing(pods []*corev1.Pod) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// sift tells the pods of a node that are to stay from those that are too many:
// more than one, or with surge more than one old and one new. Where both are
// there, the old one goes once it is not ready or the new one is available.
func (p *daemonPlan) sift(here []*corev1.Pod, updated func(*corev1.Pod) bool, surging bool, works func(*corev1.Pod) bool) (live, extra []*corev1.Pod) {
	var oldest, old, new *corev1.Pod
	for _, pod := range notGoing(here) {
		if core.PodFinished(pod) {
			p.ended = append(p.ended, pod)
			continue
		}
		slot := &oldest
		switch {
		case surging && updated(pod):
			slot = &new
		case surging:
			slot = &old
		}
		if *slot != nil {
			extra = append(extra, pod)
			continue
		}
		*slot = pod
	}
	if old != nil && new != nil && (!core.PodReady(old) || works(new)) {
		extra, old = append(extra, old), nil
	}
	for _, pod := range []*corev1.Pod{oldest, old, new} {
		if pod != nil {
			live = append(live, pod)
		}
	}
	return live, extra
}

// A daemonUpdate collects what an update may replace.
type daemonUpdate struct {
	works   func(*corev1.Pod) bool
	updated func(*corev1.Pod) bool
	missing int // nodes without an available pod
	surging int // nodes with two
	bad     []*corev1.Pod
	good    []*corev1.Pod
}

// look takes in a node that is to have a pod, with those that stay.
func (u *daemonUpdate) look(live []*corev1.Pod) {
	if len(live) == 0 {
		u.missing++
		return
	}
	pod := live[0]
	switch {
	case len(live) > 1:
		u.surging++
	case u.updated(pod):
		if !u.works(pod) {
			u.missing++
		}
	case u.works(pod):
		u.good = append(u.good, pod)
	default:
		u.missing++
		u.bad = append(u.bad, pod)
	}
}

// into adds to a plan what the limits allow. Old pods that are not available
// are replaced in any case.
func (u *daemonUpdate) into(p *daemonPlan, surge, unavailable int) {
	if surge == 0 {
		p.remove = append(p.remove, u.bad...)
		p.remove = append(p.remove, u.good[:min(max(unavailable-u.missing, 0), len(u.good))]...)
		return
	}
	next := append(u.bad, u.good[:min(max(surge-u.surging, 0), len(u.good))]...)
	for _, pod := range next {
		p.create = append(p.create, targetOf(pod))
	}
}

// daemonStatus is what nodes and pods amount to, and when that changes by
// itself. A node is up to date once it has no old pod.
func daemonStatus(r *daemonRun, now time.Time) (s appsv1.DaemonSetStatus, again time.Duration) {
	d := r.set
	s = appsv1.DaemonSetStatus{ObservedGeneration: d.Generation, CollisionCount: r.history.collisions, Conditions: d.Status.Conditions}
	at := onNodes(r.pods)
	for _, p := range r.pods {
		_, wait := available(p, d.Spec.MinReadySeconds, now)
		again = sooner(again, wait)
	}
	for _, f := range r.nodes {
		here := at[f.node]
		if !f.run {
			s.NumberMisscheduled += int32(truth(len(here) > 0))
			continue
		}
		s.DesiredNumberScheduled++
		if len(here) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		isReady, works := false, false
		for _, pod := range here {
			ok, _ := available(pod, d.Spec.MinReadySeconds, now)
			isReady, works = isReady || core.PodReady(pod), works || ok
		}
		s.NumberReady += int32(truth(isReady))
		s.NumberAvailable += int32(truth(works))
		live := notGoing(here)
		old := slices.ContainsFunc(live, func(p *corev1.Pod) bool { return !r.updated(p) })
		s.UpdatedNumberScheduled += int32(truth(len(live) > 0 && !old))
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s, again
}
