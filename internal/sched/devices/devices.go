// Package devices gives devices to claims (resource.k8s.io/v1): it knows which
// devices drivers have published, which of them are in use, and finds those that a
// claim can have on a node.
//
//	ResourceSlice ─> pool ─> device ─┐
//	DeviceTaintRule ─> taints ───────┤
//	DeviceClass ─> selectors ────────┼─> [Want.On] one node ─> allocation
//	ResourceClaim ─> requests ───────┤
//	other claims' allocations ───────┘
//
// An allocation that has been decided on and is not written yet counts like one that
// is written ([State.Promise]).
package devices

import (
	"maps"
	"slices"
	"strconv"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/kinds/expr"
)

// A State is what is known of devices and claims. It is changed piece by piece and
// not safe for use by several goroutines.
type State struct {
	claims  map[string]*resourcev1.ResourceClaim // by namespace/name
	classes map[string]*resourcev1.DeviceClass
	slices  map[string]*resourcev1.ResourceSlice
	rules   map[string]*resourcev1.DeviceTaintRule

	members map[poolID]map[string]*resourcev1.ResourceSlice // the slices of each pool, by name
	local   map[string]map[poolID]int                       // how many slices of a pool are of one node, by the node's name
	wide    map[poolID]int                                  // and how many are of several
	pools   map[poolID]*pool                                // those that were looked at and have not changed since

	used     map[ID]*use
	holds    map[types.UID]*resourcev1.AllocationResult // what is counted in used, by claim
	promises map[types.UID]*promise                     // by claim
	programs map[string]*expr.DeviceProgram
}

// An ID names a device.
type ID struct{ Driver, Pool, Device string }

func (id ID) String() string { return id.Driver + "/" + id.Pool + "/" + id.Device }

func idOf(r *resourcev1.DeviceRequestAllocationResult) ID { return ID{r.Driver, r.Pool, r.Device} }

// A use is what claims have of a device, admin access aside.
type use struct {
	whole  int // claims that have it for themselves
	shares int
	taken  amounts // by the shares together
}

// amounts are quantities by the name of a capacity or counter. They are never
// changed in place.
type amounts map[string]resource.Quantity

// plus is a + b, or a - b if sign is negative.
func (a amounts) plus(b amounts, sign int) amounts {
	out := maps.Clone(a)
	if out == nil {
		out = amounts{}
	}
	for name, q := range b {
		sum := out[name].DeepCopy()
		if sign < 0 {
			sum.Sub(q)
		} else {
			sum.Add(q)
		}
		out[name] = sum
	}
	return out
}

// A promise is what has been decided about a claim and is not written yet.
type promise struct {
	allocation *resourcev1.AllocationResult // nil if the claim has one already
	pods       map[types.UID]bool           // those that are to be among its consumers
}

// NewState returns a State of nothing.
func NewState() *State {
	return &State{
		claims: map[string]*resourcev1.ResourceClaim{}, classes: map[string]*resourcev1.DeviceClass{},
		slices: map[string]*resourcev1.ResourceSlice{}, rules: map[string]*resourcev1.DeviceTaintRule{},
		members: map[poolID]map[string]*resourcev1.ResourceSlice{}, local: map[string]map[poolID]int{}, wide: map[poolID]int{}, pools: map[poolID]*pool{},
		used: map[ID]*use{}, holds: map[types.UID]*resourcev1.AllocationResult{}, promises: map[types.UID]*promise{},
		programs: map[string]*expr.DeviceProgram{},
	}
}

func claimKey(c *resourcev1.ResourceClaim) string { return c.Namespace + "/" + c.Name }

// Claim returns a claim, or nil.
func (s *State) Claim(namespace, name string) *resourcev1.ResourceClaim {
	return s.claims[namespace+"/"+name]
}

// SetClaim takes in a claim's state, unless a later one is known. It returns the one
// before, if there was one of the same claim, and whether it was taken.
func (s *State) SetClaim(c *resourcev1.ResourceClaim) (old *resourcev1.ResourceClaim, taken bool) {
	old = s.claims[claimKey(c)]
	if old != nil && older(c, old) {
		return old, false
	}
	s.claims[claimKey(c)] = c
	if old != nil && old.UID != c.UID {
		s.count(old.UID, nil)
		old = nil
	}
	s.count(c.UID, c.Status.Allocation)
	return old, true
}

// older says whether a is an earlier state of what may be another object of the name.
func older(a, b *resourcev1.ResourceClaim) bool {
	x, err1 := strconv.ParseInt(a.ResourceVersion, 10, 64)
	y, err2 := strconv.ParseInt(b.ResourceVersion, 10, 64)
	return err1 == nil && err2 == nil && x < y
}

// Written takes in the state of a claim as a write has left it: the watch may
// take its time to show it. If the claim is gone by now it stays so.
func (s *State) Written(c *resourcev1.ResourceClaim) {
	if have := s.claims[claimKey(c)]; have != nil && have.UID == c.UID {
		s.SetClaim(c)
	}
}

// DropClaim forgets a claim.
func (s *State) DropClaim(c *resourcev1.ResourceClaim) {
	if have := s.claims[claimKey(c)]; have != nil && have.UID == c.UID {
		delete(s.claims, claimKey(c))
	}
	s.count(c.UID, nil)
}

// Allocation is what a claim has, or is promised; nil if nothing.
func (s *State) Allocation(c *resourcev1.ResourceClaim) *resourcev1.AllocationResult {
	if a := c.Status.Allocation; a != nil {
		return a
	}
	if p := s.promises[c.UID]; p != nil {
		return p.allocation
	}
	return nil
}

// Promise notes that a pod is to be among the consumers of a claim, with an
// allocation if it has none yet. [State.Release] ends that.
func (s *State) Promise(c *resourcev1.ResourceClaim, a *resourcev1.AllocationResult, pod types.UID) {
	p := s.promises[c.UID]
	if p == nil {
		p = &promise{pods: map[types.UID]bool{}}
		s.promises[c.UID] = p
	}
	if p.pods[pod] = true; p.allocation == nil {
		p.allocation = a
	}
	s.count(c.UID, c.Status.Allocation)
}

// Release ends a promise: it is kept, or nothing will come of it.
func (s *State) Release(namespace, name string, claim, pod types.UID) {
	p := s.promises[claim]
	if p == nil {
		return
	}
	if delete(p.pods, pod); len(p.pods) == 0 {
		delete(s.promises, claim)
	}
	var has *resourcev1.AllocationResult
	if c := s.Claim(namespace, name); c != nil && c.UID == claim {
		has = c.Status.Allocation
	}
	s.count(claim, has)
}

// Full says whether a claim has so many consumers, or is promised to so many, that
// the pod can not be one of them.
func (s *State) Full(c *resourcev1.ResourceClaim, pod types.UID) bool {
	all := map[types.UID]bool{}
	for _, r := range c.Status.ReservedFor {
		all[r.UID] = true
	}
	if p := s.promises[c.UID]; p != nil {
		maps.Copy(all, p.pods)
	}
	return !all[pod] && len(all) >= resourcev1.ResourceClaimReservedForMaxSize
}

// Promised says whether a pod other than this is promised the claim.
func (s *State) Promised(c *resourcev1.ResourceClaim, pod types.UID) bool {
	p := s.promises[c.UID]
	return p != nil && (len(p.pods) > 1 || len(p.pods) == 1 && !p.pods[pod])
}

// count makes used agree with what a claim has, or is promised if that is nothing.
func (s *State) count(claim types.UID, a *resourcev1.AllocationResult) {
	if p := s.promises[claim]; a == nil && p != nil {
		a = p.allocation
	}
	old := s.holds[claim]
	if old == a {
		return
	}
	s.use(old, -1)
	s.use(a, 1)
	if a == nil {
		delete(s.holds, claim)
	} else {
		s.holds[claim] = a
	}
}

func (s *State) use(a *resourcev1.AllocationResult, by int) {
	if a == nil {
		return
	}
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		if r.AdminAccess != nil && *r.AdminAccess {
			continue
		}
		id := idOf(r)
		u := s.used[id]
		if u == nil {
			u = &use{}
			s.used[id] = u
		}
		if r.ShareID == nil {
			u.whole += by
		} else {
			u.shares += by
			u.taken = u.taken.plus(amountsOf(r.ConsumedCapacity), by)
		}
		if u.whole == 0 && u.shares == 0 {
			delete(s.used, id)
		}
	}
}

func amountsOf(m map[resourcev1.QualifiedName]resource.Quantity) amounts {
	out := amounts{}
	for name, q := range m {
		out[string(name)] = q
	}
	return out
}

// Used says whether a claim has the device, or a share of it.
func (s *State) Used(id ID) bool { return s.used[id] != nil }

// SetClass takes in a device class.
func (s *State) SetClass(c *resourcev1.DeviceClass) { s.classes[c.Name] = c }

// DropClass forgets a device class.
func (s *State) DropClass(c *resourcev1.DeviceClass) { delete(s.classes, c.Name) }

// SetRule takes in a rule that taints devices.
func (s *State) SetRule(r *resourcev1.DeviceTaintRule) { s.rules[r.Name] = r }

// DropRule forgets a rule that taints devices.
func (s *State) DropRule(r *resourcev1.DeviceTaintRule) { delete(s.rules, r.Name) }

// SetSlice takes in a slice of a pool.
func (s *State) SetSlice(n *resourcev1.ResourceSlice) {
	if old := s.slices[n.Name]; old != nil {
		s.drop(old)
	}
	s.slices[n.Name] = n
	id := poolOf(n)
	if s.members[id] == nil {
		s.members[id] = map[string]*resourcev1.ResourceSlice{}
	}
	s.members[id][n.Name] = n
	if n.Spec.NodeName == nil {
		s.wide[id]++
	} else {
		at := s.local[*n.Spec.NodeName]
		if at == nil {
			at = map[poolID]int{}
			s.local[*n.Spec.NodeName] = at
		}
		at[id]++
	}
	delete(s.pools, id)
}

// DropSlice forgets a slice of a pool.
func (s *State) DropSlice(n *resourcev1.ResourceSlice) {
	if old := s.slices[n.Name]; old != nil && old.UID == n.UID {
		s.drop(old)
	}
}

func (s *State) drop(old *resourcev1.ResourceSlice) {
	id := poolOf(old)
	delete(s.slices, old.Name)
	if delete(s.members[id], old.Name); len(s.members[id]) == 0 {
		delete(s.members, id)
	}
	less := func(m map[poolID]int) {
		if m[id]--; m[id] == 0 {
			delete(m, id)
		}
	}
	if n := old.Spec.NodeName; n == nil {
		less(s.wide)
	} else if less(s.local[*n]); len(s.local[*n]) == 0 {
		delete(s.local, *n)
	}
	delete(s.pools, id)
}

// HasSlice says whether a slice is known in this state or a later one.
func (s *State) HasSlice(n *resourcev1.ResourceSlice) bool {
	have := s.slices[n.Name]
	return have != nil && have.UID == n.UID && have.Generation >= n.Generation
}

// HasClass says whether a device class is known in this state or a later one.
func (s *State) HasClass(c *resourcev1.DeviceClass) bool {
	have := s.classes[c.Name]
	return have != nil && have.UID == c.UID && have.Generation >= c.Generation
}

// HasRule says whether a rule that taints devices is known in this state or a later one.
func (s *State) HasRule(r *resourcev1.DeviceTaintRule) bool {
	have := s.rules[r.Name]
	return have != nil && have.UID == r.UID && have.Generation >= r.Generation
}

// Class returns a device class, or nil.
func (s *State) Class(name string) *resourcev1.DeviceClass { return s.classes[name] }

// ClassNames are the names of all device classes.
func (s *State) ClassNames() []string { return slices.Sorted(maps.Keys(s.classes)) }

// mostPrograms is how many compiled expressions are kept.
const mostPrograms = 1024

func (s *State) program(expression string) (*expr.DeviceProgram, error) {
	if p := s.programs[expression]; p != nil {
		return p, nil
	}
	p, err := expr.DeviceProgramOf(expression)
	if err != nil {
		return nil, err
	}
	if len(s.programs) >= mostPrograms {
		clear(s.programs)
	}
	s.programs[expression] = p
	return p, nil
}
