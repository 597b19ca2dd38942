package plugins

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	schedv1 "k8s.io/kube-scheduler/config/v1"

	"proa/internal/sched"
)

// NodeAffinity keeps a pod to the nodes that its nodeSelector and its required
// node affinity select, and prefers those that it prefers. A profile may add an
// affinity that all its pods have.
var NodeAffinity = &sched.Plugin{
	Name:      "NodeAffinity",
	Weight:    2,
	Wakes:     sched.NodeAdded | sched.NodeLabels,
	Helps:     selectsNode,
	Configure: configured(nodeAffinity, checkNodeAffinity),
	For:       nodeAffinity(&schedv1.NodeAffinityArgs{}),
}

func selectsNode(pod *sched.Pod, _ *sched.State, c *sched.Change) bool {
	if c.Node == nil {
		return true
	}
	ok, err := nodeaffinity.GetRequiredNodeAffinity(pod.Pod).Match(c.Node)
	return ok || err != nil
}

func checkNodeAffinity(a *schedv1.NodeAffinityArgs) (errs field.ErrorList) {
	if a.AddedAffinity == nil {
		return nil
	}
	at := field.NewPath("addedAffinity")
	if r := a.AddedAffinity.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		if _, err := nodeaffinity.NewNodeSelector(r); err != nil {
			errs = append(errs, field.Invalid(at.Child("requiredDuringSchedulingIgnoredDuringExecution"), r, err.Error()))
		}
	}
	if p := a.AddedAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(p) > 0 {
		if _, err := nodeaffinity.NewPreferredSchedulingTerms(p); err != nil {
			errs = append(errs, field.Invalid(at.Child("preferredDuringSchedulingIgnoredDuringExecution"), p, err.Error()))
		}
	}
	return errs
}

func nodeAffinity(args *schedv1.NodeAffinityArgs) sched.Look {
	var must *nodeaffinity.NodeSelector
	var likes *nodeaffinity.PreferredSchedulingTerms
	if a := args.AddedAffinity; a != nil {
		if r := a.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			must, _ = nodeaffinity.NewNodeSelector(r) // checked
		}
		if p := a.PreferredDuringSchedulingIgnoredDuringExecution; len(p) > 0 {
			likes, _ = nodeaffinity.NewPreferredSchedulingTerms(p)
		}
	}
	return func(pod *sched.Pod, _ *sched.State) *sched.Check { return affinityOf(pod, must, likes) }
}

func affinityOf(pod *sched.Pod, must *nodeaffinity.NodeSelector, likes *nodeaffinity.PreferredSchedulingTerms) *sched.Check {
	var affinity *corev1.NodeAffinity
	if a := pod.Spec.Affinity; a != nil {
		affinity = a.NodeAffinity
	}
	c := &sched.Check{}
	own := selects(pod)
	if own != nil || must != nil {
		c.Only = named(affinity)
		no := sched.Never("node(s) didn't match Pod's node affinity/selector")
		added := sched.Never("node(s) didn't match scheduler-enforced node affinity")
		c.Fits = func(n *sched.Node) sched.Verdict {
			if must != nil && !must.Match(n.Node) {
				return added
			}
			if own != nil && !own(n) {
				return no
			}
			return sched.Verdict{}
		}
	}
	if affinity != nil && len(affinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 || likes != nil {
		var terms *nodeaffinity.PreferredSchedulingTerms
		if affinity != nil {
			var err error
			if terms, err = nodeaffinity.NewPreferredSchedulingTerms(affinity.PreferredDuringSchedulingIgnoredDuringExecution); err != nil {
				c.Refused = err.Error()
				return c
			}
		}
		c.Score = func(n *sched.Node) (sum int64) {
			if terms != nil {
				sum += terms.Score(n.Node)
			}
			if likes != nil {
				sum += likes.Score(n.Node)
			}
			return sum
		}
		c.Normalize = sched.Stretch
	}
	if c.Fits == nil && c.Score == nil {
		return nil
	}
	return c
}

// selects returns whether the pod's nodeSelector and required affinity select a
// node; nil if it has neither.
func selects(pod *sched.Pod) func(*sched.Node) bool {
	a := pod.Spec.Affinity
	if len(pod.Spec.NodeSelector) == 0 && (a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil) {
		return nil
	}
	need := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	return func(n *sched.Node) bool {
		ok, err := need.Match(n.Node)
		return ok && err == nil
	}
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
