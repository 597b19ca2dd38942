package podspec

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"proa/internal/kinds/validate"
)

// resourceClaims checks the claims of the pod, and notes their names.
func (v *checker) resourceClaims(path *field.Path) {
	for i := range v.spec.ResourceClaims {
		c, at := &v.spec.ResourceClaims[i], path.Child("resourceClaims").Index(i)
		switch {
		case c.Name == "":
			v.add(field.Required(at.Child("name"), ""))
		case slices.Contains(v.claims, c.Name):
			v.add(field.Duplicate(at.Child("name"), c.Name))
		default:
			v.add(validate.Label(c.Name, at.Child("name"))...)
			v.claims = append(v.claims, c.Name)
		}
		if c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil {
			v.add(field.Invalid(at, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		}
		if c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil {
			v.add(field.Invalid(at, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := c.ResourceClaimName; n != nil {
			v.add(validate.Subdomain(*n, at.Child("resourceClaimName"))...)
		}
		if n := c.ResourceClaimTemplateName; n != nil {
			v.add(validate.Subdomain(*n, at.Child("resourceClaimTemplateName"))...)
		}
	}
}

// podResources checks the overhead of the pod, and the resources of it as a whole.
func (v *checker) podResources(path *field.Path) {
	s := v.spec
	if len(s.Overhead) > 0 {
		o := checker{spec: s}
		o.requirements(&corev1.ResourceRequirements{Limits: s.Overhead}, nil, containerResource)
		for _, e := range o.errs {
			e.Field = path.String() + ".overhead" + e.Field[len("resources"):]
		}
		v.add(o.errs...)
	}
	r, at := s.Resources, path.Child("resources")
	if r == nil {
		return
	}
	if v.os() == corev1.Windows {
		v.add(field.Forbidden(at, "may not be set for a windows pod"))
		return
	}
	if r.Claims != nil {
		v.add(field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	v.requirements(r, path, func(v *checker, name corev1.ResourceName, at func() *field.Path) {
		if errs := ResourceName(name, at()); len(errs) > 0 {
			v.add(errs...)
		} else if !resourcehelper.IsSupportedPodLevelResource(name) {
			v.add(field.NotSupported(at(), name, sets.List(resourcehelper.SupportedPodLevelResources())))
		}
	})
	v.containersWithin(r, at)
}

// containersWithin checks that the containers stay within what the pod has.
func (v *checker) containersWithin(r *corev1.ResourceRequirements, at *field.Path) {
	pod := &corev1.Pod{Spec: *v.spec}
	for name, sum := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if q, ok := r.Requests[name]; ok && sum.Cmp(q) > 0 {
			v.add(field.Invalid(at.Child("requests").Key(string(name)), q.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	for name, sum := range resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}) {
		if q, ok := r.Limits[name]; ok && isHugePage(name) && sum.Cmp(q) > 0 {
			v.add(field.Invalid(at.Child("limits").Key(string(name)), q.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", sum.String())))
		}
	}
	for i := range v.spec.Containers {
		for name, q := range v.spec.Containers[i].Resources.Limits {
			if limit, ok := r.Limits[name]; ok && q.Cmp(limit) > 0 {
				v.add(field.Invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), q.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", limit.String())))
			}
		}
	}
}
