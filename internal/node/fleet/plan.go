package fleet

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// An Event is one order of a script's to one node.
type Event struct {
	At   time.Duration // since the nodes were started
	Node int           // its number, from 1
	Order
	Line int // of the script; 0: it boots because nothing else was said
}

// A Plan is what a script comes to: its events in the order of their times, made
// as they are asked for, since a script may go on for ever. It is decided by the
// script and its seed alone.
type Plan struct {
	courses []*course
	ahead   []Event // in order; all events up to the first time that a course still has
}

// A course is what is left of one line.
type course struct {
	*line
	rand *rand.Rand
	done int           // how many times it has come
	next time.Duration // the earliest time of an event that is not in ahead
	over bool
}

// Plan returns what happens, from the beginning. Without a script the nodes boot,
// and that is all.
func (s *Script) Plan() *Plan {
	p := &Plan{}
	booted := map[int]bool{}
	for i, l := range s.lines {
		p.courses = append(p.courses, &course{line: l, rand: rand.New(rand.NewPCG(s.seed, uint64(i))), next: l.at})
		if l.Word == Boot {
			for _, n := range l.who.from {
				booted[n] = true
			}
		}
	}
	for n := 1; n <= s.nodes; n++ {
		if !booted[n] {
			p.ahead = append(p.ahead, Event{Node: n, Order: Order{Word: Boot}})
		}
	}
	return p
}

// Next is the time of the next event, if there is one.
func (p *Plan) Next() (at time.Duration, ok bool) {
	p.look()
	if len(p.ahead) == 0 {
		return 0, false
	}
	return p.ahead[0].At, true
}

// Take returns the next event, if there is one, and goes on to the one after it.
func (p *Plan) Take() (e Event, ok bool) {
	p.look()
	if len(p.ahead) == 0 {
		return e, false
	}
	e = p.ahead[0]
	p.ahead = p.ahead[1:]
	return e, true
}

// look sees to it that the first event ahead is the next one.
func (p *Plan) look() {
	for {
		var first *course
		for _, c := range p.courses {
			if !c.over && (first == nil || c.next < first.next) {
				first = c
			}
		}
		if first == nil || len(p.ahead) > 0 && p.ahead[0].At < first.next {
			return
		}
		p.ahead = append(p.ahead, first.events()...)
		slices.SortStableFunc(p.ahead, func(a, b Event) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Line, b.Line)) })
	}
}

// events are those of the next time that the line comes.
func (c *course) events() (out []Event) {
	for i, n := range c.who.pick(c.rand) {
		e := Event{At: c.next + time.Duration(i)*c.apart, Node: n, Order: c.Order, Line: c.number}
		if c.jitter > 0 {
			e.At += time.Duration(c.rand.Int64N(int64(c.jitter)))
		}
		out = append(out, e)
	}
	c.done++
	c.next += c.every
	c.over = c.every == 0 || c.times > 0 && c.done == c.times
	return out
}

// pick returns the nodes that are meant, this time.
func (c choice) pick(r *rand.Rand) []int {
	n := c.count
	if c.share > 0 {
		n = max(1, int(c.share*float64(len(c.from))+0.5))
	}
	if n == 0 || n >= len(c.from) {
		return c.from
	}
	some := make([]int, 0, n)
	for _, i := range r.Perm(len(c.from))[:n] {
		some = append(some, c.from[i])
	}
	slices.Sort(some)
	return some
}

// Prompt says which nodes boot at once and are then left alone for so long.
func (s *Script) Prompt(within time.Duration) (out []bool) {
	out = make([]bool, s.nodes)
	for p := s.Plan(); ; {
		e, ok := p.Take()
		if !ok || e.At >= within {
			return out
		}
		out[e.Node-1] = e.Word == Boot && e.At == 0
	}
}
