package core

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

func validateNode(n, old *corev1.Node) (errs field.ErrorList) {
	errs = validateTaints(n.Spec.Taints, specPath.Child("taints"))
	var was []string
	if old != nil {
		was = old.Spec.PodCIDRs
	}
	for i, c := range n.Spec.PodCIDRs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(specPath.Child("podCIDRs").Index(i), c, true, was)...)
	}
	errs = append(errs, onePerFamily(n.Spec.PodCIDRs, specPath.Child("podCIDRs"))...)
	status := field.NewPath("status")
	for list, of := range map[string]corev1.ResourceList{"capacity": n.Status.Capacity, "allocatable": n.Status.Allocatable} {
		for name, q := range of {
			errs = append(errs, validate.Qualified(string(name), status.Child(list).Key(string(name)))...)
			errs = append(errs, podspec.Quantity(name, q, status.Child(list).Key(string(name)))...)
		}
	}
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if seen[a] {
			errs = append(errs, field.Duplicate(status.Child("addresses").Index(i), a))
		}
		seen[a] = true
	}
	if old == nil {
		return errs
	}
	if len(old.Spec.PodCIDRs) > 0 && !equality.Semantic.DeepEqual(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(specPath.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID { //lint:ignore SA1019 it is deprecated, and kept all the same
		errs = append(errs, field.Forbidden(specPath.Child("externalID"), "may not be updated"))
	}
	return errs
}

// onePerFamily checks that a node's ranges are of different families.
func onePerFamily(cidrs []string, at *field.Path) field.ErrorList {
	seen := map[bool]bool{}
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return nil // said already
		}
		if seen[p.Addr().Is4()] {
			return field.ErrorList{field.Invalid(at, cidrs, "may specify no more than one CIDR for each IP family")}
		}
		seen[p.Addr().Is4()] = true
	}
	return nil
}

func validateTaints(taints []corev1.Taint, path *field.Path) (errs field.ErrorList) {
	type key struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := map[key]bool{}
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		errs = append(errs, validate.Messages(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
		errs = append(errs, validate.OneOf(t.Effect, at.Child("effect"),
			corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		if seen[key{t.Key, t.Effect}] {
			e := field.Duplicate(at, t)
			e.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, e)
		}
		seen[key{t.Key, t.Effect}] = true
	}
	return errs
}
