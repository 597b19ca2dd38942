// Package storagemigration declares the kinds of storagemigration.k8s.io/v1.
package storagemigration

import (
	"fmt"
	"strconv"

	svmv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/validate"
)

// StorageVersionMigration asks for every object of a resource to be written
// anew, so that all are stored in the newest form.
var StorageVersionMigration = &api.Kind[*svmv1.StorageVersionMigration]{
	API: "storagemigration.k8s.io/v1", Resource: "storageversionmigrations", Scope: api.Cluster,
	Validate:       validateMigration,
	Status:         true,
	Ungenerated:    true,
	PrepareStatus:  func(m, old *svmv1.StorageVersionMigration) { metav1.ResetObjectMetaForStatus(m, old) },
	ValidateStatus: validateMigrationStatus,
	Versioned:      true,
}

func validateMigration(m, old *svmv1.StorageVersionMigration) (errs field.ErrorList) {
	at := field.NewPath("spec", "resource")
	if m.Spec.Resource.Resource == "" {
		errs = append(errs, field.Required(at.Child("resource"), "resource is required"))
	}
	if g := m.Spec.Resource.Group; g != "" {
		errs = append(errs, validate.Subdomain(g, at.Child("group"))...)
	}
	if old != nil {
		errs = append(errs, validate.Same(m.Spec.Resource.Group, old.Spec.Resource.Group, at.Child("group"))...)
		errs = append(errs, validate.Same(m.Spec.Resource.Resource, old.Spec.Resource.Resource, at.Child("resource"))...)
	}
	return errs
}

func validateMigrationStatus(m, old *svmv1.StorageVersionMigration) (errs field.ErrorList) {
	at := field.NewPath("status")
	version, conditions := at.Child("resourceVersion"), at.Child("conditions")
	if rv := m.Status.ResourceVersion; rv != "" {
		n, err := strconv.ParseInt(rv, 10, 64)
		if err != nil {
			errs = append(errs, field.Invalid(version, rv, fmt.Sprintf("failed to parse resource version %q: %v", rv, err)))
		} else {
			errs = append(errs, validate.Count(n, version)...)
		}
	}
	if rv := old.Status.ResourceVersion; rv != "" && rv != m.Status.ResourceVersion {
		errs = append(errs, field.Invalid(version, m.Status.ResourceVersion, "resourceVersion cannot be updated"))
	}
	errs = append(errs, metavalidation.ValidateConditions(m.Status.Conditions, conditions)...)
	is := func(list []metav1.Condition, t svmv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(list, string(t))
	}
	bad := func(msg string) { errs = append(errs, field.Invalid(conditions, m.Status.Conditions, msg)) }
	done, failed, running := is(m.Status.Conditions, svmv1.MigrationSucceeded), is(m.Status.Conditions, svmv1.MigrationFailed), is(m.Status.Conditions, svmv1.MigrationRunning)
	if done && failed {
		bad("Both success and failed conditions cannot be true at the same time")
	}
	if done && running {
		bad("Running condition cannot be true when success condition is true")
	}
	if failed && running {
		bad("Running condition cannot be true when failed condition is true")
	}
	if !done && is(old.Status.Conditions, svmv1.MigrationSucceeded) {
		bad("Success condition cannot be set to false once it is true")
	}
	if !failed && is(old.Status.Conditions, svmv1.MigrationFailed) {
		bad("Failed condition cannot be set to false once it is true")
	}
	return errs
}
