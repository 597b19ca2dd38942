package sched

import (
	"hash/maphash"
	"slices"
)

// A sheet is what was worked out for pods that are alike, for every node. It
// is brought up to date by the state's log before each use, so that a decision
// costs as much as has changed since the last one, not as much as there are nodes.
//
// What a plugin says of a node and the pods on it is kept until that node
// changes. What it says with more in view (it has With and Without) is asked
// anew each time; if there is no such plugin, the nodes stay in order of their
// totals, and the best is at hand.
type sheet struct {
	pod  *Pod // one of those it is for
	asks []question
	none []*Use // those that do not care

	at              int64 // moves of the state that it knows
	layout, expects uint64
	selects         [2]uint64

	near, far []int    // asks about a node alone, and with more in view
	why       []ruling // by node
	kept      [][]int64
	base      []int64 // sum of near scores that need no scaling
	scaled    []int64 // sum of those that do, as of the last tally
	against   []int   // by ask: how many nodes it is the first to refuse
	reasons   map[string]int
	final     int // nodes that are refused whoever else leaves
	rooms     []memo
	varied    bool // scaled scores are not all the same
	stale     bool // scaled is, because another set of nodes fits now
	ranks     ranking
	ranked    bool
}

// A ruling is the first near verdict against a node.
type ruling struct {
	Verdict
	by int
}

// How many kinds of pods are remembered as seen, and how many sheets are kept.
const (
	mostSeen   = 4096
	mostSheets = 16
)

// sheet returns the sheet for pods like this one, up to date; nil if it should
// be judged by itself.
func (p *Placer) sheet(pod *Pod, s *State) *sheet {
	if p.Alone {
		return nil
	}
	key := pod.like()
	if key == "" {
		return nil
	}
	if sh := p.sheets[key]; sh != nil {
		if sh.update(s) {
			return sh
		}
		delete(p.sheets, key)
	}
	if p.isNew(key, s.layout) {
		return nil
	}
	asks, only, none, fail := p.ask(pod, s)
	if fail != nil || only != nil {
		return nil
	}
	sh := &sheet{pod: pod, asks: asks, none: none, at: s.now(), layout: s.layout, selects: s.Select.version(pod), expects: s.expects, reasons: map[string]int{}}
	sh.fill(s)
	if p.sheets == nil {
		p.sheets = map[string]*sheet{}
	}
	if len(p.sheets) >= mostSheets {
		p.dropOldest()
	}
	p.sheets[key] = sh
	return sh
}

// isNew says whether it is asked about a kind of pod for the first time in this
// layout: while nodes come one after the other, nothing is worked out for all.
func (p *Placer) isNew(key string, layout uint64) bool {
	if p.seen == nil {
		p.hash = maphash.MakeSeed()
	}
	if p.seen == nil || len(p.seen) >= mostSeen {
		p.seen = map[uint64]uint64{}
	}
	h := maphash.String(p.hash, key)
	at, known := p.seen[h]
	p.seen[h] = layout
	return !known || at != layout
}

func (p *Placer) dropOldest() {
	var oldest string
	for key, sh := range p.sheets {
		if old := p.sheets[oldest]; old == nil || sh.at < old.at || sh.at == old.at && key < oldest {
			oldest = key
		}
	}
	delete(p.sheets, oldest)
}

// fill judges every node.
func (sh *sheet) fill(s *State) {
	n := len(s.Nodes)
	sh.why, sh.base, sh.scaled = make([]ruling, n), make([]int64, n), make([]int64, n)
	sh.kept, sh.against = make([][]int64, len(sh.asks)), make([]int, len(sh.asks))
	most := int64(0)
	for i := range sh.asks {
		q := &sh.asks[i]
		if q.With != nil {
			sh.far = append(sh.far, i)
			continue
		}
		sh.near = append(sh.near, i)
		if q.Score != nil {
			most += 100 * q.use.weight()
			if q.Normalize != nil {
				sh.kept[i] = make([]int64, n)
			}
		}
	}
	sh.ranked = len(sh.far) == 0 && most < mostRank
	for i, node := range s.Nodes {
		sh.judge(i, node)
	}
	for _, i := range sh.near {
		if k := sh.kept[i]; k != nil && slices.Min(k) != slices.Max(k) {
			sh.varied = true
		}
	}
	sh.tally()
}

// judge asks everything about a node that is about it alone.
func (sh *sheet) judge(i int, n *Node) (same bool) {
	old := sh.why[i]
	now := ruling{}
	for _, k := range sh.near {
		if fits := sh.asks[k].Fits; fits != nil {
			if v := fits(n); !v.OK() {
				now = ruling{v, k}
				break
			}
		}
	}
	if !old.OK() || !now.OK() {
		sh.note(old, -1)
		sh.note(now, 1)
	}
	sh.why[i] = now
	sum := int64(0)
	for _, k := range sh.near {
		q := &sh.asks[k]
		if q.Score == nil {
			continue
		}
		v := q.Score(n)
		if q.Normalize == nil {
			sum += v * q.use.weight()
		} else if sh.kept[k][i] != v {
			sh.kept[k][i], sh.varied, sh.stale = v, true, true
		}
	}
	sh.base[i] = sum
	return old.OK() == now.OK()
}

func (sh *sheet) note(r ruling, n int) {
	if r.OK() {
		return
	}
	sh.against[r.by] += n
	if r.Final {
		sh.final += n
	}
	for _, why := range r.Whys {
		sh.reasons[why] += n
	}
}

// tally scales the near scores that need it over the nodes that fit, and puts
// the nodes in order.
func (sh *sheet) tally() {
	sh.stale = false
	clear(sh.scaled)
	if sh.varied {
		var part []int64
		for _, k := range sh.near {
			if sh.kept[k] == nil {
				continue
			}
			part = part[:0]
			for i := range sh.why {
				if sh.why[i].OK() {
					part = append(part, sh.kept[k][i])
				}
			}
			if len(part) == 0 {
				continue
			}
			sh.asks[k].Normalize(part)
			at, weight := 0, sh.asks[k].use.weight()
			for i := range sh.why {
				if sh.why[i].OK() {
					sh.scaled[i] += weight * part[at]
					at++
				}
			}
		}
	}
	if !sh.ranked {
		return
	}
	sh.ranks.reset(len(sh.why))
	for i := range sh.why {
		if sh.why[i].OK() {
			sh.ranks.put(int32(i), sh.base[i]+sh.scaled[i])
		}
	}
}

// update takes in what happened since the last use; false if that is too much.
func (sh *sheet) update(s *State) bool {
	moves, ok := s.since(sh.at)
	if !ok || sh.layout != s.layout || sh.selects != s.Select.version(sh.pod) || sh.expects != s.expects {
		return false
	}
	for _, m := range moves {
		if m.pod == nil {
			if m.taints && len(sh.far) > 0 { // they may say which nodes take part in spreading
				return false
			}
			continue
		}
		for _, use := range sh.none {
			if use.Matters != nil && use.Matters(sh.pod, s, m.pod) {
				return false
			}
		}
	}
	for i, m := range moves {
		switch {
		case m.pod == nil:
		case m.came:
			with(sh.asks, m.pod, m.node)
		default:
			without(sh.asks, m.pod, m.node)
		}
		if i+1 < len(moves) && moves[i+1].node == m.node {
			continue
		}
		at := m.node.Index
		same := sh.judge(at, m.node)
		switch {
		case !same && sh.varied:
			sh.stale = true
		case sh.ranked && !sh.stale:
			sh.ranks.drop(int32(at))
			if sh.why[at].OK() {
				sh.ranks.put(int32(at), sh.base[at]+sh.scaled[at])
			}
		}
	}
	sh.at = s.now()
	if sh.stale && sh.ranked {
		sh.tally()
	}
	return true
}

// best is the best node for a pod of the sheet's kind, or nil.
func (sh *sheet) best(p *Placer, pod *Pod, s *State) *Node {
	// Scores that are scaled over the nodes that fit are others if nodes fall out
	// because of who is to come there.
	if sh.ranked && !(sh.varied && len(s.nominated) > 0) {
		return sh.ranks.best(p, func(i int32) bool {
			n := s.Nodes[i]
			return len(n.nominated) == 0 || crowded(sh.asks, pod, n).OK()
		}, s)
	}
	p.fit = p.fit[:0]
next:
	for i, n := range s.Nodes {
		if !sh.why[i].OK() {
			continue
		}
		for _, k := range sh.far {
			if fits := sh.asks[k].Fits; fits != nil && !fits(n).OK() {
				continue next
			}
		}
		if len(n.nominated) > 0 && !crowded(sh.asks, pod, n).OK() {
			continue
		}
		p.fit = append(p.fit, n)
	}
	if len(p.fit) < 2 {
		if len(p.fit) == 0 {
			return nil
		}
		return p.fit[0]
	}
	p.total = p.total[:0]
	for _, n := range p.fit {
		p.total = append(p.total, sh.base[n.Index])
	}
	for k := range sh.asks {
		q := &sh.asks[k]
		if q.Score == nil || q.With == nil && (q.Normalize == nil || !sh.varied) {
			continue
		}
		p.part = p.part[:0]
		for _, n := range p.fit {
			if q.With == nil {
				p.part = append(p.part, sh.kept[k][n.Index])
			} else {
				p.part = append(p.part, q.Score(n))
			}
		}
		p.addPart(q)
	}
	return p.fit[p.winner()]
}

// failure says why no node will do.
func (sh *sheet) failure(pod *Pod, s *State) *Failure {
	f := &Failure{Nodes: len(s.Nodes), Reasons: map[string]int{}, asks: sh.asks, sheet: sh, Final: sh.final}
	for why, n := range sh.reasons {
		if n > 0 {
			f.Reasons[why] = n
		}
	}
	for k, n := range sh.against {
		if n > 0 {
			f.blame(sh.asks[k].use.Plugin)
		}
	}
	for i, n := range s.Nodes {
		if !sh.why[i].OK() || sh.ranked && len(n.nominated) == 0 {
			continue
		}
		if at, v := objection(sh.asks, pod, n); !v.OK() {
			f.count(v, sh.asks[at].use.Plugin)
		}
	}
	return f
}

// A ranking keeps nodes in order of their totals: one stack for each total.
type ranking struct {
	stacks [][]int32
	total  []int32 // by node; -1 if it is not in
	place  []int32 // in its stack
	top    int     // no total is above
}

// mostRank is the highest total that nodes are ranked by.
const mostRank = 1 << 14

func (r *ranking) reset(n int) {
	if len(r.total) != n {
		r.total, r.place = make([]int32, n), make([]int32, n)
	}
	for i := range r.stacks {
		r.stacks[i] = r.stacks[i][:0]
	}
	for i := range r.total {
		r.total[i] = -1
	}
	r.top = 0
}

func (r *ranking) put(i int32, total int64) {
	t := int(min(max(total, 0), mostRank))
	for len(r.stacks) <= t {
		r.stacks = append(r.stacks, nil)
	}
	r.total[i], r.place[i] = int32(t), int32(len(r.stacks[t]))
	r.stacks[t] = append(r.stacks[t], i)
	r.top = max(r.top, t)
}

func (r *ranking) drop(i int32) {
	t := r.total[i]
	if t < 0 {
		return
	}
	stack, at := r.stacks[t], r.place[i]
	last := stack[len(stack)-1]
	stack[at], r.place[last] = last, at
	r.stacks[t], r.total[i] = stack[:len(stack)-1], -1
}

// best is one of the best that will do, or nil.
func (r *ranking) best(p *Placer, will func(int32) bool, s *State) *Node {
	type aside struct {
		i     int32
		total int64
	}
	var asides []aside
	defer func() {
		for _, a := range asides {
			r.put(a.i, a.total)
		}
	}()
	for t := r.top; t >= 0 && t < len(r.stacks); t-- {
		for len(r.stacks[t]) > 0 {
			i := r.stacks[t][p.Rand.IntN(len(r.stacks[t]))]
			if will(i) {
				return s.Nodes[i]
			}
			asides = append(asides, aside{i, int64(t)})
			r.drop(i)
		}
		r.top = t
	}
	return nil
}
