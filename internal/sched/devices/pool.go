package devices

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedhelpers "k8s.io/component-helpers/scheduling/corev1"

	"proa/internal/kinds/expr"
)

type poolID struct{ driver, name string }

func poolOf(n *resourcev1.ResourceSlice) poolID { return poolID{n.Spec.Driver, n.Spec.Pool.Name} }

func byID(a, b poolID) int {
	return cmp.Or(cmp.Compare(a.driver, b.driver), cmp.Compare(a.name, b.name))
}

// A pool is what a driver has published under one name: the slices of the newest
// generation.
type pool struct {
	poolID
	bad      string // why nothing is to be taken from it; empty if it is whole
	devices  []*device
	counters map[string]amounts // what there is, by counter set
	later    bool               // some devices are ready only once a condition says so
}

// A device is one of a pool.
type device struct {
	*resourcev1.Device
	id      ID
	slice   *resourcev1.ResourceSlice
	pool    *pool
	shared  bool // it may be had by several, each a share
	view    *expr.DeviceView
	broken  error          // there is no view
	answers map[string]yes // by the selectors asked
	values  map[resourcev1.FullyQualifiedName]values
}

// A yes is whether selectors are all true of a device, or which of them fails.
type yes struct {
	is  bool
	err error
}

// mostAnswers is how many answers a device remembers.
const mostAnswers = 32

// pool returns a pool, put together if it is not yet.
func (s *State) pool(id poolID) *pool {
	if p := s.pools[id]; p != nil {
		return p
	}
	p := &pool{poolID: id, counters: map[string]amounts{}}
	s.pools[id] = p
	newest := int64(-1)
	for _, n := range s.members[id] {
		newest = max(newest, n.Spec.Pool.Generation)
	}
	have, want := int64(0), int64(0)
	names := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(s.members[id])) {
		n := s.members[id][key]
		if n.Spec.Pool.Generation != newest {
			continue
		}
		have++
		want = n.Spec.Pool.ResourceSliceCount
		for i := range n.Spec.SharedCounters {
			c := &n.Spec.SharedCounters[i]
			if p.counters[c.Name] != nil {
				p.bad = fmt.Sprintf("has two counter sets of the name %s", c.Name)
			}
			p.counters[c.Name] = countersOf(c.Counters)
		}
		for i := range n.Spec.Devices {
			d := &device{Device: &n.Spec.Devices[i], slice: n, pool: p, answers: map[string]yes{}}
			d.id = ID{id.driver, id.name, d.Name}
			d.shared = is(d.AllowMultipleAllocations)
			if names[d.Name] {
				p.bad = fmt.Sprintf("has two devices of the name %s", d.Name)
			}
			names[d.Name] = true
			p.later = p.later || len(d.BindingConditions) > 0
			p.devices = append(p.devices, d)
		}
	}
	if p.bad == "" && have != want {
		p.bad = fmt.Sprintf("is being updated: %d of %d slices of its generation %d are there", have, want, newest)
	}
	return p
}

func is(b *bool) bool { return b != nil && *b }

func countersOf(m map[string]resourcev1.Counter) amounts {
	out := amounts{}
	for name, c := range m {
		out[name] = c.Value
	}
	return out
}

// poolsOf are the pools that may have devices for a node: those whose devices are
// ready at once first.
func (s *State) poolsOf(n *corev1.Node) []*pool {
	ids := map[poolID]bool{}
	for id := range s.local[n.Name] {
		ids[id] = true
	}
	for id := range s.wide {
		ids[id] = true
	}
	out := make([]*pool, 0, len(ids))
	for _, id := range slices.SortedFunc(maps.Keys(ids), byID) {
		out = append(out, s.pool(id))
	}
	slices.SortStableFunc(out, func(a, b *pool) int {
		if a.later == b.later {
			return 0
		}
		if b.later {
			return -1
		}
		return 1
	})
	return out
}

// reaches says whether a device can be used on a node.
func (d *device) reaches(n *corev1.Node) bool {
	name, sel, all := d.reach()
	switch {
	case name != nil:
		return *name == n.Name
	case all:
		return true
	case sel != nil:
		ok, err := schedhelpers.MatchNodeSelectorTerms(n, sel)
		return ok && err == nil
	}
	return false
}

// reach says where a device can be used: on one node, on those of a selector, or on all.
func (d *device) reach() (name *string, sel *corev1.NodeSelector, all bool) {
	spec := &d.slice.Spec
	if is(spec.PerDeviceNodeSelection) {
		return d.NodeName, d.NodeSelector, is(d.AllNodes)
	}
	return spec.NodeName, spec.NodeSelector, is(spec.AllNodes)
}

// taintsOf are the taints of a device: its own, and those that rules give it.
func (s *State) taintsOf(id ID, own []resourcev1.DeviceTaint) []resourcev1.DeviceTaint {
	if len(s.rules) == 0 {
		return own
	}
	for _, name := range slices.Sorted(maps.Keys(s.rules)) {
		if r := s.rules[name]; Ruled(r, id) {
			own = append(own[:len(own):len(own)], r.Spec.Taint)
		}
	}
	return own
}

// Ruled says whether a rule is about a device.
func Ruled(r *resourcev1.DeviceTaintRule, id ID) bool {
	sel := r.Spec.DeviceSelector
	same := func(want *string, have string) bool { return want == nil || *want == have }
	return sel != nil && same(sel.Driver, id.Driver) && same(sel.Pool, id.Pool) && same(sel.Device, id.Device)
}

// Tolerates says whether a toleration is one of a taint.
func Tolerates(o *resourcev1.DeviceToleration, t *resourcev1.DeviceTaint) bool {
	if o.Effect != "" && o.Effect != t.Effect || o.Key != "" && o.Key != t.Key {
		return false
	}
	switch o.Operator {
	case resourcev1.DeviceTolerationOpExists:
		return true
	case "", resourcev1.DeviceTolerationOpEqual:
		return o.Key != "" && o.Value == t.Value
	}
	return false
}

// repelled is the first taint that is not tolerated and keeps a device from being
// given out; nil if there is none.
func repelled(taints []resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) *resourcev1.DeviceTaint {
	for i := range taints {
		t := &taints[i]
		if t.Effect != resourcev1.DeviceTaintEffectNoSchedule && t.Effect != resourcev1.DeviceTaintEffectNoExecute {
			continue
		}
		if !slices.ContainsFunc(tolerations, func(o resourcev1.DeviceToleration) bool { return Tolerates(&o, t) }) {
			return t
		}
	}
	return nil
}

// Evicting is a device of an allocation with a taint that ends the pods that use it,
// and that taint; nil if there is none.
func (s *State) Evicting(a *resourcev1.AllocationResult) (id ID, t *resourcev1.DeviceTaint) {
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		id = idOf(r)
		var own []resourcev1.DeviceTaint
		if d := s.device(id); d != nil {
			own = d.Taints
		}
		taints := slices.DeleteFunc(slices.Clone(s.taintsOf(id, own)), func(t resourcev1.DeviceTaint) bool {
			return t.Effect != resourcev1.DeviceTaintEffectNoExecute
		})
		if t := repelled(taints, r.Tolerations); t != nil {
			return id, t
		}
	}
	return ID{}, nil
}

// device returns a published device, or nil.
func (s *State) device(id ID) *device {
	at := poolID{id.Driver, id.Pool}
	if s.members[at] == nil {
		return nil
	}
	for _, d := range s.pool(at).devices {
		if d.Name == id.Device {
			return d
		}
	}
	return nil
}

// see makes the device's view.
func (d *device) see() (*expr.DeviceView, error) {
	if d.view == nil && d.broken == nil {
		d.view, d.broken = expr.ViewDevice(d.id.Driver, d.Device)
	}
	return d.view, d.broken
}

// meets says whether all selectors are true of a device. Each is asked only where
// those before it are.
func (d *device) meets(sel *selectors) (bool, error) {
	a, known := d.answers[sel.key]
	if !known {
		a.is, a.err = d.ask(sel)
		if len(d.answers) >= mostAnswers {
			clear(d.answers)
		}
		d.answers[sel.key] = a
	}
	return a.is, a.err
}

func (d *device) ask(sel *selectors) (bool, error) {
	if len(sel.all) == 0 {
		return true, nil
	}
	view, err := d.see()
	if err != nil {
		return false, err
	}
	for _, one := range sel.all {
		ok, err := one.program.Matches(view)
		if err != nil {
			return false, fmt.Errorf("cannot allocate all claims: %s: %w", one.where, err)
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}
