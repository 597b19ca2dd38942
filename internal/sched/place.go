package sched

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"
)

// A Use is a plugin as a profile has it.
type Use struct {
	*Plugin
	Weight  int64 // of its score; the plugin's own if 0
	NoFits  bool  // it does not refuse nodes
	NoScore bool  // it does not prefer nodes
}

// UsesOf returns the uses of plugins as they are.
func UsesOf(all []*Plugin) (out []Use) {
	for _, p := range all {
		out = append(out, Use{Plugin: p})
	}
	return out
}

// A Placer chooses nodes. The first pod of its kind is judged by itself, on as
// many nodes as Percent says; further ones share what was worked out for all
// nodes, see [sheet].
type Placer struct {
	Uses    []Use
	Rand    *rand.Rand // breaks ties
	Percent int        // of the nodes to find before choosing; fewer on larger clusters if 0
	Alone   bool       // every pod is judged by itself

	next   int // where the search went on
	fit    []*Node
	total  []int64
	part   []int64
	seen   map[uint64]uint64 // the layout in which a kind of pod, by its hash, was seen last
	hash   maphash.Seed
	sheets map[string]*sheet
}

// A Failure is why no node will do for a pod.
type Failure struct {
	Nodes   int            // how many there are
	Reasons map[string]int // on how many nodes each reason holds
	Refused string         // a reason that is not any node's
	Wakes   Event          // what may change it
	By      []*Plugin      // who refused
	Error   string         // a plugin failed; not the cluster's fault
	More    string         // what became of making room, if that was tried
	Final   int            // on how many nodes it would not help if other pods went

	asks  []question
	sheet *sheet
}

// String is the message for the user, in the form that Kubernetes' has.
func (f *Failure) String() string {
	if f.Error != "" {
		return f.Error
	}
	if f.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes are available:", f.Nodes)
	var all []string
	if f.Refused != "" {
		all = append(all, f.Refused)
	}
	for why, n := range f.Reasons {
		all = append(all, fmt.Sprintf("%d %s", n, why))
	}
	slices.Sort(all)
	b.WriteString(" " + strings.Join(all, ", ") + ".")
	if f.More != "" {
		b.WriteString(" preemption: " + f.More)
	}
	return b.String()
}

func (f *Failure) blame(p *Plugin) {
	if !slices.Contains(f.By, p) {
		f.By = append(f.By, p)
	}
	f.Wakes |= p.Wakes
}

// count takes in the verdict on one node, and whose it is.
func (f *Failure) count(v Verdict, by *Plugin) {
	for _, why := range v.Whys {
		f.Reasons[why]++
	}
	if v.Final {
		f.Final++
	}
	f.blame(by)
}

// A Choice is a node for a pod, and what the plugins want to do about it.
type Choice struct {
	Node   *Node
	Name   string // the node's; Node may be gone by the time of the binding
	checks []*Check
}

type question struct {
	*Check
	use *Use
}

// Place returns the best node for the pod, or why there is none. The choice
// holds as long as the state is not changed.
func (p *Placer) Place(pod *Pod, s *State) (*Choice, *Failure) {
	if len(s.Nodes) == 0 {
		return nil, &Failure{Wakes: NodeAdded}
	}
	sh := p.sheet(pod, s)
	var asks []question
	var only []string
	if sh != nil {
		asks = sh.asks
	} else {
		var fail *Failure
		if asks, only, _, fail = p.ask(pod, s); fail != nil {
			return nil, fail
		}
	}
	if n := s.Node(s.Nominated(pod.UID)); n != nil { // it has been promised; others have gone for it
		if _, v := objection(asks, pod, n); v.OK() {
			return choose(asks, n), nil
		}
	}
	if sh != nil {
		if n := sh.best(p, pod, s); n != nil {
			return choose(asks, n), nil
		}
		return nil, sh.failure(pod, s)
	}
	fail := &Failure{Nodes: len(s.Nodes), Reasons: map[string]int{}, asks: asks}
	if only != nil {
		p.searchOnly(asks, only, pod, s, fail)
	} else {
		p.search(asks, pod, s, fail)
	}
	if len(p.fit) == 0 {
		return nil, fail
	}
	return choose(asks, p.best(asks)), nil
}

func choose(asks []question, n *Node) *Choice {
	c := &Choice{Node: n, Name: n.Name}
	for _, q := range asks {
		if q.Reserve != nil || q.Unreserve != nil || q.PreBind != nil {
			c.checks = append(c.checks, q.Check)
		}
	}
	return c
}

// ask collects what the plugins want to know of each node. Only is not nil if
// it is enough to look at some nodes; none are the plugins that do not care.
func (p *Placer) ask(pod *Pod, s *State) (asks []question, only []string, none []*Use, fail *Failure) {
	for i := range p.Uses {
		use := &p.Uses[i]
		c := use.For(pod, s)
		if c == nil {
			none = append(none, use)
			continue
		}
		if use.NoFits || use.NoScore {
			changed := *c
			if use.NoFits {
				changed.Fits, changed.Refused, changed.Only = nil, "", nil
			}
			if use.NoScore {
				changed.Score = nil
			}
			c = &changed
		}
		if c.Refused != "" {
			fail = &Failure{Nodes: len(s.Nodes), Refused: c.Refused}
			fail.blame(use.Plugin)
			return nil, nil, nil, fail
		}
		if c.Only != nil {
			if only != nil {
				only = slices.DeleteFunc(only, func(name string) bool { return !slices.Contains(c.Only, name) })
			} else {
				only = append([]string{}, c.Only...)
			}
		}
		asks = append(asks, question{c, use})
	}
	return asks, only, none, nil
}

func (p *Placer) searchOnly(asks []question, only []string, pod *Pod, s *State, fail *Failure) {
	p.fit = p.fit[:0]
	here := 0
	for _, name := range only {
		if n := s.Node(name); n != nil {
			here++
			p.try(asks, pod, n, fail)
		}
	}
	fail.Final += len(s.Nodes) - here
	for _, q := range asks {
		if q.Only != nil {
			fail.blame(q.use.Plugin)
		}
	}
	if n := len(s.Nodes) - here; n > 0 && len(p.fit) == 0 {
		fail.Reasons["node(s) didn't satisfy plugin(s) [NodeAffinity]"] += n
	}
}

// search asks nodes, from where the last search ended, until there are enough
// to choose from.
func (p *Placer) search(asks []question, pod *Pod, s *State, fail *Failure) {
	p.fit = p.fit[:0]
	n, enough := len(s.Nodes), p.enough(len(s.Nodes))
	start := p.next % n
	for i := range n {
		p.try(asks, pod, s.Nodes[(start+i)%n], fail)
		if len(p.fit) >= enough {
			p.next = start + i + 1
			return
		}
	}
	p.next = start
}

func (p *Placer) try(asks []question, pod *Pod, n *Node, fail *Failure) {
	i, v := objection(asks, pod, n)
	if v.OK() {
		p.fit = append(p.fit, n)
		return
	}
	fail.count(v, asks[i].use.Plugin)
}

// refusal is the first verdict against a node, and whose it is.
func refusal(asks []question, n *Node) (int, Verdict) {
	for i := range asks {
		if fits := asks[i].Fits; fits != nil {
			if v := fits(n); !v.OK() {
				return i, v
			}
		}
	}
	return 0, Verdict{}
}

// objection is the first verdict against a node as it is, or as it will be with
// those that come before the pod, and whose it is.
func objection(asks []question, pod *Pod, n *Node) (int, Verdict) {
	at, v := refusal(asks, n)
	if v.OK() && len(n.nominated) > 0 {
		at, v = crowding(asks, pod, n)
	}
	return at, v
}

// before are the pods that are to come to the node and are no less important
// than this one.
func (n *Node) before(pod *Pod) (out []*Pod) {
	for _, o := range n.nominated {
		if o.UID != pod.UID && o.Priority >= pod.Priority {
			out = append(out, o)
		}
	}
	return out
}

// crowding asks again with the pods on the node that come before this one.
func crowding(asks []question, pod *Pod, n *Node) (at int, v Verdict) {
	first := n.before(pod)
	if len(first) == 0 {
		return 0, Verdict{}
	}
	c := n.copy()
	for _, o := range first {
		c.add(o)
		with(asks, o, c)
	}
	at, v = refusal(asks, c)
	for _, o := range first {
		without(asks, o, c)
	}
	return at, v
}

func crowded(asks []question, pod *Pod, n *Node) Verdict {
	_, v := crowding(asks, pod, n)
	return v
}

func with(asks []question, p *Pod, n *Node) {
	for i := range asks {
		if f := asks[i].With; f != nil {
			f(p, n)
		}
	}
}

func without(asks []question, p *Pod, n *Node) {
	for i := range asks {
		if f := asks[i].Without; f != nil {
			f(p, n)
		}
	}
}

// enough is how many nodes to find before choosing: all of up to a hundred,
// half of a hundred-odd, five in a hundred of very many.
func (p *Placer) enough(n int) int {
	const least = 100
	if n <= least || p.Percent >= 100 {
		return n
	}
	percent := p.Percent
	if percent <= 0 {
		percent = max(50-n/125, 5)
	}
	return max(n*percent/100, least)
}

func (u *Use) weight() int64 {
	if u.Weight > 0 {
		return u.Weight
	}
	return max(u.Plugin.Weight, 1)
}

// best is the node with the highest score among those that fit; chance decides
// between equals.
func (p *Placer) best(asks []question) *Node {
	if len(p.fit) == 1 {
		return p.fit[0]
	}
	p.total = append(p.total[:0], make([]int64, len(p.fit))...)
	for i := range asks {
		if score := asks[i].Score; score != nil {
			p.part = p.part[:0]
			for _, n := range p.fit {
				p.part = append(p.part, score(n))
			}
			p.addPart(&asks[i])
		}
	}
	return p.fit[p.winner()]
}

// addPart adds one plugin's scores, in p.part, to the totals.
func (p *Placer) addPart(q *question) {
	if q.Normalize != nil {
		q.Normalize(p.part)
	}
	weight := q.use.weight()
	for i, v := range p.part {
		p.total[i] += weight * v
	}
}

// winner is the place of the highest total.
func (p *Placer) winner() int {
	best, equal := 0, 1
	for i := 1; i < len(p.total); i++ {
		switch {
		case p.total[i] > p.total[best]:
			best, equal = i, 1
		case p.total[i] == p.total[best]:
			if equal++; p.Rand.IntN(equal) == 0 {
				best = i
			}
		}
	}
	return best
}
