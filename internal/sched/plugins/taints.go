package plugins

import (
	corev1 "k8s.io/api/core/v1"
	schedhelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"proa/internal/sched"
)

// TaintToleration keeps pods off nodes with taints that they do not tolerate,
// and prefers nodes with fewer such taints of the effect PreferNoSchedule.
var TaintToleration = &sched.Plugin{
	Name:   "TaintToleration",
	Weight: 3,
	Wakes:  sched.NodeAdded | sched.NodeTaints,
	Helps: func(pod *sched.Pod, _ *sched.State, c *sched.Change) bool {
		return c.Node == nil || !repels(pod, &sched.Node{Node: c.Node})
	},
	For: func(pod *sched.Pod, _ *sched.State) *sched.Check {
		no := sched.Never("node(s) had untolerated taint(s)")
		return &sched.Check{
			Fits: func(n *sched.Node) sched.Verdict {
				if repels(pod, n) {
					return no
				}
				return sched.Verdict{}
			},
			Score: func(n *sched.Node) (bad int64) {
				for i := range n.Spec.Taints {
					t := &n.Spec.Taints[i]
					if t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerated(pod, t) {
						bad++
					}
				}
				return bad
			},
			Normalize: sched.Reverse,
		}
	},
}

// repels says whether a node has a taint that keeps the pod off.
func repels(pod *sched.Pod, n *sched.Node) bool {
	for i := range n.Spec.Taints {
		if t := &n.Spec.Taints[i]; t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerated(pod, t) {
			return true
		}
	}
	return false
}

func tolerated(pod *sched.Pod, t *corev1.Taint) bool {
	return schedhelpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, t, true)
}
