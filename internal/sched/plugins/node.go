package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/sched"
)

// NodeUnschedulable keeps pods off cordoned nodes, unless they tolerate it.
var NodeUnschedulable = &sched.Plugin{
	Name:  "NodeUnschedulable",
	Wakes: sched.NodeAdded | sched.NodeTaints,
	Helps: func(_ *sched.Pod, _ *sched.State, c *sched.Change) bool {
		return c.Node == nil || !c.Node.Spec.Unschedulable
	},
	For: func(pod *sched.Pod, _ *sched.State) *sched.Check {
		taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
		if tolerated(pod, &taint) {
			return nil
		}
		no := sched.Never("node(s) were unschedulable")
		return &sched.Check{Fits: func(n *sched.Node) sched.Verdict {
			if n.Spec.Unschedulable {
				return no
			}
			return sched.Verdict{}
		}}
	},
}

// NodeName keeps a pod that names its node to that node.
var NodeName = &sched.Plugin{
	Name:  "NodeName",
	Wakes: sched.NodeAdded,
	Helps: func(pod *sched.Pod, _ *sched.State, c *sched.Change) bool {
		return c.Node == nil || c.Node.Name == pod.Spec.NodeName
	},
	For: func(pod *sched.Pod, _ *sched.State) *sched.Check {
		if pod.Spec.NodeName == "" {
			return nil
		}
		no := sched.Never("node(s) didn't match the requested node name")
		return &sched.Check{Fits: func(n *sched.Node) sched.Verdict {
			if n.Name != pod.Spec.NodeName {
				return no
			}
			return sched.Verdict{}
		}}
	},
}

// NodePorts keeps two pods that want the same port of the host apart.
var NodePorts = &sched.Plugin{
	Name:  "NodePorts",
	Wakes: sched.NodeAdded | sched.PodGone,
	Helps: func(pod *sched.Pod, _ *sched.State, c *sched.Change) bool {
		return c.What&sched.PodGone == 0 || c.Pod == nil || clash(pod.Ports, c.Pod.Ports)
	},
	For: func(pod *sched.Pod, _ *sched.State) *sched.Check {
		if len(pod.Ports) == 0 {
			return nil
		}
		no := sched.No("node(s) didn't have free ports for the requested pod ports")
		return &sched.Check{Fits: func(n *sched.Node) sched.Verdict {
			if clash(pod.Ports, n.Ports) {
				return no
			}
			return sched.Verdict{}
		}}
	},
}

func clash(want, taken []sched.HostPort) bool {
	for _, w := range want {
		if slices.ContainsFunc(taken, w.Clash) {
			return true
		}
	}
	return false
}
