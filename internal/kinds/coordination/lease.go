// Package coordination declares the kinds of coordination.k8s.io/v1.
package coordination

import (
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/validate"
)

// Lease says who holds something, and since when.
var Lease = &api.Kind[*coordinationv1.Lease]{
	API: "coordination.k8s.io/v1", Resource: "leases", Scope: api.Namespaced,
	Conditional: true,
	Columns: []api.Column[*coordinationv1.Lease]{
		api.Col("Holder", func(l *coordinationv1.Lease) string {
			if l.Spec.HolderIdentity == nil {
				return ""
			}
			return *l.Spec.HolderIdentity
		}),
	},
	Validate:       validateLease,
	CreateOnUpdate: true,
}

func validateLease(l, _ *coordinationv1.Lease) (errs field.ErrorList) {
	spec, path := &l.Spec, field.NewPath("spec")
	if n := spec.LeaseDurationSeconds; n != nil && *n <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *n, "must be greater than 0"))
	}
	if n := spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	if s := spec.Strategy; s != nil {
		if strings.Contains(string(*s), "/") {
			errs = append(errs, validate.Qualified(string(*s), path.Child("strategy"))...)
		} else { // those without a domain are Kubernetes' own
			errs = append(errs, validate.Known(*s, path.Child("strategy"), coordinationv1.OldestEmulationVersion)...)
		}
	}
	if p := spec.PreferredHolder; p != nil && *p != "" && (spec.Strategy == nil || *spec.Strategy == "") {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified when `strategy` is defined"))
	}
	return errs
}
