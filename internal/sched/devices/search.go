package devices

import (
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// How many devices are tried, in what combination ever, on one node and on all nodes
// for one pod. Claims with constraints that hardly anything meets would else take
// longer than anybody can wait.
const (
	mostTries    = 20_000
	mostTriesAll = 200_000
)

var (
	// ErrNone says that a node does not have what the claims ask for.
	ErrNone = errors.New("cannot allocate all claims")

	errPool    = errors.New("cannot allocate all claims: a resource pool is incomplete or inconsistent")
	errTooMany = errors.New("cannot allocate all claims: too many combinations of devices to try, ask for less or with fewer constraints")
)

// A Found is devices for claims on one node.
type Found struct {
	Rank   int64 // higher if more requests are served as they would rather be
	want   *Want
	node   *corev1.Node
	grants []grant
}

// A grant is one device, or a share of it, for a request.
type grant struct {
	claim  int
	a      *alternative
	d      *device
	takes  map[resourcev1.QualifiedName]resource.Quantity // of a device that is shared
	first  bool                                           // nobody had the device before
	ruling []*constraint                                  // those that know of it
}

// A search looks for devices on one node.
type search struct {
	*Want
	node    *corev1.Node
	devices []*device // of pools that are whole
	broken  bool      // other pools have devices for the node, perhaps
	feeds   map[*alternative]*feed
	whole   map[*device]bool
	shares  map[*device]amounts
	had     map[*device]int // shares
	ledgers map[*pool]*ledger
	grants  []grant
	has     []int // grants by claim
	tries   int
	err     error
}

// On finds devices on a node for all of the claims, or says why there are none.
func (w *Want) On(n *corev1.Node) (*Found, error) {
	x := &search{Want: w, node: n, feeds: map[*alternative]*feed{}, whole: map[*device]bool{}, shares: map[*device]amounts{}, had: map[*device]int{},
		ledgers: map[*pool]*ledger{}, has: make([]int, len(w.claims))}
	if w.tries >= mostTriesAll {
		return nil, errTooMany
	}
	for _, p := range w.s.poolsOf(n) {
		for _, d := range p.devices {
			if !d.reaches(n) {
				continue
			}
			if p.bad != "" {
				x.broken = true
				break
			}
			x.devices = append(x.devices, d)
		}
	}
	ok := x.hopeful() && x.claim(0)
	w.tries += x.tries
	for _, c := range w.claims {
		for _, r := range c.rules {
			r.chosen = nil
		}
	}
	switch {
	case ok:
		return &Found{Rank: x.rank(), want: w, node: n, grants: x.grants}, nil
	case x.err != nil:
		return nil, x.err
	case x.broken:
		return nil, errPool
	}
	return nil, ErrNone
}

// rank counts, of the requests that have a choice, how early in their lists they were served.
func (x *search) rank() (sum int64) {
	type key struct {
		claim int
		name  string
	}
	seen := map[key]bool{}
	for _, g := range x.grants {
		if k := (key{g.claim, g.a.request}); !seen[k] && g.a.name != g.a.request {
			seen[k] = true
			sum += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - g.a.nth)
		}
	}
	return sum
}

// Choosy says whether any request has alternatives, so that one node may serve it better than another.
func (w *Want) Choosy() bool {
	return slices.ContainsFunc(w.claims, func(c *claim) bool {
		return slices.ContainsFunc(c.requests, func(r *request) bool { return len(r.of) > 1 })
	})
}

// hopeful says whether each request could be served if it were the only one: most
// nodes that will not do are told so at once.
func (x *search) hopeful() bool {
	for _, c := range x.claims {
		for _, r := range c.requests {
			ok := slices.ContainsFunc(r.of, func(a *alternative) bool {
				if a.all {
					return len(x.every(a)) > 0
				}
				f := x.feed(a)
				d := f.get(x, 0)
				return d != nil && (d.shared || f.get(x, a.count-1) != nil)
			})
			if !ok {
				return false
			}
		}
	}
	return true
}

func (x *search) claim(i int) bool {
	if i == len(x.claims) {
		return true
	}
	return x.request(i, 0)
}

func (x *search) request(ci, ri int) bool {
	c := x.claims[ci]
	if ri == len(c.requests) {
		return x.claim(ci + 1)
	}
	for _, a := range c.requests[ri].of {
		if a.all && x.takeEvery(ci, ri, a) || !a.all && x.some(ci, ri, a, a.count, 0) {
			return true
		}
		if x.err != nil {
			return false
		}
	}
	return false
}

// some serves a request with so many more devices, none of them before from: sets of
// devices are tried once, not in every order.
func (x *search) some(ci, ri int, a *alternative, left, from int) bool {
	if left == 0 {
		return x.request(ci, ri+1)
	}
	f := x.feed(a)
	for i := from; x.err == nil; i++ {
		d := f.get(x, i)
		if d == nil {
			return false
		}
		if !x.take(ci, a, d) {
			continue
		}
		next := i + 1
		if d.shared && !a.admin {
			next = i
		}
		if x.some(ci, ri, a, left-1, next) {
			return true
		}
		x.giveBack()
	}
	return false
}

// every is all devices that a request asks for; none if it can not have them all.
func (x *search) every(a *alternative) (out []*device) {
	if x.broken {
		return nil
	}
	for _, d := range x.devices {
		ok, err := d.meets(a.sel)
		if err != nil {
			x.err = err
			return nil
		}
		if !ok || !d.roomy(a.capacity) {
			continue
		}
		if !x.free(a, d) || len(out) == resourcev1.AllocationResultsMaxSize {
			return nil
		}
		out = append(out, d)
	}
	return out
}

func (x *search) takeEvery(ci, ri int, a *alternative) bool {
	all := x.every(a)
	before := len(x.grants)
	ok := len(all) > 0
	for _, d := range all {
		if ok = x.take(ci, a, d); !ok {
			break
		}
	}
	if ok && x.request(ci, ri+1) {
		return true
	}
	for len(x.grants) > before {
		x.giveBack()
	}
	return false
}

// free says whether a request may have a device, as far as what others have and taints go.
func (x *search) free(a *alternative, d *device) bool {
	if u := x.s.used[d.id]; !a.admin && u != nil && (!d.shared || u.whole > 0) {
		return false
	}
	return repelled(x.s.taintsOf(d.id, d.Taints), a.tolerations) == nil
}

// A feed is the devices that one alternative may have, found as they are asked for.
type feed struct {
	a   *alternative
	at  int
	out []*device
}

func (x *search) feed(a *alternative) *feed {
	f := x.feeds[a]
	if f == nil {
		f = &feed{a: a}
		x.feeds[a] = f
	}
	return f
}

func (f *feed) get(x *search, i int) *device {
	for len(f.out) <= i && x.err == nil {
		if f.at == len(x.devices) {
			return nil
		}
		d := x.devices[f.at]
		f.at++
		if !x.free(f.a, d) {
			continue
		}
		ok, err := d.meets(f.a.sel)
		if err != nil {
			x.err = err
			return nil
		}
		if ok && d.roomy(f.a.capacity) {
			f.out = append(f.out, d)
		}
	}
	if x.err != nil {
		return nil
	}
	return f.out[i]
}

// take gives a device to a request, if it is still to be had and no constraint is against it.
func (x *search) take(ci int, a *alternative, d *device) bool {
	if x.tries++; x.tries > mostTries {
		x.err = errTooMany
		return false
	}
	if x.has[ci] == resourcev1.AllocationResultsMaxSize {
		return false
	}
	g := grant{claim: ci, a: a, d: d}
	if !a.admin && !x.occupy(&g) {
		return false
	}
	for _, rule := range x.claims[ci].rules {
		if !rule.about(a) {
			continue
		}
		v, err := d.valuesOf(rule.name, a)
		if err != nil {
			x.err = err
		}
		if err != nil || !rule.add(v) {
			x.vacate(&g)
			return false
		}
		g.ruling = append(g.ruling, rule)
	}
	x.grants = append(x.grants, g)
	x.has[ci]++
	return true
}

// giveBack takes back the last device.
func (x *search) giveBack() {
	n := len(x.grants) - 1
	g := x.grants[n]
	x.grants = x.grants[:n]
	x.has[g.claim]--
	x.vacate(&g)
}

func (x *search) occupy(g *grant) bool {
	d := g.d
	if !d.shared {
		if x.whole[d] {
			return false
		}
		g.first = true
		if !x.charge(d) {
			return false
		}
		x.whole[d] = true
		return true
	}
	takes, ok := d.consumes(g.a.capacity)
	if !ok {
		return false
	}
	sum := x.shares[d]
	u := x.s.used[d.id]
	for name, q := range takes {
		total := q.DeepCopy()
		total.Add(sum[string(name)])
		if u != nil {
			total.Add(u.taken[string(name)])
		}
		if total.Cmp(d.Capacity[name].Value) > 0 {
			return false
		}
	}
	g.takes, g.first = takes, u == nil && x.had[d] == 0
	if g.first && !x.charge(d) {
		return false
	}
	x.shares[d] = sum.plus(amountsOf(takes), 1)
	x.had[d]++
	return true
}

// vacate undoes what take did before the grant was noted.
func (x *search) vacate(g *grant) {
	for _, rule := range g.ruling {
		rule.remove()
	}
	if g.a.admin {
		return
	}
	if g.d.shared {
		x.shares[g.d] = x.shares[g.d].plus(amountsOf(g.takes), -1)
		x.had[g.d]--
	} else {
		delete(x.whole, g.d)
	}
	if g.first && len(g.d.ConsumesCounters) > 0 {
		x.ledger(g.d.pool).charge(g.d, -1)
	}
}

// A ledger is what is left of a pool's counters, and who takes of them.
type ledger struct {
	left   map[string]amounts
	groups map[string][][]string // of the devices that take of a set
}

func (x *search) ledger(p *pool) *ledger {
	l := x.ledgers[p]
	if l == nil {
		l = &ledger{left: map[string]amounts{}, groups: map[string][][]string{}}
		for name, c := range p.counters {
			l.left[name] = c
		}
		for _, d := range p.devices {
			if len(d.ConsumesCounters) > 0 && x.s.Used(d.id) {
				l.charge(d, 1)
			}
		}
		x.ledgers[p] = l
	}
	return l
}

// charge takes what a device needs of its pool's counters, if that is there.
func (x *search) charge(d *device) bool {
	if len(d.ConsumesCounters) == 0 {
		return true
	}
	l := x.ledger(d.pool)
	for i := range d.ConsumesCounters {
		c := &d.ConsumesCounters[i]
		left, ok := l.left[c.CounterSet]
		if !ok || !agree(l.groups[c.CounterSet], c.CompatibilityGroups) {
			return false
		}
		for name, n := range c.Counters {
			if q, ok := left[name]; !ok || q.Cmp(n.Value) < 0 {
				return false
			}
		}
	}
	l.charge(d, 1)
	return true
}

func (l *ledger) charge(d *device, by int) {
	for i := range d.ConsumesCounters {
		c := &d.ConsumesCounters[i]
		l.left[c.CounterSet] = l.left[c.CounterSet].plus(countersOf(c.Counters), -by)
		if g := l.groups[c.CounterSet]; by > 0 {
			l.groups[c.CounterSet] = append(g, c.CompatibilityGroups)
		} else { // the last that came
			l.groups[c.CounterSet] = g[:len(g)-1]
		}
	}
}

// agree says whether all have a group in common, or none has any.
func agree(there [][]string, more []string) bool {
	common := slices.Clone(more)
	for _, g := range there {
		if (len(g) == 0) != (len(more) == 0) {
			return false
		}
		common = slices.DeleteFunc(common, func(name string) bool { return !slices.Contains(g, name) })
	}
	return len(more) == 0 || len(common) > 0
}
