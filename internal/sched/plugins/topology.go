package plugins

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"proa/internal/sched"
)

// PodTopologySpread spreads pods over zones, hosts or other parts of the
// cluster as spec.topologySpreadConstraints asks.
var PodTopologySpread = &sched.Plugin{
	Name:   "PodTopologySpread",
	Weight: 2,
	Wakes:  sched.NodeAdded | sched.NodeLabels | sched.NodeTaints | sched.PodPlaced | sched.PodGone | sched.PodLabels,
	For: func(pod *sched.Pod, s *sched.State) *sched.Check {
		if len(pod.Spec.TopologySpreadConstraints) == 0 {
			return nil
		}
		var hard, soft []*constraint
		for i := range pod.Spec.TopologySpreadConstraints {
			k, err := newConstraint(pod, &pod.Spec.TopologySpreadConstraints[i])
			if err != nil {
				return &sched.Check{Refused: err.Error()}
			}
			if k.WhenUnsatisfiable == corev1.DoNotSchedule {
				hard = append(hard, k)
			} else {
				soft = append(soft, k)
			}
		}
		c := &sched.Check{}
		if len(hard) > 0 {
			spreadHard(c, pod, s, hard)
		}
		if len(soft) > 0 {
			spreadSoft(c, pod, s, soft)
		}
		return c
	},
}

// A constraint is a topology spread constraint, with the matching pods counted
// in each domain: each value of the topology key.
type constraint struct {
	*corev1.TopologySpreadConstraint
	pods    labels.Selector
	self    int // whether the pod counts itself
	nodes   nodeaffinity.RequiredNodeAffinity
	domains map[string]int
	least   int
}

func newConstraint(pod *sched.Pod, t *corev1.TopologySpreadConstraint) (*constraint, error) {
	sel, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return nil, err
	}
	for _, key := range t.MatchLabelKeys {
		if v, ok := pod.Labels[key]; ok {
			r, err := labels.NewRequirement(key, "=", []string{v})
			if err != nil {
				return nil, err
			}
			sel = sel.Add(*r)
		}
	}
	k := &constraint{TopologySpreadConstraint: t, pods: sel, nodes: nodeaffinity.GetRequiredNodeAffinity(pod.Pod), domains: map[string]int{}}
	if sel.Matches(labels.Set(pod.Labels)) {
		k.self = 1
	}
	return k, nil
}

// counts says whether a node's domain and pods are part of the spreading.
func (k *constraint) counts(pod *sched.Pod, n *sched.Node) bool {
	if p := k.NodeAffinityPolicy; p == nil || *p == corev1.NodeInclusionPolicyHonor {
		if ok, err := k.nodes.Match(n.Node); !ok || err != nil {
			return false
		}
	}
	if p := k.NodeTaintsPolicy; p != nil && *p == corev1.NodeInclusionPolicyHonor {
		for i := range n.Spec.Taints {
			if t := &n.Spec.Taints[i]; t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerated(pod.Spec.Tolerations, t) {
				return false
			}
		}
	}
	return true
}

// fill counts matching pods over the nodes that have all the keys.
func fill(pod *sched.Pod, s *sched.State, all []*constraint) {
	for _, n := range s.Nodes {
		if !hasKeys(n, all) {
			continue
		}
		for _, k := range all {
			if k.counts(pod, n) {
				k.domains[n.Labels[k.TopologyKey]] += matching(pod.Namespace, k.pods, n)
			}
		}
	}
	for _, k := range all {
		k.least = math.MaxInt
		for _, n := range k.domains {
			k.least = min(k.least, n)
		}
		if k.MinDomains != nil && len(k.domains) < int(*k.MinDomains) {
			k.least = 0
		}
	}
}

func hasKeys(n *sched.Node, all []*constraint) bool {
	for _, k := range all {
		if _, ok := n.Labels[k.TopologyKey]; !ok {
			return false
		}
	}
	return true
}

// matching counts a node's pods of a namespace that are selected and not on their way out.
func matching(namespace string, sel labels.Selector, n *sched.Node) (count int) {
	if sel.Empty() {
		return 0
	}
	for _, p := range n.Pods {
		if p.Namespace == namespace && p.DeletionTimestamp == nil && sel.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	return count
}

func spreadHard(c *sched.Check, pod *sched.Pod, s *sched.State, hard []*constraint) {
	fill(pod, s, hard)
	missing := sched.Never("node(s) didn't match pod topology spread constraints (missing required label)")
	no := sched.No("node(s) didn't match pod topology spread constraints")
	c.Fits = func(n *sched.Node) sched.Verdict {
		for _, k := range hard {
			value, ok := n.Labels[k.TopologyKey]
			if !ok {
				return missing
			}
			least := k.least
			if least == math.MaxInt {
				least = 0
			}
			if k.domains[value]+k.self-least > int(k.MaxSkew) {
				return no
			}
		}
		return sched.Verdict{}
	}
	change := func(p *sched.Pod, n *sched.Node, by int) {
		for _, k := range hard {
			if p.Namespace == pod.Namespace && k.pods.Matches(labels.Set(p.Labels)) && hasKeys(n, hard) && k.counts(pod, n) {
				k.domains[n.Labels[k.TopologyKey]] += by
				k.least = math.MaxInt
				for _, count := range k.domains {
					k.least = min(k.least, count)
				}
			}
		}
	}
	c.With = func(p *sched.Pod, n *sched.Node) { change(p, n, 1) }
	c.Without = func(p *sched.Pod, n *sched.Node) { change(p, n, -1) }
}

func spreadSoft(c *sched.Check, pod *sched.Pod, s *sched.State, soft []*constraint) {
	fill(pod, s, soft)
	const unlabelled = -1
	c.Score = func(n *sched.Node) int64 {
		sum := 0.0
		for _, k := range soft {
			value, ok := n.Labels[k.TopologyKey]
			if !ok {
				return unlabelled
			}
			sum += float64(k.domains[value])*math.Log(float64(len(k.domains)+2)) + float64(k.MaxSkew-1)
		}
		return int64(math.Round(sum))
	}
	c.Normalize = func(scores []int64) {
		least, most := int64(math.MaxInt64), int64(0)
		for _, v := range scores {
			if v != unlabelled {
				least, most = min(least, v), max(most, v)
			}
		}
		for i, v := range scores {
			switch {
			case v == unlabelled:
				scores[i] = 0
			case most == 0:
				scores[i] = 100
			default:
				scores[i] = 100 * (most + least - v) / most
			}
		}
	}
}
