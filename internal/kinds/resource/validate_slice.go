package resource

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

const maxPolicyValues = 10

func validateSlice(s, old *resourcev1.ResourceSlice) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	spec := &s.Spec
	add(validate.Driver(spec.Driver, specPath.Child("driver"))...)
	add(pool(spec.Pool.Name, specPath.Child("pool", "name"))...)
	if n := spec.Pool.ResourceSliceCount; n <= 0 {
		add(field.Invalid(specPath.Child("pool", "resourceSliceCount"), n, "must be greater than zero"))
	}
	if n := spec.Pool.Generation; n < 0 {
		add(field.Invalid(specPath.Child("pool", "generation"), n, "must be greater than or equal to zero"))
	}
	if old != nil {
		add(validate.Same(spec.Pool.Name, old.Spec.Pool.Name, specPath.Child("pool", "name"))...)
		add(validate.Same(spec.Driver, old.Spec.Driver, specPath.Child("driver"))...)
		add(validate.Same(spec.NodeName, old.Spec.NodeName, specPath.Child("nodeName"))...)
	}
	add(reach(spec)...)
	if spec.SharedCounters != nil && spec.Devices != nil {
		add(field.Invalid(specPath, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(spec.Devices, advanced) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	perDevice := spec.PerDeviceNodeSelection != nil && *spec.PerDeviceNodeSelection
	add(set(spec.Devices, most, specPath.Child("devices"), func(d resourcev1.Device) string { return d.Name },
		func(d resourcev1.Device, at *field.Path) field.ErrorList {
			return validateDevice(&d, spec, perDevice, at)
		})...)
	add(set(spec.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, specPath.Child("sharedCounters"),
		func(c resourcev1.CounterSet) string { return c.Name },
		func(c resourcev1.CounterSet, at *field.Path) field.ErrorList {
			return append(counterName(c.Name, at.Child("name")), counters(c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Child("counters"))...)
		})...)
	if a := spec.PartitionTypeAttribute; a != nil {
		add(fullyQualified(*a, specPath.Child("partitionTypeAttribute"))...)
	}
	add(skipped(spec.SkipNodeOperations, specPath.Child("skipNodeOperations"))...)
	return errs
}

// reach checks that a slice says in one way which nodes reach its devices.
func reach(s *resourcev1.ResourceSliceSpec) (errs field.ErrorList) {
	var given []string
	if at := specPath.Child("nodeName"); s.NodeName != nil && *s.NodeName == "" {
		errs = append(errs, field.Invalid(at, *s.NodeName, "must be either unset or set to a non-empty string"))
	} else if s.NodeName != nil {
		given = append(given, "`nodeName`")
		errs = append(errs, validate.Subdomain(*s.NodeName, at)...)
	}
	if n := s.NodeSelector; n != nil {
		given = append(given, "`nodeSelector`")
		at := specPath.Child("nodeSelector")
		errs = append(errs, podspec.ValidateNodeSelector(n, at)...)
		if len(n.NodeSelectorTerms) != 1 {
			errs = append(errs, field.Invalid(at.Child("nodeSelectorTerms"), n.NodeSelectorTerms, "must have exactly one node selector term"))
		}
	}
	for _, b := range []struct {
		name string
		is   *bool
	}{{"allNodes", s.AllNodes}, {"perDeviceNodeSelection", s.PerDeviceNodeSelection}} {
		switch {
		case b.is != nil && *b.is:
			given = append(given, "`"+b.name+"`")
		case b.is != nil:
			errs = append(errs, field.Invalid(specPath.Child(b.name), false, "must be either unset or set to true"))
		}
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(given) {
	case 0:
		return append(errs, field.Required(specPath, one))
	case 1:
		return errs
	}
	return append(errs, field.Invalid(specPath, "{"+strings.Join(given, ", ")+"}", one+", but multiple fields are set"))
}

// advanced says whether a device has what makes it costly to allocate.
func advanced(d resourcev1.Device) bool {
	if len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 {
		return true
	}
	for _, a := range d.Attributes {
		if len(a.IntValues)+len(a.BoolValues)+len(a.StringValues)+len(a.VersionValues) > 0 {
			return true
		}
	}
	return false
}

func counterName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return validate.Label(name, at)
}

// counters checks the names of counters; any quantity is fine.
func counters(m map[string]resourcev1.Counter, most int, at *field.Path) (errs field.ErrorList) {
	switch {
	case len(m) == 0:
		return field.ErrorList{field.Required(at, "")}
	case len(m) > most:
		return field.ErrorList{field.TooMany(at, len(m), most)}
	}
	for name := range m {
		errs = append(errs, validate.Label(name, at.Key(name))...)
	}
	return errs
}

func validateDevice(d *resourcev1.Device, s *resourcev1.ResourceSliceSpec, perDevice bool, at *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	add(validate.Label(d.Name, at.Child("name"))...)
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		add(field.Invalid(at, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	values := 0
	for name, a := range d.Attributes {
		p := at.Child("attributes").Key(string(name))
		add(qualified(string(name), p)...)
		n, e := attribute(&a, p)
		values += n
		add(e...)
	}
	if values > resourcev1.ResourceSliceMaxAttributeValuesPerDevice {
		add(field.Invalid(at.Child("attributes"), values, fmt.Sprintf("the total number of attribute values must not exceed %d", resourcev1.ResourceSliceMaxAttributeValuesPerDevice)))
	}
	for name, c := range d.Capacity {
		p := at.Child("capacity").Key(string(name))
		add(qualified(string(name), p)...)
		switch many := d.AllowMultipleAllocations; {
		case c.RequestPolicy == nil:
		case many == nil || !*many:
			add(field.Forbidden(p.Child("requestPolicy"), "allowMultipleAllocations must be true"))
		default:
			add(requestPolicy(&c, p.Child("requestPolicy"))...)
		}
	}
	add(each(d.Taints, resourcev1.DeviceTaintsMaxLength, at.Child("taints"),
		func(t resourcev1.DeviceTaint, at *field.Path) field.ErrorList { return taint(&t, at) })...)
	add(set(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, at.Child("consumesCounters"),
		func(c resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(c resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
			errs := counterName(c.CounterSet, at.Child("counterSet"))
			errs = append(errs, counters(c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Child("counters"))...)
			return append(errs, set(c.CompatibilityGroups, resourcev1.DeviceCompatibilityGroupsMaxSize, at.Child("compatibilityGroups"), itself, validate.Label)...)
		})...)
	add(deviceReach(d, perDevice, at)...)
	add(bindingConditions(d.BindingConditions, d.BindingFailureConditions, at)...)
	for name, r := range d.NodeAllocatableResources {
		add(allocatable(name, &r, d, at.Child("nodeAllocatableResources").Key(string(name)))...)
	}
	return errs
}

// deviceReach checks that each device says which nodes reach it, if the slice does not.
func deviceReach(d *resourcev1.Device, perDevice bool, at *field.Path) (errs field.ErrorList) {
	if !perDevice {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			return field.ErrorList{field.Invalid(at, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	var given []string
	if p := at.Child("nodeName"); d.NodeName != nil && *d.NodeName == "" {
		errs = append(errs, field.Invalid(p, *d.NodeName, "must not be empty"))
	} else if d.NodeName != nil {
		given = append(given, "`nodeName`")
		errs = append(errs, validate.Subdomain(*d.NodeName, p)...)
	}
	if d.NodeSelector != nil {
		given = append(given, "`nodeSelector`")
		errs = append(errs, podspec.ValidateNodeSelector(d.NodeSelector, at.Child("nodeSelector"))...)
	}
	switch {
	case d.AllNodes != nil && *d.AllNodes:
		given = append(given, "`allNodes`")
	case d.AllNodes != nil:
		errs = append(errs, field.Invalid(at.Child("allNodes"), false, "must be either unset or set to true"))
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch len(given) {
	case 0:
		return append(errs, field.Required(at, one))
	case 1:
		return errs
	}
	return append(errs, field.Invalid(at, "{"+strings.Join(given, ", ")+"}", one))
}

// semver is a version as semver.org 2.0.0 writes it.
var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

// attribute checks that an attribute has a value of one type, and counts its values.
func attribute(a *resourcev1.DeviceAttribute, at *field.Path) (values int, errs field.ErrorList) {
	types := 0
	count := func(n int, given bool) {
		if given {
			types, values = types+1, values+n
		}
	}
	text := func(s string, at *field.Path) field.ErrorList {
		return validate.AtMost(s, at, resourcev1.DeviceAttributeMaxValueLength)
	}
	version := func(s string, at *field.Path) (errs field.ErrorList) {
		if !semver.MatchString(s) {
			errs = append(errs, field.Invalid(at, s, "must be a string compatible with semver.org spec 2.0.0"))
		}
		return append(errs, text(s, at)...)
	}
	count(1, a.BoolValue != nil)
	count(1, a.IntValue != nil)
	count(1, a.StringValue != nil)
	count(1, a.VersionValue != nil)
	count(len(a.BoolValues), a.BoolValues != nil)
	count(len(a.IntValues), a.IntValues != nil)
	count(len(a.StringValues), a.StringValues != nil)
	count(len(a.VersionValues), a.VersionValues != nil)
	if a.StringValue != nil {
		errs = append(errs, text(*a.StringValue, at.Child("string"))...)
	}
	if a.VersionValue != nil {
		errs = append(errs, version(*a.VersionValue, at.Child("version"))...)
	}
	errs = append(errs, each(a.StringValues, -1, at.Child("strings"), text)...)
	errs = append(errs, each(a.VersionValues, -1, at.Child("versions"), version)...)
	switch {
	case types == 0:
		errs = append(errs, field.Invalid(at, "", "exactly one value must be specified"))
	case types > 1:
		errs = append(errs, field.Invalid(at, *a, "exactly one value must be specified"))
	}
	return values, errs
}

// requestPolicy checks which amounts of a capacity can be asked for.
func requestPolicy(c *resourcev1.DeviceCapacity, at *field.Path) field.ErrorList {
	p := c.RequestPolicy
	byValue, byRange := len(p.ValidValues) > 0, p.ValidRange != nil
	switch {
	case byValue && byRange:
		return field.ErrorList{field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case byValue && p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validValues is defined")}
	case byValue:
		return validValues(*p.Default, c.Value, p.ValidValues, at.Child("validValues"))
	case byRange && p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validRange is defined")}
	case byRange:
		return validRange(*p.Default, c.Value, p.ValidRange, at.Child("validRange"))
	}
	return nil
}

func validValues(def, most resource.Quantity, list []resource.Quantity, at *field.Path) (errs field.ErrorList) {
	for i := 1; i < len(list); i++ {
		if list[i-1].Cmp(list[i]) > 0 {
			errs = append(errs, field.Invalid(at.Index(i), list[i].String(), "values must be sorted in ascending order"))
		}
	}
	errs = append(errs, set(list, maxPolicyValues, at, func(q resource.Quantity) int64 { return q.Value() },
		func(q resource.Quantity, at *field.Path) field.ErrorList {
			if q.Cmp(most) > 0 {
				return field.ErrorList{field.Invalid(at, q.String(), "option is larger than capacity value: "+most.String())}
			}
			return nil
		})...)
	if !slices.ContainsFunc(list, func(q resource.Quantity) bool { return q.Cmp(def) == 0 }) {
		errs = append(errs, field.Invalid(at, def.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

func validRange(def, most resource.Quantity, r *resourcev1.CapacityRequestPolicyRange, at *field.Path) (errs field.ErrorList) {
	low := at.Child("min")
	if r.Min == nil {
		return field.ErrorList{field.Required(low, "required when validRange is defined")}
	}
	if r.Min.Cmp(most) > 0 {
		errs = append(errs, field.Invalid(low, r.Min.String(), "min is larger than capacity value: "+most.String()))
	}
	if def.Cmp(*r.Min) < 0 {
		errs = append(errs, field.Invalid(low, def.String(), "default is less than min: "+r.Min.String()))
	}
	if high := at.Child("max"); r.Max != nil {
		if r.Min.Cmp(*r.Max) > 0 {
			errs = append(errs, field.Invalid(high, r.Min.String(), "min is larger than max: "+r.Max.String()))
		}
		if r.Max.Cmp(most) > 0 {
			errs = append(errs, field.Invalid(high, r.Max.String(), "max is larger than capacity value: "+most.String()))
		}
		if def.Cmp(*r.Max) > 0 {
			errs = append(errs, field.Invalid(high, def.String(), "default is more than max: "+r.Max.String()))
		}
	}
	if r.Step == nil {
		return errs
	}
	step := at.Child("step")
	if r.Step.Sign() <= 0 {
		return append(errs, field.Invalid(step, r.Step.String(), "must be greater than zero"))
	}
	one := r.Min.DeepCopy()
	if one.Add(*r.Step); one.Cmp(most) > 0 {
		errs = append(errs, field.Invalid(step, r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", one.String(), most.String())))
	}
	for _, q := range []*resource.Quantity{&def, r.Max} {
		if n := r.Step.Value(); q != nil && n > 0 && (q.Value()-r.Min.Value())%n != 0 {
			errs = append(errs, field.Invalid(step, q.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String())))
		}
	}
	return errs
}

// allocatable checks what a device takes of a node's own resources.
func allocatable(name corev1.ResourceName, r *resourcev1.NodeAllocatableResource, d *resourcev1.Device, at *field.Path) (errs field.ErrorList) {
	if strings.Contains(string(name), "/") || name == corev1.ResourcePods {
		errs = append(errs, field.Invalid(at, name, "must be the name of a node allocatable resource that is no extended resource"))
	}
	if m, at := r.Mapping, at.Child("mapping"); m != nil {
		switch {
		case (m.CapacityKey == nil) == (m.DeviceMultiplier == nil):
			errs = append(errs, field.Invalid(at, nil, "exactly one of `capacityKey` or `deviceMultiplier` is required"))
		case m.CapacityKey != nil && m.CapacityMultiplier == nil:
			errs = append(errs, field.Required(at.Child("capacityMultiplier"), "must be set when `capacityKey` is set"))
		case m.CapacityKey == nil && m.CapacityMultiplier != nil:
			errs = append(errs, field.Required(at.Child("capacityKey"), "must be set when `capacityMultiplier` is set"))
		}
		if k := m.CapacityKey; k != nil {
			if _, ok := d.Capacity[*k]; !ok {
				errs = append(errs, field.Invalid(at.Child("capacityKey"), *k, "must be the name of a capacity of the device"))
			}
		}
		errs = append(errs, positive(m.CapacityMultiplier, at.Child("capacityMultiplier"))...)
		errs = append(errs, positive(m.DeviceMultiplier, at.Child("deviceMultiplier"))...)
	}
	if o, at := r.Overhead, at.Child("overhead"); o != nil {
		errs = append(errs, positive(o.PerPod, at.Child("perPod"))...)
		errs = append(errs, positive(o.PerContainer, at.Child("perContainer"))...)
	}
	return errs
}

func positive(q *resource.Quantity, at *field.Path) field.ErrorList {
	if q != nil && q.Sign() <= 0 {
		return field.ErrorList{field.Invalid(at, q.String(), "must be greater than zero")}
	}
	return nil
}
