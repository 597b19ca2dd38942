package devices

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"proa/internal/kinds/expr"
)

// capacityOf finds what a request says of a capacity, whichever of the two sides
// names the driver's domain.
func capacityOf[V any](m map[resourcev1.QualifiedName]V, name resourcev1.QualifiedName, driver string) (v V, ok bool) {
	if v, ok = m[name]; ok {
		return v, true
	}
	domain, id := expr.QualifiedParts(name, driver)
	if v, ok = m[resourcev1.QualifiedName(domain+"/"+id)]; ok {
		return v, true
	}
	if domain == driver {
		v, ok = m[resourcev1.QualifiedName(id)]
	}
	return v, ok
}

// roomy says whether a device has all the capacity that is asked for, were it free.
func (d *device) roomy(ask map[resourcev1.QualifiedName]resource.Quantity) bool {
	for name, q := range ask {
		has, ok := capacityOf(d.Capacity, name, d.id.Driver)
		if !ok || has.Value.Cmp(q) < 0 {
			return false
		}
	}
	return true
}

// consumes is what a share of a device takes of each of its capacities; false if the
// device's policy does not allow a share of the size.
func (d *device) consumes(ask map[resourcev1.QualifiedName]resource.Quantity) (map[resourcev1.QualifiedName]resource.Quantity, bool) {
	out := map[resourcev1.QualifiedName]resource.Quantity{}
	for name, c := range d.Capacity {
		q, asked := capacityOf(ask, name, d.id.Driver)
		policy := c.RequestPolicy
		switch {
		case policy == nil && !asked:
			q = c.Value
		case policy == nil:
		case !asked && policy.Default != nil:
			q = *policy.Default
		case !asked:
			q = c.Value
		default:
			var ok bool
			if q, ok = rounded(q, policy); !ok {
				return nil, false
			}
		}
		if q.Cmp(c.Value) > 0 {
			return nil, false
		}
		out[name] = q
	}
	return out, true
}

// rounded is the least that a policy allows and is no less than what is asked for.
func rounded(q resource.Quantity, p *resourcev1.CapacityRequestPolicy) (resource.Quantity, bool) {
	for _, v := range p.ValidValues {
		if v.Cmp(q) >= 0 {
			return v, true
		}
	}
	if len(p.ValidValues) > 0 {
		return q, false
	}
	r := p.ValidRange
	if r == nil {
		return q, true
	}
	if r.Min != nil && q.Cmp(*r.Min) < 0 {
		q = *r.Min
	}
	if r.Step != nil && r.Min != nil {
		q = stepped(q, *r.Min, *r.Step)
	}
	return q, r.Max == nil || q.Cmp(*r.Max) <= 0
}

// stepped is the least of min, min + step, min + 2 step … that is no less than q.
func stepped(q, min, step resource.Quantity) resource.Quantity {
	unit, scale := (*resource.Quantity).Value, resource.NewQuantity
	for _, v := range []resource.Quantity{q, min, step} {
		if v.MilliValue()%1000 != 0 {
			unit, scale = (*resource.Quantity).MilliValue, resource.NewMilliQuantity
		}
	}
	over, by := unit(&q)-unit(&min), unit(&step)
	if by <= 0 || over%by == 0 {
		return q
	}
	return *scale(unit(&min)+(over/by+1)*by, q.Format)
}
