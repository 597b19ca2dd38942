package plugins

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedv1 "k8s.io/kube-scheduler/config/v1"

	"proa/internal/sched"
)

// InterPodAffinity keeps pods near those they want to be with and away from
// those that they, or that themselves, do not want to be with.
var InterPodAffinity = &sched.Plugin{
	Name:      "InterPodAffinity",
	Weight:    2,
	Wakes:     sched.NodeAdded | sched.NodeLabels | sched.PodPlaced | sched.PodGone | sched.PodLabels | sched.Namespaces,
	Helps:     bringsTogether,
	Matters:   speaksOf,
	Configure: configured(podAffinity, checkPodAffinity),
	For:       podAffinity(&schedv1.InterPodAffinityArgs{}),
}

func checkPodAffinity(a *schedv1.InterPodAffinityArgs) (errs field.ErrorList) {
	if w := a.HardPodAffinityWeight; w != nil && (*w < 0 || *w > 100) {
		errs = append(errs, field.Invalid(field.NewPath("hardPodAffinityWeight"), *w, "must be from 0 to 100"))
	}
	return errs
}

func podAffinity(args *schedv1.InterPodAffinityArgs) sched.Look {
	hard := int64(1)
	if args.HardPodAffinityWeight != nil {
		hard = int64(*args.HardPodAffinityWeight)
	}
	return func(pod *sched.Pod, s *sched.State) *sched.Check {
		a := &pairs{pod: pod, own: pod.Terms(), s: s, hard: hard, deaf: args.IgnorePreferredTermsOfExistingPods}
		if a.own.Broken != "" {
			return &sched.Check{Refused: a.own.Broken}
		}
		return a.check()
	}
}

// speaksOf says whether a pod that comes has anything to say about the other.
func speaksOf(pod *sched.Pod, s *sched.State, o *sched.Pod) bool {
	t := o.Terms()
	if t.Empty() {
		return false
	}
	says := func(all []sched.Term) bool {
		return slices.ContainsFunc(all, func(t sched.Term) bool { return t.Matches(s, pod.Namespace, pod.Labels) })
	}
	return says(t.Near) || says(t.Apart) || says(t.Prefer)
}

// bringsTogether: a pod that comes helps if affinity selects it; one that goes
// if it was in the way; one whose labels changed if any of this did.
func bringsTogether(pod *sched.Pod, s *sched.State, c *sched.Change) bool {
	if c.Pod == nil {
		return true
	}
	t := pod.Terms()
	concerns := func(o *sched.Pod) bool {
		any := func(all []sched.Term) bool {
			return slices.ContainsFunc(all, func(t sched.Term) bool { return t.Matches(s, o.Namespace, o.Labels) })
		}
		if any(t.Near) {
			return true
		}
		return c.What&(sched.PodGone|sched.PodLabels) != 0 && (any(t.Apart) || speaksOf(pod, s, o))
	}
	return concerns(c.Pod) || c.Was != nil && concerns(c.Was)
}

// A pairs knows, for one kind of pod, how many pods in each domain matter to it.
type pairs struct {
	pod  *sched.Pod
	own  *sched.Terms
	s    *sched.State
	hard int64 // what the required affinity of others to the pod adds to the score
	deaf bool  // to what others prefer

	near   []*tally // pods that all near terms select, by each term's key
	met    int      // how many such pods there are at all
	apart  []*tally // pods that each term of anti-affinity selects
	kept   []*tally // pods whose own anti-affinity selects this pod
	score  []*tally // what preferences of both sides add up to
	effect *effect  // of the pods that were counted last
	like   string   // which group they were of
	first  bool     // the first of a group that wants to be together may go anywhere
}

// A tally counts in every domain of a topology key.
type tally struct {
	key string
	of  []int32
	at  []int64
}

// An effect is what a pod does to the tallies: it depends on what is in its group.
type effect struct {
	met  int
	adds []add
}

type add struct {
	to *tally
	by int64
}

func (a *pairs) tally(in *[]*tally, key string) *tally {
	for _, t := range *in {
		if t.key == key {
			return t
		}
	}
	t := a.newTally(key)
	*in = append(*in, t)
	return t
}

func (a *pairs) newTally(key string) *tally {
	d := a.s.Domains(key)
	return &tally{key, d.Of, make([]int64, d.Count)}
}

// effectOf works out what pods with these labels and terms do.
func (a *pairs) effectOf(namespace string, l labels.Set, theirs *sched.Terms) *effect {
	e := &effect{}
	if sched.MatchesAll(a.own.Near, a.s, namespace, l) {
		e.met = 1
		for i := range a.near {
			e.adds = append(e.adds, add{a.near[i], 1})
		}
	}
	for i := range a.own.Apart {
		if t := &a.own.Apart[i]; t.Matches(a.s, namespace, l) {
			e.adds = append(e.adds, add{a.tally(&a.apart, t.Key), 1})
		}
	}
	for i := range a.own.Prefer {
		if t := &a.own.Prefer[i]; t.Matches(a.s, namespace, l) {
			e.adds = append(e.adds, add{a.tally(&a.score, t.Key), t.Weight})
		}
	}
	says := func(t *sched.Term, in *[]*tally, by int64) {
		if by != 0 && t.Matches(a.s, a.pod.Namespace, a.pod.Labels) {
			e.adds = append(e.adds, add{a.tally(in, t.Key), by})
		}
	}
	for i := range theirs.Apart {
		says(&theirs.Apart[i], &a.kept, 1)
	}
	for i := range theirs.Near {
		says(&theirs.Near[i], &a.score, a.hard)
	}
	for i := range theirs.Prefer {
		if !a.deaf {
			says(&theirs.Prefer[i], &a.score, theirs.Prefer[i].Weight)
		}
	}
	return e
}

func (a *pairs) apply(e *effect, n *sched.Node, by int) {
	if n.Index < 0 {
		return
	}
	a.met += by * e.met
	for _, add := range e.adds {
		if d := add.to.of[n.Index]; d >= 0 {
			add.to.at[d] += int64(by) * add.by
		}
	}
}

// count takes a pod on a node into the domains, or out of them.
func (a *pairs) count(p *sched.Pod, n *sched.Node, by int) {
	terms := p.Terms()
	if terms.Empty() && a.own.Empty() {
		return
	}
	if key := p.Group(); a.effect == nil || a.like != key {
		a.effect, a.like = a.effectOf(p.Namespace, p.Labels, terms), key
	}
	a.apply(a.effect, n, by)
}

func (a *pairs) check() *sched.Check {
	for i := range a.own.Near {
		a.near = append(a.near, a.newTally(a.own.Near[i].Key))
	}
	seen := map[*sched.Group]bool{}
	found := false
	take := func(g *sched.Group) {
		if seen[g] {
			return
		}
		seen[g] = true
		e := a.effectOf(g.Namespace, g.Labels, g.Terms)
		if len(e.adds) == 0 && e.met == 0 {
			return
		}
		found = true
		for n, count := range g.On {
			a.apply(e, n, count)
		}
	}
	for _, all := range [][]sched.Term{a.own.Near, a.own.Apart, a.own.Prefer} {
		for i := range all {
			for _, g := range a.s.GroupsFor(&all[i]) {
				take(g)
			}
		}
	}
	for g := range a.s.Affine() {
		take(g)
	}
	if !found && a.own.Empty() && !a.s.Expected(func(o *sched.Pod) bool { return speaksOf(a.pod, a.s, o) }) {
		return nil
	}
	a.first = sched.MatchesAll(a.own.Near, a.s, a.pod.Namespace, a.pod.Labels)
	c := &sched.Check{
		Fits:    a.fits(),
		With:    func(p *sched.Pod, n *sched.Node) { a.count(p, n, 1) },
		Without: func(p *sched.Pod, n *sched.Node) { a.count(p, n, -1) },
	}
	if len(a.score) > 0 || len(a.own.Prefer) > 0 || !a.deaf || a.hard != 0 {
		c.Score = func(n *sched.Node) (sum int64) {
			for _, t := range a.score {
				if d := t.of[n.Index]; d >= 0 {
					sum += t.at[d]
				}
			}
			return sum
		}
		c.Normalize = spreadOut
	}
	return c
}

func (a *pairs) fits() func(*sched.Node) sched.Verdict {
	affinity := sched.Never("node(s) didn't match pod affinity rules")
	anti := sched.No("node(s) didn't match pod anti-affinity rules")
	kept := sched.No("node(s) didn't satisfy existing pods anti-affinity rules")
	taken := func(all []*tally, n *sched.Node) bool {
		for _, t := range all {
			if d := t.of[n.Index]; d >= 0 && t.at[d] > 0 {
				return true
			}
		}
		return false
	}
	return func(n *sched.Node) sched.Verdict {
		switch {
		case !a.isNear(n):
			return affinity
		case taken(a.apart, n):
			return anti
		case taken(a.kept, n):
			return kept
		}
		return sched.Verdict{}
	}
}

func (a *pairs) isNear(n *sched.Node) bool {
	all := true
	for _, t := range a.near {
		d := t.of[n.Index]
		if d < 0 {
			return false
		}
		all = all && t.at[d] > 0
	}
	return all || a.first && a.lonely()
}

// lonely says whether no pod that all terms select is in any domain.
func (a *pairs) lonely() bool {
	if a.met == 0 {
		return true
	}
	for _, t := range a.near {
		if slices.ContainsFunc(t.at, func(count int64) bool { return count > 0 }) {
			return false
		}
	}
	return true
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
