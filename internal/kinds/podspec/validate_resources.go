package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// whole are the plain names of what comes in pieces, and standard those that
// mean something at all without a prefix.
var (
	whole = sets.New[corev1.ResourceName](corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices,
		corev1.ResourceReplicationControllers, corev1.ResourceSecrets, corev1.ResourceConfigMaps,
		corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers)
	standard = whole.Union(sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceRequestsStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage))
)

func compute(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory
}

func isHugePage(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isNative says whether a resource is one of Kubernetes' own.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended says whether a resource is one that a device plugin or an administrator gives a node.
func isExtended(name corev1.ResourceName) bool {
	s := string(name)
	return !isNative(name) && !strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix) &&
		validate.IsLabelKey(corev1.DefaultResourceRequestsPrefix+s)
}

// overcommits says whether a request for the resource may be below its limit.
func overcommits(name corev1.ResourceName) bool { return isNative(name) && !isHugePage(name) }

// ResourceName checks the name of a resource of any kind.
func ResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	if errs := validate.Qualified(string(name), at); len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(name), "/") && !standard.Has(name) && !isHugePage(name) &&
		!strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) {
		return field.ErrorList{field.Invalid(at, name, "must be a standard resource type or fully qualified")}
	}
	return nil
}

// ContainerResourceName checks the name of a resource that a container can ask for.
func ContainerResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := ResourceName(name, at)
	switch {
	case !strings.Contains(string(name), "/"):
		if !compute(name) && name != corev1.ResourceEphemeralStorage && !isHugePage(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for containers"))
		}
	case !isNative(name) && !isExtended(name):
		errs = append(errs, field.Invalid(at, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

func containerResource(v *checker, name corev1.ResourceName, at func() *field.Path) {
	if !compute(name) {
		v.add(ContainerResourceName(name, at())...)
	}
}

// Quantity checks an amount of a resource: not negative, and whole where the
// resource comes in pieces.
func Quantity(name corev1.ResourceName, q resource.Quantity, at *field.Path) (errs field.ErrorList) {
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg).WithOrigin("minimum"))
	}
	if (whole.Has(name) || isExtended(name)) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

// hugePages checks that an amount of huge pages is a number of pages.
func hugePages(name corev1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	return err == nil && size.Sign() > 0 && size.MilliValue()%1000 == 0 && q.Value()%size.Value() == 0
}

// requirements checks resources whose names are checked by name.
func (v *checker) requirements(r *corev1.ResourceRequirements, parent *field.Path, name func(*checker, corev1.ResourceName, func() *field.Path)) {
	huge, plain := false, false
	one := func(list string, n corev1.ResourceName, q resource.Quantity) {
		at := func() *field.Path { return parent.Child("resources", list).Key(string(n)) }
		name(v, n, at)
		if q.Sign() < 0 || !compute(n) {
			v.add(Quantity(n, q, at())...)
		}
		if isHugePage(n) {
			huge = true
			if !hugePages(n, q) {
				v.add(field.Invalid(at(), q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), n)))
			}
		}
		plain = plain || compute(n)
	}
	for n, q := range r.Limits {
		one("limits", n, q)
	}
	for n, q := range r.Requests {
		one("requests", n, q)
		v.within(n, q, r.Limits, parent)
	}
	if huge && !plain {
		v.add(field.Forbidden(parent.Child("resources"), "HugePages require cpu or memory"))
	}
	if len(r.Claims) > 0 {
		v.claimRefs(r.Claims, parent.Child("resources", "claims"))
	}
}

// within checks a request against the limit.
func (v *checker) within(name corev1.ResourceName, q resource.Quantity, limits corev1.ResourceList, parent *field.Path) {
	limit, ok := limits[name]
	at := func() *field.Path { return parent.Child("resources", "requests") }
	switch {
	case !ok && !overcommits(name):
		v.add(field.Required(parent.Child("resources", "limits"), "Limit must be set for non overcommitable resources"))
	case !ok:
	case q.Cmp(limit) != 0 && !overcommits(name):
		v.add(field.Invalid(at(), q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
	case q.Cmp(limit) > 0:
		v.add(field.Invalid(at(), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
	}
}

// claimRefs checks what a container uses of the pod's claims: each claim as a
// whole once, or each of its requests once.
func (v *checker) claimRefs(refs []corev1.ResourceClaim, path *field.Path) {
	var used []string
	for i, c := range refs {
		at := path.Index(i)
		if c.Name == "" {
			v.add(field.Required(at, ""))
			continue
		}
		key := c.Name
		if c.Request != "" {
			key += "/" + c.Request
		}
		switch {
		case slices.Contains(used, c.Name):
			v.add(field.Duplicate(at, c.Name))
		default:
			if c.Request != "" {
				v.add(validate.Label(c.Request, at.Child("request"))...)
			}
			if slices.Contains(used, key) {
				v.add(field.Duplicate(at, key))
			} else if c.Request == "" {
				for _, u := range used {
					if strings.HasPrefix(u, c.Name+"/") {
						v.add(field.Duplicate(at, c.Name))
					}
				}
			}
			used = append(used, key)
		}
		if !slices.Contains(v.claims, c.Name) {
			err := field.NotFound(at, c.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims"
			if len(v.claims) == 0 {
				err.Detail += " which is empty"
			} else {
				err.Detail += ": " + strings.Join(slices.Sorted(slices.Values(v.claims)), ", ")
			}
			v.add(err)
		}
	}
}
