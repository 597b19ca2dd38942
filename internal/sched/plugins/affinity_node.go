package plugins

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"proa/internal/sched"
)

// NodeAffinity keeps a pod to the nodes that its nodeSelector and its required
// node affinity select, and prefers those that it prefers.
var NodeAffinity = &sched.Plugin{
	Name:   "NodeAffinity",
	Weight: 2,
	Wakes:  sched.NodeAdded | sched.NodeLabels,
	For: func(pod *sched.Pod, _ *sched.State) *sched.Check {
		var affinity *corev1.NodeAffinity
		if a := pod.Spec.Affinity; a != nil {
			affinity = a.NodeAffinity
		}
		c := &sched.Check{}
		if len(pod.Spec.NodeSelector) > 0 || affinity != nil && affinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			c.Only = named(affinity)
			need := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
			no := sched.Never("node(s) didn't match Pod's node affinity/selector")
			c.Fits = func(n *sched.Node) sched.Verdict {
				if ok, err := need.Match(n.Node); !ok || err != nil {
					return no
				}
				return sched.Verdict{}
			}
		}
		if affinity != nil && len(affinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
			terms, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.PreferredDuringSchedulingIgnoredDuringExecution)
			if err != nil {
				c.Refused = err.Error()
				return c
			}
			c.Score = func(n *sched.Node) int64 { return terms.Score(n.Node) }
			c.Normalize = sched.Stretch
		}
		if c.Fits == nil && c.Score == nil {
			return nil
		}
		return c
	},
}

// named returns the only nodes that the affinity can match, if every term names
// its nodes: what daemon sets write. Nil means that it does not.
func named(a *corev1.NodeAffinity) (names []string) {
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	seen := map[string]bool{}
	names = []string{}
	for _, term := range a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		var mine []string
		for _, f := range term.MatchFields {
			if f.Key == "metadata.name" && f.Operator == corev1.NodeSelectorOpIn {
				mine = f.Values
			}
		}
		if mine == nil {
			return nil
		}
		for _, name := range mine {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names
}
