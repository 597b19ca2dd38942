package sched

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// A Placer chooses nodes.
type Placer struct {
	Plugins []*Plugin
	Rand    *rand.Rand // breaks ties
	Percent int        // of the nodes to find before choosing; fewer on larger clusters if 0

	next  int // where the search went on
	fit   []*Node
	total []int64
	part  []int64
}

// A Failure is why no node will do for a pod.
type Failure struct {
	Nodes   int            // how many there are
	Reasons map[string]int // on how many nodes each reason holds
	Refused string         // a reason that is not any node's
	Wakes   Event          // what may change it
	Error   string         // a plugin failed; not the cluster's fault
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
	return b.String()
}

// A Choice is a node for a pod, and what the plugins want to do about it.
type Choice struct {
	Node   *Node
	Name   string // the node's; Node may be gone by the time of the binding
	checks []*Check
}

type question struct {
	*Check
	plugin *Plugin
}

// Place returns the best node for the pod, or why there is none. The choice
// holds as long as the state is not changed.
func (p *Placer) Place(pod *Pod, s *State) (*Choice, *Failure) {
	fail := &Failure{Nodes: len(s.Nodes), Reasons: map[string]int{}}
	if len(s.Nodes) == 0 {
		fail.Wakes = NodeAdded
		return nil, fail
	}
	var asks []question
	var only []string
	narrowed := false
	for _, pl := range p.Plugins {
		c := pl.For(pod, s)
		if c == nil {
			continue
		}
		if c.Refused != "" {
			fail.Refused, fail.Wakes = c.Refused, pl.Wakes
			return nil, fail
		}
		if c.Only != nil {
			if narrowed {
				only = slices.DeleteFunc(only, func(name string) bool { return !slices.Contains(c.Only, name) })
			} else {
				only, narrowed = slices.Clone(c.Only), true
			}
			fail.Wakes |= pl.Wakes
		}
		asks = append(asks, question{c, pl})
	}
	if narrowed {
		p.searchOnly(asks, only, s, fail)
	} else {
		p.search(asks, s, fail)
	}
	if len(p.fit) == 0 {
		return nil, fail
	}
	best := p.best(asks)
	choice := &Choice{Node: best, Name: best.Name}
	for _, q := range asks {
		choice.checks = append(choice.checks, q.Check)
	}
	return choice, nil
}

func (p *Placer) searchOnly(asks []question, only []string, s *State, fail *Failure) {
	p.fit = p.fit[:0]
	for _, name := range only {
		if n := s.Node(name); n != nil {
			p.try(asks, n, fail)
		}
	}
	if n := len(s.Nodes) - present(only, s); n > 0 && len(p.fit) == 0 {
		fail.Reasons["node(s) didn't satisfy plugin(s) [NodeAffinity]"] += n
		fail.Wakes |= NodeAdded | NodeLabels
	}
}

func present(names []string, s *State) (n int) {
	for _, name := range names {
		if s.Node(name) != nil {
			n++
		}
	}
	return n
}

// search asks nodes, from where the last search ended, until there are enough
// to choose from.
func (p *Placer) search(asks []question, s *State, fail *Failure) {
	p.fit = p.fit[:0]
	n, enough := len(s.Nodes), p.enough(len(s.Nodes))
	start := p.next % n
	for i := range n {
		p.try(asks, s.Nodes[(start+i)%n], fail)
		if len(p.fit) >= enough {
			p.next = start + i + 1
			return
		}
	}
	p.next = start
}

func (p *Placer) try(asks []question, n *Node, fail *Failure) {
	for i := range asks {
		if fits := asks[i].Fits; fits != nil {
			if v := fits(n); !v.OK() {
				for _, why := range v.Whys {
					fail.Reasons[why]++
				}
				fail.Wakes |= asks[i].plugin.Wakes
				return
			}
		}
	}
	p.fit = append(p.fit, n)
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

// best is the node with the highest score among those that fit; chance decides
// between equals.
func (p *Placer) best(asks []question) *Node {
	if len(p.fit) == 1 {
		return p.fit[0]
	}
	p.total = append(p.total[:0], make([]int64, len(p.fit))...)
	for _, q := range asks {
		if q.Score == nil {
			continue
		}
		weight := max(q.plugin.Weight, 1)
		if q.Normalize == nil {
			for i, n := range p.fit {
				p.total[i] += weight * q.Score(n)
			}
			continue
		}
		p.part = p.part[:0]
		for _, n := range p.fit {
			p.part = append(p.part, q.Score(n))
		}
		q.Normalize(p.part)
		for i, v := range p.part {
			p.total[i] += weight * v
		}
	}
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
	return p.fit[best]
}
