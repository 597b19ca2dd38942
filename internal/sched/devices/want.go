package devices

import (
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"proa/internal/kinds/expr"
)

// A Want is claims of one pod that are to get devices together, read once.
type Want struct {
	s      *State
	claims []*claim
	tries  int
}

// A claim is a ResourceClaim with what is asked of devices.
type claim struct {
	*resourcev1.ResourceClaim
	requests []*request
	rules    []*constraint
}

// A request is served by the first of its alternatives that can be.
type request struct {
	name string
	of   []*alternative
}

// An alternative is one way to serve a request: what is asked exactly, or one of
// those in firstAvailable.
type alternative struct {
	request     string // the request's name
	name        string // as results have it: request, or request/alternative
	nth         int
	class       *resourcev1.DeviceClass
	sel         *selectors
	all         bool
	count       int
	admin       bool
	tolerations []resourcev1.DeviceToleration
	capacity    map[resourcev1.QualifiedName]resource.Quantity
	derived     []derived
}

// selectors are those of a class and a request.
type selectors struct {
	key string // the same for those that answer the same
	all []selector
}

type selector struct {
	program *expr.DeviceProgram
	where   string
}

// A derived attribute is what an expression makes of a device.
type derived struct {
	name    resourcev1.FullyQualifiedName
	program *expr.DeviceProgram
}

// Want reads what claims ask for. The error says what keeps them from being served
// anywhere.
func (s *State) Want(claims []*resourcev1.ResourceClaim) (*Want, error) {
	w := &Want{s: s}
	for _, c := range claims {
		k := &claim{ResourceClaim: c}
		for i := range c.Spec.Devices.Requests {
			r, err := s.request(&c.Spec.Devices.Requests[i])
			if err != nil {
				return nil, fmt.Errorf("resourceclaim %q: %w", c.Name, err)
			}
			k.requests = append(k.requests, r)
		}
		for i := range c.Spec.Devices.Constraints {
			k.rules = append(k.rules, newConstraint(&c.Spec.Devices.Constraints[i]))
		}
		w.claims = append(w.claims, k)
	}
	return w, nil
}

func (s *State) request(r *resourcev1.DeviceRequest) (*request, error) {
	out := &request{name: r.Name}
	add := func(a *alternative, f *resourcev1.DeviceSubRequest) error {
		a.request, a.nth = r.Name, len(out.of)
		a.tolerations = f.Tolerations
		switch f.AllocationMode {
		case resourcev1.DeviceAllocationModeAll:
			a.all = true
		case resourcev1.DeviceAllocationModeExactCount:
			a.count = int(f.Count)
		default:
			return fmt.Errorf("request %s: allocation mode %q is not known here", a.name, f.AllocationMode)
		}
		if f.Capacity != nil {
			a.capacity = f.Capacity.Requests
		}
		if a.class = s.classes[f.DeviceClassName]; a.class == nil {
			return fmt.Errorf("request %s: device class %s does not exist", a.name, f.DeviceClassName)
		}
		a.sel = &selectors{}
		if err := s.compile(a.sel, a.class.Spec.Selectors, "class "+a.class.Name); err != nil {
			return err
		}
		if err := s.compile(a.sel, f.Selectors, "request "+a.name); err != nil {
			return err
		}
		for i := range f.DerivedAttributes {
			d := &f.DerivedAttributes[i]
			p, err := s.program(d.Expression)
			if err != nil {
				return fmt.Errorf("request %s: derived attribute %s: %w", a.name, d.Name, err)
			}
			a.derived = append(a.derived, derived{d.Name, p})
		}
		out.of = append(out.of, a)
		return nil
	}
	if e := r.Exactly; e != nil {
		return out, add(&alternative{name: r.Name, admin: is(e.AdminAccess)}, &resourcev1.DeviceSubRequest{
			DeviceClassName: e.DeviceClassName, Selectors: e.Selectors, AllocationMode: e.AllocationMode, Count: e.Count,
			Tolerations: e.Tolerations, Capacity: e.Capacity, DerivedAttributes: e.DerivedAttributes,
		})
	}
	for i := range r.FirstAvailable {
		f := &r.FirstAvailable[i]
		if err := add(&alternative{name: r.Name + "/" + f.Name}, f); err != nil {
			return nil, err
		}
	}
	if len(out.of) == 0 {
		return nil, fmt.Errorf("request %s asks in a way that is not known here", r.Name)
	}
	return out, nil
}

func (s *State) compile(into *selectors, all []resourcev1.DeviceSelector, of string) error {
	for i := range all {
		where := fmt.Sprintf("selector %d of %s", i, of)
		if all[i].CEL == nil {
			return fmt.Errorf("%s is of a kind that is not known here", where)
		}
		p, err := s.program(all[i].CEL.Expression)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		into.key += where + "\x00" + all[i].CEL.Expression + "\x00"
		into.all = append(into.all, selector{p, where})
	}
	return nil
}

// A constraint is about devices of one claim together. It remembers those that have
// been chosen so far.
type constraint struct {
	name     resourcev1.FullyQualifiedName
	distinct bool
	requests []string
	chosen   []values
}

// values are those of an attribute, each with its type before it.
type values map[string]bool

func newConstraint(c *resourcev1.DeviceConstraint) *constraint {
	if c.DistinctAttribute != nil {
		return &constraint{name: *c.DistinctAttribute, distinct: true, requests: c.Requests}
	}
	k := &constraint{requests: c.Requests}
	if c.MatchAttribute != nil {
		k.name = *c.MatchAttribute
	}
	return k
}

func (c *constraint) about(a *alternative) bool {
	return len(c.requests) == 0 || slices.Contains(c.requests, a.request) || slices.Contains(c.requests, a.name)
}

// add takes a device in beside those chosen before, if that is allowed.
func (c *constraint) add(v values) bool {
	if len(v) == 0 {
		return false
	}
	if c.distinct {
		for _, before := range c.chosen {
			if len(before.with(v)) > 0 {
				return false
			}
		}
	} else if n := len(c.chosen); n > 0 {
		if v = c.chosen[n-1].with(v); len(v) == 0 {
			return false
		}
	}
	c.chosen = append(c.chosen, v)
	return true
}

func (c *constraint) remove() { c.chosen = c.chosen[:len(c.chosen)-1] }

// with are the values that are in both.
func (v values) with(o values) values {
	out := values{}
	for x := range v {
		if o[x] {
			out[x] = true
		}
	}
	return out
}

// valuesOf are the values of an attribute of a device, derived ones before its own.
func (d *device) valuesOf(name resourcev1.FullyQualifiedName, a *alternative) (values, error) {
	for i := range a.derived {
		if a.derived[i].name != name {
			continue
		}
		view, err := d.see()
		if err == nil {
			var got resourcev1.DeviceAttribute
			if got, err = a.derived[i].program.Derive(view); err == nil {
				return valuesIn(&got), nil
			}
		}
		return nil, fmt.Errorf("derived attribute %s of request %s on device %s: %w", name, a.name, d.id, err)
	}
	v, known := d.values[name]
	if !known {
		if got, ok := d.attribute(name); ok {
			v = valuesIn(&got)
		}
		if d.values == nil || len(d.values) >= mostAnswers {
			d.values = map[resourcev1.FullyQualifiedName]values{}
		}
		d.values[name] = v
	}
	return v, nil
}

// attribute is one of those that the driver has published.
func (d *device) attribute(name resourcev1.FullyQualifiedName) (a resourcev1.DeviceAttribute, ok bool) {
	if a, ok = d.Attributes[resourcev1.QualifiedName(name)]; ok {
		return a, true
	}
	domain, id, _ := strings.Cut(string(name), "/")
	if domain == d.id.Driver {
		a, ok = d.Attributes[resourcev1.QualifiedName(id)]
	}
	return a, ok
}

func valuesIn(a *resourcev1.DeviceAttribute) values {
	out := values{}
	put := func(kind string, v any) { out[fmt.Sprint(kind, v)] = true }
	if a.IntValue != nil {
		put("int ", *a.IntValue)
	}
	if a.BoolValue != nil {
		put("bool ", *a.BoolValue)
	}
	if a.StringValue != nil {
		put("string ", *a.StringValue)
	}
	if a.VersionValue != nil {
		put("version ", *a.VersionValue)
	}
	for _, v := range a.IntValues {
		put("int ", v)
	}
	for _, v := range a.BoolValues {
		put("bool ", v)
	}
	for _, v := range a.StringValues {
		put("string ", v)
	}
	for _, v := range a.VersionValues {
		put("version ", v)
	}
	return out
}
