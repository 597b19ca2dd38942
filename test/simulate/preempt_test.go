package simulate

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/kinds/core"
)

// A hope is a pod that has no node, or had none lately.
type hope struct {
	pod       *corev1.Pod // as it was last seen without
	since, at time.Time   // when it was first and last seen so
	nodes     map[string]bool
}

// slow is how long a pod may wait for a node that it need only ask for.
const slow = 6 * time.Minute

// waiting looks at the pods that have no node, and at what those that have one say of that.
func (r *rules) waiting(pods []*corev1.Pod) {
	now := time.Now()
	if r.w.mood != (mood{}) {
		r.rough = now
	}
	for _, p := range pods {
		if n := p.Status.NominatedNodeName; p.Spec.NodeName != "" && n != "" {
			r.broken("%s is on %s, and still to come to %s", p.Name, p.Spec.NodeName, n)
		}
		if p.Spec.NodeName != "" || p.DeletionTimestamp != nil || over(p) {
			continue
		}
		h := r.hopes[p.UID]
		if h == nil {
			h = &hope{since: now, nodes: map[string]bool{}}
			r.hopes[p.UID] = h
		}
		h.pod, h.at = p, now
		if n := p.Status.NominatedNodeName; n != "" {
			h.nodes[n] = true
		}
		if now.Sub(h.since) > slow && now.Sub(r.rough) > slow && priority(p) >= 0 && !never(p) && !bySelf(p) {
			if n := r.room(p, pods); n > 2 {
				r.broken("%s has waited since %s, and on %d nodes is room for it, or would be if the less important left: %+v",
					p.Name, h.since.Format(time.TimeOnly), n, p.Status)
			}
		}
	}
	maps.DeleteFunc(r.hopes, func(_ types.UID, h *hope) bool { return now.Sub(h.at) > stale })
}

// priority is how important a pod is.
func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// never says whether a pod has nobody leave for it.
func never(p *corev1.Pod) bool {
	return p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == corev1.PreemptNever
}

// bySelf says whether a pod is for one node only.
func bySelf(p *corev1.Pod) bool {
	ref := metav1.GetControllerOf(p)
	return ref != nil && ref.Kind == "DaemonSet"
}

// preempted checks that a pod that the scheduler told to leave leaves for somebody who is more
// important, may ask for that, and is to come to that node.
func (r *rules) preempted(was *corev1.Pod) {
	if was.DeletionTimestamp == nil {
		r.w.count("pods preempted")
	}
	told := time.Since(r.rough) > stale // else nobody may have heard of it
	for _, h := range r.hopes {
		if priority(h.pod) > priority(was) && !never(h.pod) && (!told || h.nodes[was.Spec.NodeName]) {
			return
		}
	}
	r.broken("%s, of priority %d, leaves for nobody", was.Name, priority(was))
}

// room counts the nodes that are well and have room for a pod, or would have if those left
// that leave for it.
func (r *rules) room(p *corev1.Pod, pods []*corev1.Pod) (n int) {
	ask := asks(p)
	used := map[string]int64{}
	for _, o := range pods {
		at := o.Spec.NodeName
		if at == "" {
			at = o.Status.NominatedNodeName
		}
		if at != "" && o.UID != p.UID && !over(o) && (never(p) || priority(o) >= priority(p)) {
			used[at] += asks(o)
		}
	}
	well := map[string]bool{}
	for _, m := range r.w.nodes {
		well[m.name] = m.agent != nil && !m.healthy.IsZero() && time.Since(m.healthy) > slow
	}
	for _, o := range list(r.w, core.Node, "") {
		if well[o.Name] && core.NodeReady(o) && len(o.Spec.Taints) == 0 && !o.Spec.Unschedulable && used[o.Name]+ask <= 4000 {
			n++
		}
	}
	return n
}

// asks is how much of a processor a pod asks for.
func asks(p *corev1.Pod) (milli int64) {
	for i := range p.Spec.Containers {
		milli += p.Spec.Containers[i].Resources.Requests.Cpu().MilliValue()
	}
	return milli
}
