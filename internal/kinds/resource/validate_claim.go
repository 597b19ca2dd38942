package resource

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/expr"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

func validateClaim(c, old *resourcev1.ResourceClaim) field.ErrorList {
	if old != nil {
		return validate.Fixed(c.Spec, old.Spec, specPath)
	}
	return claimSpec(&c.Spec, specPath)
}

func validateTemplate(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	if old != nil {
		return validate.Same(t.Spec, old.Spec, specPath)
	}
	meta := specPath.Child("metadata")
	errs := apivalidation.ValidateAnnotations(t.Spec.Annotations, meta.Child("annotations"))
	errs = append(errs, metavalidation.ValidateLabels(t.Spec.Labels, meta.Child("labels"))...)
	return append(errs, claimSpec(&t.Spec.Spec, specPath.Child("spec"))...)
}

// names are the requests of a claim, and those inside each.
type names map[string][]string

func namesOf(d *resourcev1.DeviceClaim) names {
	out := names{}
	for _, r := range d.Requests {
		out[r.Name] = nil
		for _, f := range r.FirstAvailable {
			out[r.Name] = append(out[r.Name], f.Name)
		}
	}
	return out
}

// reference checks that a text names a request, or one inside it.
func (n names) reference(ref string, at *field.Path) (errs field.ErrorList) {
	wrong := field.Invalid(at, ref, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'")
	parts := strings.Split(ref, "/")
	if len(parts) > 2 {
		return field.ErrorList{wrong}
	}
	for _, p := range parts {
		errs = append(errs, validate.Label(p, at)...)
	}
	if inner, ok := n[parts[0]]; !ok || len(parts) == 2 && !slices.Contains(inner, parts[1]) {
		errs = append(errs, wrong)
	}
	return errs
}

func (n names) references(list []string, at *field.Path) field.ErrorList {
	return set(list, resourcev1.DeviceRequestsMaxSize, at, itself, n.reference)
}

func claimSpec(s *resourcev1.ResourceClaimSpec, path *field.Path) field.ErrorList {
	d, at := &s.Devices, path.Child("devices")
	n, used := namesOf(d), map[resourcev1.FullyQualifiedName]bool{}
	for _, c := range d.Constraints {
		for _, a := range []*resourcev1.FullyQualifiedName{c.MatchAttribute, c.DistinctAttribute} {
			if a != nil {
				used[*a] = true
			}
		}
	}
	errs := set(d.Requests, resourcev1.DeviceRequestsMaxSize, at.Child("requests"),
		func(r resourcev1.DeviceRequest) string { return r.Name },
		func(r resourcev1.DeviceRequest, at *field.Path) field.ErrorList { return request(&r, used, at) })
	errs = append(errs, each(d.Constraints, resourcev1.DeviceConstraintsMaxSize, at.Child("constraints"),
		func(c resourcev1.DeviceConstraint, at *field.Path) field.ErrorList { return constraint(&c, n, at) })...)
	return append(errs, each(d.Config, resourcev1.DeviceConfigMaxSize, at.Child("config"),
		func(c resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
			return append(n.references(c.Requests, at.Child("requests")), configuration(&c.DeviceConfiguration, at)...)
		})...)
}

func request(r *resourcev1.DeviceRequest, used map[resourcev1.FullyQualifiedName]bool, at *field.Path) field.ErrorList {
	errs := validate.Label(r.Name, at.Child("name"))
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(at, "exactly one of `exactly` or `firstAvailable` is required"))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		return append(errs, wanted(&resourcev1.DeviceSubRequest{DeviceClassName: e.DeviceClassName, Selectors: e.Selectors, AllocationMode: e.AllocationMode,
			Count: e.Count, Tolerations: e.Tolerations, Capacity: e.Capacity, DerivedAttributes: e.DerivedAttributes}, used, at.Child("exactly"))...)
	}
	return append(errs, set(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, at.Child("firstAvailable"),
		func(f resourcev1.DeviceSubRequest) string { return f.Name },
		func(f resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
			return append(validate.Label(f.Name, at.Child("name")), wanted(&f, used, at)...)
		})...)
}

// wanted checks which devices a request is for, and how many.
func wanted(r *resourcev1.DeviceSubRequest, used map[resourcev1.FullyQualifiedName]bool, at *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	if class := at.Child("deviceClassName"); r.DeviceClassName == "" {
		add(field.Required(class, ""))
	} else {
		add(validate.Subdomain(r.DeviceClassName, class)...)
	}
	add(selectors(r.Selectors, at.Child("selectors"))...)
	switch count := at.Child("count"); r.AllocationMode {
	case resourcev1.DeviceAllocationModeAll:
		if r.Count != 0 {
			add(field.Invalid(count, r.Count, fmt.Sprintf("must not be specified when allocationMode is '%s'", r.AllocationMode)))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if r.Count <= 0 {
			add(field.Invalid(count, r.Count, "must be greater than zero"))
		}
	default:
		add(field.NotSupported(at.Child("allocationMode"), r.AllocationMode,
			[]resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	add(each(r.Tolerations, resourcev1.DeviceTolerationsMaxLength, at.Child("tolerations"), toleration)...)
	if r.Capacity != nil {
		for name := range r.Capacity.Requests {
			add(qualified(string(name), at.Child("capacity", "requests").Key(string(name)))...)
		}
	}
	add(set(r.DerivedAttributes, resourcev1.DeviceDerivedAttributesMaxSize, at.Child("derivedAttributes"),
		func(d resourcev1.DeviceDerivedAttribute) resourcev1.FullyQualifiedName { return d.Name },
		func(d resourcev1.DeviceDerivedAttribute, at *field.Path) field.ErrorList {
			errs := fullyQualified(d.Name, at.Child("name"))
			if d.Name != "" && !used[d.Name] {
				errs = append(errs, field.Invalid(at.Child("name"), d.Name, "must be referenced by at least one constraint"))
			}
			if d.Expression == "" {
				return append(errs, field.Required(at.Child("expression"), ""))
			}
			return append(errs, expression(d.Expression, at.Child("expression"), expr.DeviceAttribute)...)
		})...)
	return errs
}

func constraint(c *resourcev1.DeviceConstraint, n names, at *field.Path) field.ErrorList {
	errs := n.references(c.Requests, at.Child("requests"))
	switch match, distinct := c.MatchAttribute, c.DistinctAttribute; {
	case match == nil && distinct == nil:
		return append(errs, field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required`))
	case match != nil && distinct != nil:
		return append(errs, field.Invalid(at, nil, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
	case match != nil:
		return append(errs, fullyQualified(*match, at.Child("matchAttribute"))...)
	default:
		return append(errs, fullyQualified(*distinct, at.Child("distinctAttribute"))...)
	}
}

// A device is one that can be allocated; a share is one of several allocations of it.
type device struct{ driver, pool, name, share string }

func (d device) String() string {
	s := d.driver + "/" + d.pool + "/" + d.name
	if d.share != "" {
		s += "/" + d.share
	}
	return s
}

func share[S ~string](id *S) string {
	if id == nil {
		return ""
	}
	return string(*id)
}

func shareID(id string, at *field.Path) field.ErrorList {
	if err := uuid.Validate(id); err != nil {
		return field.ErrorList{field.Invalid(at, id, fmt.Sprintf("error validating uid: %v", err))}
	}
	if len(id) != 36 || id != strings.ToLower(id) {
		return field.ErrorList{field.Invalid(at, id, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	s := &c.Status
	reserved := statusPath.Child("reservedFor")
	errs := set(s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, reserved,
		func(r resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID },
		func(r resourcev1.ResourceClaimConsumerReference, at *field.Path) field.ErrorList {
			errs := validate.Given(r.Resource, at.Child("resource"))
			errs = append(errs, validate.Given(r.Name, at.Child("name"))...)
			return append(errs, validate.Given(r.UID, at.Child("uid"))...)
		})
	allocated := map[device]bool{}
	if s.Allocation != nil {
		for _, r := range s.Allocation.Devices.Results {
			allocated[device{r.Driver, r.Pool, r.Device, share(r.ShareID)}] = true
		}
	}
	errs = append(errs, set(s.Devices, -1, statusPath.Child("devices"),
		func(d resourcev1.AllocatedDeviceStatus) device {
			return device{d.Driver, d.Pool, d.Device, share(d.ShareID)}
		},
		func(d resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
			return deviceStatus(&d, allocated, at)
		})...)
	if len(s.ReservedFor) > 0 && s.Allocation == nil {
		errs = append(errs, field.Forbidden(reserved, "may not be specified when `allocated` is not set"))
	} else if c.DeletionTimestamp != nil {
		for _, r := range s.ReservedFor {
			if !slices.Contains(old.Status.ReservedFor, r) {
				errs = append(errs, field.Forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
				break
			}
		}
	}
	switch at := statusPath.Child("allocation"); {
	case s.Allocation == nil:
	case old.Status.Allocation != nil:
		if !equality.Semantic.DeepEqual(s.Allocation, old.Status.Allocation) {
			errs = append(errs, field.Invalid(at, nil, "field cannot be modified once set").WithOrigin("update"))
		}
	default:
		errs = append(errs, allocation(s.Allocation, namesOf(&c.Spec.Devices), at)...)
	}
	return errs
}

func allocation(a *resourcev1.AllocationResult, n names, at *field.Path) field.ErrorList {
	devices := at.Child("devices")
	errs := each(a.Devices.Results, resourcev1.AllocationResultsMaxSize, devices.Child("results"),
		func(r resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
			errs := n.reference(r.Request, at.Child("request"))
			errs = append(errs, validate.Driver(r.Driver, at.Child("driver"))...)
			errs = append(errs, pool(r.Pool, at.Child("pool"))...)
			errs = append(errs, validate.Label(r.Device, at.Child("device"))...)
			errs = append(errs, bindingConditions(r.BindingConditions, r.BindingFailureConditions, at)...)
			errs = append(errs, skipped(r.SkipNodeOperations, at.Child("skipNodeOperations"))...)
			if r.ShareID != nil {
				errs = append(errs, shareID(string(*r.ShareID), at.Child("shareID"))...)
			}
			return errs
		})
	errs = append(errs, each(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, devices.Child("config"),
		func(c resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
			errs := validate.OneOf(c.Source, at.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass)
			errs = append(errs, n.references(c.Requests, at.Child("requests"))...)
			return append(errs, configuration(&c.DeviceConfiguration, at)...)
		})...)
	if a.NodeSelector != nil {
		errs = append(errs, podspec.ValidateNodeSelector(a.NodeSelector, at.Child("nodeSelector"))...)
	}
	return errs
}

func deviceStatus(d *resourcev1.AllocatedDeviceStatus, allocated map[device]bool, at *field.Path) field.ErrorList {
	errs := validate.Driver(d.Driver, at.Child("driver"))
	errs = append(errs, pool(d.Pool, at.Child("pool"))...)
	errs = append(errs, validate.Label(d.Device, at.Child("device"))...)
	if d.ShareID != nil {
		errs = append(errs, shareID(*d.ShareID, at.Child("shareID"))...)
	}
	if id := (device{d.Driver, d.Pool, d.Device, share(d.ShareID)}); !allocated[id] {
		errs = append(errs, field.Invalid(at, id.String(), "must be an allocated device in the claim"))
	}
	if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
		errs = append(errs, field.TooMany(at.Child("conditions"), n, resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	errs = append(errs, metavalidation.ValidateConditions(d.Conditions, at.Child("conditions"))...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, jsonObject(d.Data.Raw, resourcev1.AllocatedDeviceStatusDataMaxLength, at.Child("data"))...)
	}
	if n := d.NetworkData; n != nil {
		at := at.Child("networkData")
		errs = append(errs, validate.AtMost(n.InterfaceName, at.Child("interfaceName"), resourcev1.NetworkDeviceDataInterfaceNameMaxLength)...)
		errs = append(errs, validate.AtMost(n.HardwareAddress, at.Child("hardwareAddress"), resourcev1.NetworkDeviceDataHardwareAddressMaxLength)...)
		errs = append(errs, set(n.IPs, resourcev1.NetworkDeviceDataMaxIPs, at.Child("ips"), itself,
			func(ip string, at *field.Path) field.ErrorList { return validation.IsValidInterfaceAddress(at, ip) })...)
	}
	return errs
}
