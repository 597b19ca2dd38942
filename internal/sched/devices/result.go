package devices

import (
	"slices"
	"strconv"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Allocations are what was found, in the order of the claims.
func (f *Found) Allocations() []*resourcev1.AllocationResult {
	out := make([]*resourcev1.AllocationResult, len(f.want.claims))
	for i := range out {
		out[i] = f.allocation(i)
	}
	return out
}

func (f *Found) allocation(i int) *resourcev1.AllocationResult {
	c := f.want.claims[i]
	out := &resourcev1.AllocationResult{}
	var served []*alternative
	var chosen []*device
	for _, g := range f.grants {
		if g.claim != i {
			continue
		}
		if !slices.Contains(served, g.a) {
			served = append(served, g.a)
		}
		chosen = append(chosen, g.d)
		r := resourcev1.DeviceRequestAllocationResult{
			Request: g.a.name, Driver: g.d.id.Driver, Pool: g.d.id.Pool, Device: g.d.id.Device, Tolerations: g.a.tolerations,
			BindingConditions: g.d.BindingConditions, BindingFailureConditions: g.d.BindingFailureConditions,
			SkipNodeOperations: g.d.slice.Spec.SkipNodeOperations,
		}
		if g.a.admin {
			r.AdminAccess = new(true)
		} else if g.d.shared {
			r.ShareID = new(shareID(c.UID, len(out.Devices.Results)))
			r.ConsumedCapacity = g.takes
		}
		out.Devices.Results = append(out.Devices.Results, r)
	}
	for _, a := range served {
		for _, k := range a.class.Spec.Config {
			out.Devices.Config = append(out.Devices.Config, resourcev1.DeviceAllocationConfiguration{
				Source: resourcev1.AllocationConfigSourceClass, Requests: []string{a.name}, DeviceConfiguration: k.DeviceConfiguration,
			})
		}
	}
	for _, k := range c.Spec.Devices.Config {
		if len(k.Requests) == 0 || slices.ContainsFunc(served, func(a *alternative) bool {
			return slices.Contains(k.Requests, a.request) || slices.Contains(k.Requests, a.name)
		}) {
			out.Devices.Config = append(out.Devices.Config, resourcev1.DeviceAllocationConfiguration{
				Source: resourcev1.AllocationConfigSourceClaim, Requests: k.Requests, DeviceConfiguration: k.DeviceConfiguration,
			})
		}
	}
	out.NodeSelector = selectorOf(chosen, f.node)
	return out.DeepCopy() // shares nothing with what drivers and users wrote
}

// shareID names the nth result of a claim. It is the same each time that is worked out.
func shareID(claim types.UID, n int) types.UID {
	return types.UID(uuid.NewSHA1(uuid.NameSpaceOID, []byte(string(claim)+"/"+strconv.Itoa(n))).String())
}

// selectorOf says where all of the devices can be used; nil if that is everywhere.
func selectorOf(chosen []*device, n *corev1.Node) *corev1.NodeSelector {
	var term corev1.NodeSelectorTerm
	for _, d := range chosen {
		name, sel, _ := d.reach()
		if name != nil || is(d.BindsToNode) {
			return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{n.Name}},
			}}}}
		}
		if sel == nil {
			continue
		}
		for _, t := range sel.NodeSelectorTerms {
			term.MatchExpressions = join(term.MatchExpressions, t.MatchExpressions)
			term.MatchFields = join(term.MatchFields, t.MatchFields)
		}
	}
	if len(term.MatchExpressions)+len(term.MatchFields) == 0 {
		return nil
	}
	return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}
}

// join is the requirements of both, each once.
func join(all, more []corev1.NodeSelectorRequirement) []corev1.NodeSelectorRequirement {
	for _, r := range more {
		if !slices.ContainsFunc(all, func(o corev1.NodeSelectorRequirement) bool {
			return o.Key == r.Key && o.Operator == r.Operator && slices.Equal(o.Values, r.Values)
		}) {
			all = append(all, r)
		}
	}
	return all
}
