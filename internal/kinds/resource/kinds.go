// Package resource declares the kinds of resource.k8s.io/v1: devices, and claims for them.
package resource

import (
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
)

const group = "resource.k8s.io/v1"

// DeviceClass is a kind of devices that claims ask for by name.
var DeviceClass = &api.Kind[*resourcev1.DeviceClass]{
	API: group, Resource: "deviceclasses", Scope: api.Cluster,
	Prepare:  fill.Counted(func(c *resourcev1.DeviceClass) any { return c.Spec }),
	Validate: validateClass,
}

// ResourceClaim asks for devices, and says which were allocated.
var ResourceClaim = &api.Kind[*resourcev1.ResourceClaim]{
	API: group, Resource: "resourceclaims", Scope: api.Namespaced,
	Columns: []api.Column[*resourcev1.ResourceClaim]{
		column.Doc(api.Col("State", state), "A summary of the current state (allocated, pending, reserved, etc.)."),
	},
	Default: func(c *resourcev1.ResourceClaim) {
		defaultClaim(&c.Spec)
		if a := c.Status.Allocation; a != nil {
			for i := range a.Devices.Results {
				defaultTolerations(a.Devices.Results[i].Tolerations)
			}
		}
	},
	Prepare: func(c, old *resourcev1.ResourceClaim) {
		c.Status = resourcev1.ResourceClaimStatus{}
		if old != nil {
			c.Status = old.Status
		}
	},
	Validate:       validateClaim,
	Status:         true,
	PrepareStatus:  prepareClaimStatus,
	ValidateStatus: validateClaimStatus,
	Ungenerated:    true,
}

// ResourceClaimTemplate is what claims of pods are made from.
var ResourceClaimTemplate = &api.Kind[*resourcev1.ResourceClaimTemplate]{
	API: group, Resource: "resourceclaimtemplates", Scope: api.Namespaced,
	Default:  func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec) },
	Validate: validateTemplate,
}

// ResourceSlice lists devices of one driver that some nodes reach.
var ResourceSlice = &api.Kind[*resourcev1.ResourceSlice]{
	API: group, Resource: "resourceslices", Scope: api.Cluster,
	Columns: []api.Column[*resourcev1.ResourceSlice]{
		api.Col("Node", nodeName),
		api.Col("Driver", func(s *resourcev1.ResourceSlice) string { return s.Spec.Driver }),
		api.Col("Pool", func(s *resourcev1.ResourceSlice) string { return s.Spec.Pool.Name }),
	},
	Fields: map[string]func(*resourcev1.ResourceSlice) string{
		resourcev1.ResourceSliceSelectorNodeName: nodeName,
		resourcev1.ResourceSliceSelectorDriver:   func(s *resourcev1.ResourceSlice) string { return s.Spec.Driver },
		resourcev1.ResourceSliceSelectorPoolName: func(s *resourcev1.ResourceSlice) string { return s.Spec.Pool.Name },
	},
	Default: func(s *resourcev1.ResourceSlice) {
		for i := range s.Spec.Devices {
			for j := range s.Spec.Devices[i].Taints {
				stamp(&s.Spec.Devices[i].Taints[j])
			}
		}
	},
	Prepare:  fill.Counted(func(s *resourcev1.ResourceSlice) any { return s.Spec }),
	Validate: validateSlice,
}

// DeviceTaintRule keeps pods away from devices, or evicts them.
var DeviceTaintRule = &api.Kind[*resourcev1.DeviceTaintRule]{
	API: group, Resource: "devicetaintrules", Scope: api.Cluster,
	Default: func(r *resourcev1.DeviceTaintRule) { stamp(&r.Spec.Taint) },
	Prepare: func(r, old *resourcev1.DeviceTaintRule) {
		r.Status = resourcev1.DeviceTaintRuleStatus{}
		if old == nil {
			return
		}
		r.Status = old.Status
		if t := &r.Spec.Taint; t.Effect != old.Spec.Taint.Effect && t.TimeAdded.Equal(old.Spec.Taint.TimeAdded) {
			t.TimeAdded = nil
			stamp(t)
		}
	},
	Validate:       validateRule,
	Status:         true,
	PrepareStatus:  func(r, old *resourcev1.DeviceTaintRule) { r.Spec = old.Spec },
	ValidateStatus: validateRuleStatus,
}

func nodeName(s *resourcev1.ResourceSlice) string {
	if s.Spec.NodeName == nil {
		return ""
	}
	return *s.Spec.NodeName
}

func state(c *resourcev1.ResourceClaim) string {
	var out []string
	if c.DeletionTimestamp != nil {
		out = append(out, "deleted")
	}
	switch {
	case c.Status.Allocation != nil && len(c.Status.ReservedFor) > 0:
		out = append(out, "allocated", "reserved")
	case c.Status.Allocation != nil:
		out = append(out, "allocated")
	case c.DeletionTimestamp == nil:
		out = append(out, "pending")
	}
	return strings.Join(out, ",")
}

// stamp says when a taint was added, if it does not say so itself.
func stamp(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
	}
}

func defaultClaim(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if e := r.Exactly; e != nil {
			defaultCount(&e.AllocationMode, &e.Count)
			defaultTolerations(e.Tolerations)
		}
		for j := range r.FirstAvailable {
			f := &r.FirstAvailable[j]
			defaultCount(&f.AllocationMode, &f.Count)
			defaultTolerations(f.Tolerations)
		}
	}
}

func defaultCount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	fill.Zero(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		fill.Zero(count, 1)
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		fill.Zero(&list[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

// prepareClaimStatus keeps the spec, and forgets what was reported about devices
// that are no longer allocated.
func prepareClaimStatus(c, old *resourcev1.ResourceClaim) {
	c.Spec = old.Spec
	if c.Status.Allocation == nil && old.Status.Allocation != nil && len(old.Status.Devices) > 0 {
		c.Status.Devices = nil
	}
}
