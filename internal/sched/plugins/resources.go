package plugins

import (
	"math"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/sched"
)

// NodeResourcesFit keeps pods off nodes that do not have what they ask for, and
// prefers nodes with more left.
var NodeResourcesFit = &sched.Plugin{
	Name:  "NodeResourcesFit",
	Wakes: sched.NodeAdded | sched.NodeResources | sched.PodGone,
	For: func(pod *sched.Pod, _ *sched.State) *sched.Check {
		r := pod.Req
		return &sched.Check{
			Fits: func(n *sched.Node) sched.Verdict {
				if n.Used.Pods+1 <= n.Alloc.Pods && fits(r.CPU, n.Used.CPU, n.Alloc.CPU) && fits(r.Memory, n.Used.Memory, n.Alloc.Memory) &&
					fits(r.Ephemeral, n.Used.Ephemeral, n.Alloc.Ephemeral) && len(r.Others) == 0 {
					return sched.Verdict{}
				}
				return short(&r, n)
			},
			Score: func(n *sched.Node) int64 {
				return (left(pod.Scored.CPU, n.Scored.CPU, n.Alloc.CPU) + left(pod.Scored.Memory, n.Scored.Memory, n.Alloc.Memory)) / 2
			},
		}
	},
}

func fits(ask, used, alloc int64) bool { return ask == 0 || ask <= alloc-used }

// short lists everything that a node has too little of.
func short(r *sched.Resources, n *sched.Node) (v sched.Verdict) {
	v.Final = true
	check := func(name corev1.ResourceName, ask, used, alloc int64) {
		if !fits(ask, used, alloc) {
			v.Whys = append(v.Whys, "Insufficient "+string(name))
			v.Final = v.Final && ask > alloc
		}
	}
	if n.Used.Pods+1 > n.Alloc.Pods {
		v.Whys = append(v.Whys, "Too many pods")
		v.Final = n.Alloc.Pods == 0
	}
	check(corev1.ResourceCPU, r.CPU, n.Used.CPU, n.Alloc.CPU)
	check(corev1.ResourceMemory, r.Memory, n.Used.Memory, n.Alloc.Memory)
	check(corev1.ResourceEphemeralStorage, r.Ephemeral, n.Used.Ephemeral, n.Alloc.Ephemeral)
	for name, ask := range r.Others {
		check(name, ask, n.Used.Others[name], n.Alloc.Others[name])
	}
	v.Final = v.Final && len(v.Whys) > 0
	return v
}

// left is which part of a node's resource is left with the pod on it, in hundredths.
func left(ask, used, alloc int64) int64 {
	if alloc == 0 || ask+used > alloc {
		return 0
	}
	return (alloc - used - ask) * 100 / alloc
}

// NodeResourcesBalancedAllocation prefers nodes whose CPU and memory would be
// used up at the same pace.
var NodeResourcesBalancedAllocation = &sched.Plugin{
	Name: "NodeResourcesBalancedAllocation",
	For: func(pod *sched.Pod, _ *sched.State) *sched.Check {
		if pod.Req.CPU == 0 && pod.Req.Memory == 0 {
			return nil
		}
		return &sched.Check{Score: func(n *sched.Node) int64 {
			cpu := part(pod.Req.CPU+n.Used.CPU, n.Alloc.CPU)
			memory := part(pod.Req.Memory+n.Used.Memory, n.Alloc.Memory)
			return int64((1 - math.Abs(cpu-memory)/2) * 100)
		}}
	},
}

func part(used, alloc int64) float64 {
	if alloc == 0 {
		return 1
	}
	return min(float64(used)/float64(alloc), 1)
}
