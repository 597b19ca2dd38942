package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"proa/internal/kinds/validate"
)

// containerResources are the plain names that a container may ask for.
var containerResources = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)

func isHugePage(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isExtended says whether a resource is one that a device plugin or an administrator gives a node.
func isExtended(name corev1.ResourceName) bool {
	s := string(name)
	native := !strings.Contains(s, "/") || strings.Contains(s, corev1.ResourceDefaultNamespacePrefix)
	return !native && !strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+s)) == 0
}

// overcommits says whether a request for the resource may be below its limit.
func overcommits(name corev1.ResourceName) bool { return !isExtended(name) && !isHugePage(name) }

func containerResource(name corev1.ResourceName, at *field.Path) (errs field.ErrorList) {
	errs = validate.Qualified(string(name), at)
	if !strings.Contains(string(name), "/") {
		if !containerResources.Has(name) && !isHugePage(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for containers"))
		}
		return errs
	}
	if !isExtended(name) && !strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix) {
		errs = append(errs, field.Invalid(at, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

// Quantity checks an amount of a resource: not negative, and whole where the
// resource comes in pieces.
func Quantity(name corev1.ResourceName, q resource.Quantity, at *field.Path) (errs field.ErrorList) {
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg).WithOrigin("minimum"))
	}
	if isExtended(name) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

// ValidateResources checks a container's resources.
func ValidateResources(r *corev1.ResourceRequirements, claims sets.Set[string], at *field.Path) (errs field.ErrorList) {
	limits, requests := at.Child("limits"), at.Child("requests")
	huge, plain := false, false
	see := func(name corev1.ResourceName) {
		huge = huge || isHugePage(name)
		plain = plain || name == corev1.ResourceCPU || name == corev1.ResourceMemory
	}
	for name, q := range r.Limits {
		errs = append(errs, containerResource(name, limits.Key(string(name)))...)
		errs = append(errs, Quantity(name, q, limits.Key(string(name)))...)
		see(name)
	}
	for name, q := range r.Requests {
		errs = append(errs, containerResource(name, requests.Key(string(name)))...)
		errs = append(errs, Quantity(name, q, requests.Key(string(name)))...)
		see(name)
		errs = append(errs, requestWithin(name, q, r.Limits, at)...)
	}
	if huge && !plain {
		errs = append(errs, field.Forbidden(at, "HugePages require cpu or memory"))
	}
	seen := sets.New[string]()
	for i, c := range r.Claims {
		p := at.Child("claims").Index(i)
		if c.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
			continue
		}
		key := c.Name + "/" + c.Request
		if seen.Has(key) {
			errs = append(errs, field.Duplicate(p, c.Name))
		}
		seen.Insert(key)
		if !claims.Has(c.Name) {
			errs = append(errs, field.NotFound(p, c.Name))
		}
	}
	return errs
}

// requestWithin checks a request against the limit.
func requestWithin(name corev1.ResourceName, q resource.Quantity, limits corev1.ResourceList, at *field.Path) (errs field.ErrorList) {
	limit, ok := limits[name]
	switch {
	case !ok && !overcommits(name):
		errs = append(errs, field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
	case ok && q.Cmp(limit) != 0 && !overcommits(name):
		errs = append(errs, field.Invalid(at.Child("requests"), q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
	case ok && q.Cmp(limit) > 0:
		errs = append(errs, field.Invalid(at.Child("requests"), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
	}
	return errs
}

// validatePodResources checks the resources of the pod as a whole, its overhead
// and its resource claims.
func validatePodResources(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	for name, q := range s.Overhead {
		at := path.Child("overhead").Key(string(name))
		errs = append(errs, containerResource(name, at)...)
		errs = append(errs, Quantity(name, q, at)...)
	}
	seen := sets.New[string]()
	for i, c := range s.ResourceClaims {
		at := path.Child("resourceClaims").Index(i)
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen.Insert(c.Name)
		errs = append(errs, validate.Label(c.Name, at.Child("name"))...)
		if (c.ResourceClaimName == nil) == (c.ResourceClaimTemplateName == nil) {
			errs = append(errs, field.Invalid(at, c, "must specify exactly one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
	}
	r, at := s.Resources, path.Child("resources")
	if r == nil {
		return errs
	}
	if len(r.Claims) > 0 {
		errs = append(errs, field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	for list, of := range map[string]corev1.ResourceList{"limits": r.Limits, "requests": r.Requests} {
		for name, q := range of {
			p := at.Child(list).Key(string(name))
			if !resourcehelper.IsSupportedPodLevelResource(name) {
				errs = append(errs, field.NotSupported(p, name, []string{"cpu", "hugepages-", "memory"}))
			}
			errs = append(errs, Quantity(name, q, p)...)
		}
	}
	sum := resourcehelper.AggregateContainerRequests(&corev1.Pod{Spec: *s}, resourcehelper.PodResourcesOptions{})
	for name, q := range r.Requests {
		errs = append(errs, requestWithin(name, q, r.Limits, at)...)
		if total, ok := sum[name]; ok && total.Cmp(q) > 0 {
			errs = append(errs, field.Invalid(at.Child("requests").Key(string(name)), q.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", total.String())))
		}
	}
	return append(errs, containerLimitsWithin(s, path)...)
}

// containerLimitsWithin checks that no container's limit is above the pod's.
func containerLimitsWithin(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	for i := range s.Containers {
		for name, limit := range s.Resources.Limits {
			if q, ok := s.Containers[i].Resources.Limits[name]; ok && q.Cmp(limit) > 0 {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Child("resources", "limits").Key(string(name)), q.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", limit.String())))
			}
		}
	}
	return errs
}
