package plugins

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedv1 "k8s.io/kube-scheduler/config/v1"

	"proa/internal/sched"
)

// PodTopologySpread spreads pods over zones, hosts or other parts of the
// cluster as spec.topologySpreadConstraints asks; without, those that belong to
// a service or a controller as the defaults say.
var PodTopologySpread = &sched.Plugin{
	Name:      "PodTopologySpread",
	Weight:    2,
	Wakes:     sched.NodeAdded | sched.NodeRemoved | sched.NodeLabels | sched.NodeTaints | sched.PodPlaced | sched.PodGone | sched.PodLeaves | sched.PodLabels,
	Helps:     evensOut,
	Configure: configured(spread, checkSpread),
	For:       spread(&schedv1.PodTopologySpreadArgs{}),
}

// systemSpread are the constraints of pods that have none and belong together.
var systemSpread = []corev1.TopologySpreadConstraint{
	{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
	{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
}

func checkSpread(a *schedv1.PodTopologySpreadArgs) (errs field.ErrorList) {
	at := field.NewPath("defaultConstraints")
	switch a.DefaultingType {
	case "", schedv1.SystemDefaulting:
		if a.DefaultingType == "" && len(a.DefaultConstraints) > 0 {
			break // a list says that it is one
		}
		if len(a.DefaultConstraints) > 0 {
			errs = append(errs, field.Invalid(at, len(a.DefaultConstraints), "must be empty when defaultingType is System; use List"))
		}
	case schedv1.ListDefaulting:
	default:
		errs = append(errs, field.NotSupported(field.NewPath("defaultingType"), a.DefaultingType,
			[]schedv1.PodTopologySpreadConstraintsDefaulting{schedv1.SystemDefaulting, schedv1.ListDefaulting}))
	}
	seen := map[string]bool{}
	for i, c := range a.DefaultConstraints {
		at := at.Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "must be more than 0"))
		}
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "the label of nodes to spread over"))
		}
		if c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway {
			errs = append(errs, field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable,
				[]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		if c.LabelSelector != nil {
			errs = append(errs, field.Forbidden(at.Child("labelSelector"), "it is that of the pod's services and controller"))
		}
		if len(c.MatchLabelKeys) > 0 {
			errs = append(errs, field.Forbidden(at.Child("matchLabelKeys"), "the selector is that of the pod's services and controller"))
		}
		if id := c.TopologyKey + " " + string(c.WhenUnsatisfiable); seen[id] {
			errs = append(errs, field.Duplicate(at, id))
		} else {
			seen[id] = true
		}
	}
	return errs
}

func spread(args *schedv1.PodTopologySpreadArgs) sched.Look {
	defaults, system := args.DefaultConstraints, args.DefaultingType != schedv1.ListDefaulting && len(args.DefaultConstraints) == 0
	if system {
		defaults = systemSpread
	}
	return func(pod *sched.Pod, s *sched.State) *sched.Check {
		all, strict := pod.Spec.TopologySpreadConstraints, true
		var sel labels.Selector
		if len(all) == 0 && len(defaults) > 0 {
			if sel = s.Select.Of(pod); sel == nil {
				return nil
			}
			all, strict = defaults, !system
		}
		if len(all) == 0 {
			return nil
		}
		return spreadOver(pod, s, all, sel, strict)
	}
}

// evensOut: a pod that comes or goes matters if it is in a constraint's
// namespace and one of those that are counted.
func evensOut(pod *sched.Pod, s *sched.State, c *sched.Change) bool {
	all := pod.Spec.TopologySpreadConstraints
	if c.Pod != nil && len(all) > 0 {
		for _, o := range []*sched.Pod{c.Pod, c.Was} {
			if o == nil || o.Namespace != pod.Namespace {
				continue
			}
			for i := range all {
				if sel, err := spreadSelector(pod, &all[i]); err != nil || sel.Matches(labels.Set(o.Labels)) {
					return true
				}
			}
		}
		return false
	}
	if c.Node == nil {
		return true
	}
	for i := range all {
		if _, ok := c.Node.Labels[all[i].TopologyKey]; !ok && c.What&sched.NodeAdded != 0 {
			return false // it takes no part
		}
	}
	return true
}

func spreadSelector(pod *sched.Pod, t *corev1.TopologySpreadConstraint) (labels.Selector, error) {
	sel, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return nil, err
	}
	return sched.WithKeys(sel, pod.Pod, t.MatchLabelKeys, selection.In)
}

// A constraint is a topology spread constraint, with the matching pods counted
// in each domain: each value of the topology key.
type constraint struct {
	*corev1.TopologySpreadConstraint
	pods     labels.Selector
	self     int // whether the pod counts itself
	of       []int32
	part     []bool // by node: it and its pods are part of the spreading
	counts   []int
	eligible []int // nodes of each domain that are part
	domains  int   // that have such nodes
	least    int
	weight   float64
}

func spreadOver(pod *sched.Pod, s *sched.State, all []corev1.TopologySpreadConstraint, sel labels.Selector, strict bool) *sched.Check {
	var hard, soft []*constraint
	for i := range all {
		k := &constraint{TopologySpreadConstraint: &all[i], pods: sel}
		if sel == nil {
			var err error
			if k.pods, err = spreadSelector(pod, &all[i]); err != nil {
				return &sched.Check{Refused: err.Error()}
			}
		}
		if k.pods.Matches(labels.Set(pod.Labels)) {
			k.self = 1
		}
		if k.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, k)
		} else {
			soft = append(soft, k)
		}
	}
	c := &sched.Check{}
	sets := [][]*constraint{}
	if len(hard) > 0 {
		fill(pod, s, hard, true)
		sets = append(sets, hard)
		c.Fits = spreadHard(hard)
	}
	if len(soft) > 0 {
		ready := false
		count := func() { // a pod that only one node takes needs no score
			if !ready {
				ready = true
				fill(pod, s, soft, strict)
				sets = append(sets, soft)
			}
		}
		c.Score, c.Normalize = spreadSoft(soft, count, strict)
	}
	change := func(p *sched.Pod, n *sched.Node, by int) {
		if p.Namespace != pod.Namespace || p.DeletionTimestamp != nil || n.Index < 0 {
			return
		}
		for _, set := range sets {
			for _, k := range set {
				if k.pods.Matches(labels.Set(p.Labels)) {
					k.add(n, by)
				}
			}
		}
	}
	c.With = func(p *sched.Pod, n *sched.Node) { change(p, n, 1) }
	c.Without = func(p *sched.Pod, n *sched.Node) { change(p, n, -1) }
	return c
}

// add counts pods on a node in.
func (k *constraint) add(n *sched.Node, by int) {
	if !k.part[n.Index] {
		return
	}
	d := k.of[n.Index]
	was := k.counts[d]
	k.counts[d] += by
	if by < 0 || was == k.least {
		k.findLeast()
	}
}

// findLeast finds how many pods are in the domain with the fewest.
func (k *constraint) findLeast() {
	k.least = math.MaxInt
	for d, n := range k.counts {
		if k.eligible[d] > 0 {
			k.least = min(k.least, n)
		}
	}
	if k.least == math.MaxInt || k.MinDomains != nil && k.domains < int(*k.MinDomains) {
		k.least = 0
	}
}

// fill counts matching pods over the nodes that are part of the spreading: with
// strict only nodes that have all the keys.
func fill(pod *sched.Pod, s *sched.State, all []*constraint, strict bool) {
	for _, k := range all {
		d := s.Domains(k.TopologyKey)
		k.of, k.counts, k.eligible, k.part = d.Of, make([]int, d.Count), make([]int, d.Count), make([]bool, len(s.Nodes))
	}
	groups := s.Groups(pod.Namespace)
	for _, k := range all {
		honors := k.honors(pod)
	nodes:
		for i, n := range s.Nodes {
			if k.of[i] < 0 || honors != nil && !honors(n) {
				continue
			}
			for _, o := range all {
				if strict && o.of[i] < 0 {
					continue nodes
				}
			}
			k.part[i] = true
			if k.eligible[k.of[i]]++; k.eligible[k.of[i]] == 1 {
				k.domains++
			}
		}
		for _, g := range groups {
			if g.Leaving || !k.pods.Matches(g.Labels) {
				continue
			}
			for n, count := range g.On {
				if n.Index >= 0 && k.part[n.Index] {
					k.counts[k.of[n.Index]] += count
				}
			}
		}
		k.findLeast()
		k.weight = math.Log(float64(k.domains + 2))
	}
}

// honors returns whether a node is part of the spreading by the policies about
// affinity and taints; nil if every node is.
func (k *constraint) honors(pod *sched.Pod) func(*sched.Node) bool {
	var affinity func(*sched.Node) bool
	if p := k.NodeAffinityPolicy; p == nil || *p == corev1.NodeInclusionPolicyHonor {
		affinity = selects(pod)
	}
	if p := k.NodeTaintsPolicy; p == nil || *p != corev1.NodeInclusionPolicyHonor {
		return affinity
	}
	return func(n *sched.Node) bool {
		return (affinity == nil || affinity(n)) && !repels(pod, n)
	}
}

func spreadHard(hard []*constraint) func(*sched.Node) sched.Verdict {
	missing := sched.Never("node(s) didn't match pod topology spread constraints (missing required label)")
	no := sched.No("node(s) didn't match pod topology spread constraints")
	return func(n *sched.Node) sched.Verdict {
		for _, k := range hard {
			d := k.of[n.Index]
			if d < 0 {
				return missing
			}
			if k.counts[d]+k.self-k.least > int(k.MaxSkew) {
				return no
			}
		}
		return sched.Verdict{}
	}
}

// unlabelled is the score of a node that takes no part.
const unlabelled = -1

func spreadSoft(soft []*constraint, count func(), strict bool) (func(*sched.Node) int64, func([]int64)) {
	score := func(n *sched.Node) int64 {
		count()
		sum := 0.0
		for _, k := range soft {
			d := k.of[n.Index]
			if d < 0 {
				if strict {
					return unlabelled
				}
				continue
			}
			sum += float64(k.counts[d])*k.weight + float64(k.MaxSkew-1)
		}
		return int64(math.Round(sum))
	}
	return score, func(scores []int64) {
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
