package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/sched"
)

// InterPodAffinity keeps pods near those they want to be with and away from
// those that they, or that themselves, do not want to be with.
var InterPodAffinity = &sched.Plugin{
	Name:   "InterPodAffinity",
	Weight: 2,
	Wakes:  sched.NodeAdded | sched.NodeLabels | sched.PodPlaced | sched.PodGone | sched.PodLabels | sched.Namespaces,
	For: func(pod *sched.Pod, s *sched.State) *sched.Check {
		a := &pairs{pod: pod, namespaces: s.NamespaceLabels}
		var spec corev1.Affinity
		if pod.Spec.Affinity != nil {
			spec = *pod.Spec.Affinity
		}
		if p := spec.PodAffinity; p != nil {
			a.near = a.terms(pod, p.RequiredDuringSchedulingIgnoredDuringExecution)
			a.preferred = append(a.preferred, a.weighted(pod, p.PreferredDuringSchedulingIgnoredDuringExecution, 1)...)
		}
		if p := spec.PodAntiAffinity; p != nil {
			a.apart = a.terms(pod, p.RequiredDuringSchedulingIgnoredDuringExecution)
			a.preferred = append(a.preferred, a.weighted(pod, p.PreferredDuringSchedulingIgnoredDuringExecution, -1)...)
		}
		if a.broken != "" {
			return &sched.Check{Refused: a.broken}
		}
		return a.check(s)
	},
}

// A term is a required or preferred term of a pod's affinity.
type term struct {
	key      string
	names    []string // of namespaces
	spaces   labels.Selector
	pods     labels.Selector
	weight   int64
	matchAll bool // every namespace
}

// A place is one domain: a value of a topology key.
type place struct{ key, value string }

type pairs struct {
	pod        *sched.Pod
	namespaces func(name string) map[string]string
	near       []term
	apart      []term
	preferred  []term
	broken     string

	nearAt  map[place]int   // pods that all of near match, in each domain
	apartAt map[place]int   // pods that apart matches
	keptAt  map[place]int   // pods whose own anti-affinity matches this pod
	scoreAt map[place]int64 // what preferences of both sides add up to
}

func (a *pairs) terms(owner *sched.Pod, in []corev1.PodAffinityTerm) (out []term) {
	for i := range in {
		t, err := newTerm(owner, &in[i])
		if err != nil {
			a.broken = err.Error()
			continue
		}
		out = append(out, t)
	}
	return out
}

func (a *pairs) weighted(owner *sched.Pod, in []corev1.WeightedPodAffinityTerm, sign int64) (out []term) {
	for i := range in {
		t, err := newTerm(owner, &in[i].PodAffinityTerm)
		if err != nil {
			continue
		}
		t.weight = sign * int64(in[i].Weight)
		out = append(out, t)
	}
	return out
}

func newTerm(owner *sched.Pod, in *corev1.PodAffinityTerm) (t term, err error) {
	t.key = in.TopologyKey
	if t.pods, err = metav1.LabelSelectorAsSelector(in.LabelSelector); err != nil {
		return t, err
	}
	add := func(keys []string, not bool) {
		for _, key := range keys {
			v, ok := owner.Labels[key]
			if !ok {
				continue
			}
			op := metav1.LabelSelectorOpIn
			if not {
				op = metav1.LabelSelectorOpNotIn
			}
			sel, e := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: op, Values: []string{v}}}})
			if e != nil {
				err = e
				return
			}
			reqs, _ := sel.Requirements()
			t.pods = t.pods.Add(reqs...)
		}
	}
	add(in.MatchLabelKeys, false)
	add(in.MismatchLabelKeys, true)
	if err != nil {
		return t, err
	}
	t.names = in.Namespaces
	if in.NamespaceSelector != nil {
		if t.spaces, err = metav1.LabelSelectorAsSelector(in.NamespaceSelector); err != nil {
			return t, err
		}
		t.matchAll = t.spaces.Empty()
	} else if len(t.names) == 0 {
		t.names = []string{owner.Namespace}
	}
	return t, nil
}

func (a *pairs) matches(t *term, p *sched.Pod) bool {
	if !t.matchAll && !slices.Contains(t.names, p.Namespace) && (t.spaces == nil || !t.spaces.Matches(labels.Set(a.namespaces(p.Namespace)))) {
		return false
	}
	return t.pods.Matches(labels.Set(p.Labels))
}

func (a *pairs) matchesAll(all []term, p *sched.Pod) bool {
	for i := range all {
		if !a.matches(&all[i], p) {
			return false
		}
	}
	return len(all) > 0
}

// count takes a pod on a node into the domains, or out of them.
func (a *pairs) count(p *sched.Pod, n *sched.Node, by int) {
	at := func(key string) (place, bool) {
		v, ok := n.Labels[key]
		return place{key, v}, ok
	}
	if a.matchesAll(a.near, p) {
		for i := range a.near {
			if d, ok := at(a.near[i].key); ok {
				a.nearAt[d] += by
			}
		}
	}
	for i := range a.apart {
		if d, ok := at(a.apart[i].key); ok && a.matches(&a.apart[i], p) {
			a.apartAt[d] += by
		}
	}
	for i := range a.preferred {
		if d, ok := at(a.preferred[i].key); ok && a.matches(&a.preferred[i], p) {
			a.scoreAt[d] += int64(by) * a.preferred[i].weight
		}
	}
	for _, t := range theirs(p) {
		d, ok := at(t.key)
		if !ok || !a.matches(&t.term, a.pod) {
			continue
		}
		if t.keeps {
			a.keptAt[d] += by
		} else {
			a.scoreAt[d] += int64(by) * t.weight
		}
	}
}

type theirTerm struct {
	term
	keeps bool // required anti-affinity
}

// hardWeight is what a pod's required affinity to another adds to the score of
// having the other near it.
const hardWeight = 1

// theirs are the terms of a pod that is already there which speak of new ones.
func theirs(p *sched.Pod) (out []theirTerm) {
	spec := p.Spec.Affinity
	if spec == nil {
		return nil
	}
	add := func(in *corev1.PodAffinityTerm, weight int64, keeps bool) {
		if t, err := newTerm(p, in); err == nil {
			t.weight = weight
			out = append(out, theirTerm{t, keeps})
		}
	}
	if a := spec.PodAntiAffinity; a != nil {
		for i := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&a.RequiredDuringSchedulingIgnoredDuringExecution[i], 0, true)
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&w.PodAffinityTerm, -int64(w.Weight), false)
		}
	}
	if a := spec.PodAffinity; a != nil {
		for i := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&a.RequiredDuringSchedulingIgnoredDuringExecution[i], hardWeight, false)
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&w.PodAffinityTerm, int64(w.Weight), false)
		}
	}
	return out
}

func (a *pairs) check(s *sched.State) *sched.Check {
	own := len(a.near)+len(a.apart)+len(a.preferred) > 0
	if !own && s.Affine() == 0 {
		return nil
	}
	a.nearAt, a.apartAt, a.keptAt, a.scoreAt = map[place]int{}, map[place]int{}, map[place]int{}, map[place]int64{}
	for _, n := range s.Nodes {
		if !own && n.Affine == 0 {
			continue
		}
		for _, p := range n.Pods {
			if own || p.Spec.Affinity != nil {
				a.count(p, n, 1)
			}
		}
	}
	if !own && len(a.keptAt) == 0 && len(a.scoreAt) == 0 {
		return nil
	}
	first := a.matchesAll(a.near, a.pod) // the first of a group that wants to be together may go anywhere
	affinity := sched.Never("node(s) didn't match pod affinity rules")
	anti := sched.No("node(s) didn't match pod anti-affinity rules")
	kept := sched.No("node(s) didn't satisfy existing pods anti-affinity rules")
	c := &sched.Check{
		Fits: func(n *sched.Node) sched.Verdict {
			if !a.isNear(n, first) {
				return affinity
			}
			for i := range a.apart {
				if v, ok := n.Labels[a.apart[i].key]; ok && a.apartAt[place{a.apart[i].key, v}] > 0 {
					return anti
				}
			}
			for d, count := range a.keptAt {
				if v, ok := n.Labels[d.key]; count > 0 && ok && v == d.value {
					return kept
				}
			}
			return sched.Verdict{}
		},
		With:    func(p *sched.Pod, n *sched.Node) { a.count(p, n, 1) },
		Without: func(p *sched.Pod, n *sched.Node) { a.count(p, n, -1) },
	}
	if len(a.scoreAt) > 0 {
		c.Score = func(n *sched.Node) (sum int64) {
			for d, v := range a.scoreAt {
				if n.Labels[d.key] == d.value {
					sum += v
				}
			}
			return sum
		}
		c.Normalize = spreadOut
	}
	return c
}

func (a *pairs) isNear(n *sched.Node, first bool) bool {
	all := true
	for i := range a.near {
		v, ok := n.Labels[a.near[i].key]
		if !ok {
			return false
		}
		all = all && a.nearAt[place{a.near[i].key, v}] > 0
	}
	if all {
		return true
	}
	for _, count := range a.nearAt {
		if count > 0 {
			return false
		}
	}
	return first
}

// spreadOut maps scores of either sign to 0 to 100.
func spreadOut(scores []int64) {
	least, most := slices.Min(scores), slices.Max(scores)
	for i, v := range scores {
		scores[i] = 0
		if most > least {
			scores[i] = 100 * (v - least) / (most - least)
		}
	}
}
