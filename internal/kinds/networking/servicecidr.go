package networking

import (
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/validate"
)

// ServiceCIDR is a range, or one of each family, that services get addresses from.
var ServiceCIDR = &api.Kind[*networkingv1.ServiceCIDR]{
	API: "networking.k8s.io/v1", Resource: "servicecidrs", Scope: api.Cluster,
	Columns: []api.Column[*networkingv1.ServiceCIDR]{
		column.Doc(api.Col("CIDRs", func(c *networkingv1.ServiceCIDR) string { return strings.Join(c.Spec.CIDRs, ",") }),
			networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
	},
	Validate:      validateServiceCIDR,
	Status:        true,
	Ungenerated:   true,
	PrepareStatus: func(c, old *networkingv1.ServiceCIDR) { metav1.ResetObjectMetaForStatus(c, old) },
}

// validateServiceCIDR checks the ranges of a new object. Later a second family
// may be added, and nothing else may change.
func validateServiceCIDR(c, old *networkingv1.ServiceCIDR) (errs field.ErrorList) {
	at := spec.Child("cidrs")
	if old == nil {
		return validateCIDRs(&c.Spec, at)
	}
	have, want := old.Spec.CIDRs, c.Spec.CIDRs
	switch {
	case len(have) == len(want):
		for i := range have {
			errs = append(errs, validate.Same(want[i], have[i], at.Index(i))...)
		}
	case len(have) == 1 && len(want) == 2:
		errs = append(validate.Same(want[0], have[0], at.Index(0)), validateCIDRs(&c.Spec, at)...)
	default:
		errs = validate.Same(want, have, at)
	}
	return errs
}

func validateCIDRs(s *networkingv1.ServiceCIDRSpec, at *field.Path) (errs field.ErrorList) {
	switch n := len(s.CIDRs); {
	case n == 0:
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	case n > 2:
		return field.ErrorList{field.Invalid(at, s, "may only hold up to 2 values")}
	}
	for i, c := range s.CIDRs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), c)...)
	}
	if len(errs) > 0 || len(s.CIDRs) < 2 {
		return errs
	}
	first, err1 := netip.ParsePrefix(s.CIDRs[0])
	second, err2 := netip.ParsePrefix(s.CIDRs[1])
	if err1 == nil && err2 == nil && first.Addr().Is4() == second.Addr().Is4() {
		errs = append(errs, field.Invalid(at, s, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	return errs
}
