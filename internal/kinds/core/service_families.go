package core

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// validateFamilies checks a service's address families and its addresses in them.
func validateFamilies(spec *corev1.ServiceSpec, old *corev1.Service) (errs field.ErrorList) {
	policy, families := specPath.Child("ipFamilyPolicy"), specPath.Child("ipFamilies")
	if spec.Type == corev1.ServiceTypeExternalName {
		if spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(policy, "may not be set for ExternalName services"))
		}
		if len(spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(families, "may not be set for ExternalName services"))
		}
		return errs
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, validate.Known(*p, policy,
			corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)...)
	}
	for i, f := range spec.IPFamilies {
		errs = append(errs, validate.Known(f, families.Index(i), corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if i > 0 && f == spec.IPFamilies[0] {
			errs = append(errs, field.Duplicate(families.Index(i), f))
		}
	}
	var was []string
	if old != nil {
		was = old.Spec.ClusterIPs
	}
	errs = append(errs, validateClusterIPs(spec, was, specPath.Child("clusterIPs"))...)
	if old != nil && hasClusterIP(&old.Spec) {
		errs = append(errs, kept(spec, "clusterIP", spec.ClusterIPs, old.Spec.ClusterIPs, specPath.Child("clusterIPs"))...)
		errs = append(errs, kept(spec, "ipFamily", spec.IPFamilies, old.Spec.IPFamilies, families)...)
	}
	return errs
}

func validateClusterIPs(spec *corev1.ServiceSpec, was []string, path *field.Path) (errs field.ErrorList) {
	if len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP {
		errs = append(errs, field.Invalid(path, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(path, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	seen := map[corev1.IPFamily]bool{}
	for i, ip := range spec.ClusterIPs {
		at := path.Index(i)
		if ip == corev1.ClusterIPNone {
			if len(spec.ClusterIPs) > 1 {
				return append(errs, field.Invalid(path, spec.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		if e := validation.IsValidIPForLegacyField(at, ip, true, was); len(e) > 0 {
			errs = append(errs, e...)
			continue
		}
		family := familyOf(ip)
		if i == 1 && seen[family] {
			errs = append(errs, field.Invalid(path, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
		seen[family] = true
		if i < len(spec.IPFamilies) && family != spec.IPFamilies[i] {
			errs = append(errs, field.Invalid(at, ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", spec.IPFamilies[i], i)))
		}
	}
	return errs
}

// kept checks that of the addresses, or families, that a service had, the first
// stays, and the second too unless the service gives up its second family.
func kept[S ~string](spec *corev1.ServiceSpec, name string, now, was []S, path *field.Path) (errs field.ErrorList) {
	if len(was) == 0 {
		return nil
	}
	if len(now) == 0 {
		return field.ErrorList{field.Invalid(path.Index(0), now, fmt.Sprintf("primary %s can not be unset", name))}
	}
	if now[0] != was[0] {
		errs = append(errs, field.Invalid(path.Index(0), now, "may not change once set"))
	}
	if len(was) < 2 {
		return errs
	}
	single := spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	switch {
	case len(now) < 2 && !single:
		errs = append(errs, field.Invalid(specPath.Child("ipFamilyPolicy"), spec.IPFamilyPolicy,
			fmt.Sprintf("must be set to '%s' when releasing the secondary %s", corev1.IPFamilyPolicySingleStack, name)))
	case len(now) > 1 && now[1] != was[1]:
		errs = append(errs, field.Invalid(path.Index(1), now, "may not change once set"))
	}
	return errs
}

func familyOf(s string) corev1.IPFamily {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Is6() && !ip.Is4In6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
