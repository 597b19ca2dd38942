// Package authorization declares the kinds of authorization.k8s.io/v1: questions
// about who may do what, which whoever starts the server answers.
package authorization

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// SubjectAccessReview asks whether someone may do something.
var SubjectAccessReview = &api.Kind[*authorizationv1.SubjectAccessReview]{
	API: "authorization.k8s.io/v1", Resource: "subjectaccessreviews", Scope: api.Cluster, Virtual: true, Status: true,
	Validate: func(r, _ *authorizationv1.SubjectAccessReview) field.ErrorList {
		return append(validateSubject(&r.Spec), noMetadata(r.ObjectMeta, "must be empty")...)
	},
}

// LocalSubjectAccessReview asks whether someone may do something in a namespace.
var LocalSubjectAccessReview = &api.Kind[*authorizationv1.LocalSubjectAccessReview]{
	API: "authorization.k8s.io/v1", Resource: "localsubjectaccessreviews", Scope: api.Namespaced, Virtual: true, Status: true,
	Validate: validateLocal,
}

// SelfSubjectAccessReview asks whether the caller may do something.
var SelfSubjectAccessReview = &api.Kind[*authorizationv1.SelfSubjectAccessReview]{
	API: "authorization.k8s.io/v1", Resource: "selfsubjectaccessreviews", Scope: api.Cluster, Virtual: true, Status: true,
	Validate: func(r, _ *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
		errs := validateAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
		return append(errs, noMetadata(r.ObjectMeta, "must be empty")...)
	},
}

// SelfSubjectRulesReview asks for all that the caller may do in a namespace.
// Whoever answers refuses one that names none, as a bad request and not as an
// invalid object.
var SelfSubjectRulesReview = &api.Kind[*authorizationv1.SelfSubjectRulesReview]{
	API: "authorization.k8s.io/v1", Resource: "selfsubjectrulesreviews", Scope: api.Cluster, Virtual: true, Status: true,
}

// noMetadata checks that a review, which is no object, is given no metadata.
// What the server fills in does not count.
func noMetadata(m metav1.ObjectMeta, detail string) field.ErrorList {
	given := metav1.ObjectMeta{Name: m.Name, GenerateName: m.GenerateName, Labels: m.Labels, Annotations: m.Annotations,
		OwnerReferences: m.OwnerReferences, Finalizers: m.Finalizers}
	if equality.Semantic.DeepEqual(given, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), given, detail)}
}

func validateAttributes(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	if r != nil && n != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), n, "cannot be specified in combination with resourceAttributes"))
	}
	if r == nil && n == nil {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes"), r, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if r != nil {
		errs = append(errs, validateFieldSelector(r.FieldSelector, spec.Child("resourceAttributes", "fieldSelector"))...)
		errs = append(errs, validateLabelSelector(r.LabelSelector, spec.Child("resourceAttributes", "labelSelector"))...)
	}
	return errs
}

// oneSelector checks that a selector is given in one of its two forms, as text
// or as requirements.
func oneSelector(raw string, requirements int, at *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at))}
	}
	return nil
}

// validateFieldSelector checks the fields that a request selects by. Operators
// that are not known are fine: a newer server may ask.
func validateFieldSelector(s *authorizationv1.FieldSelectorAttributes, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := oneSelector(s.RawSelector, len(s.Requirements), at)
	for i, r := range s.Requirements {
		opts := metavalidation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		errs = append(errs, metavalidation.ValidateFieldSelectorRequirement(r, opts, at.Child("requirements").Index(i))...)
	}
	return errs
}

// validateLabelSelector checks the labels that a request selects by, as validateFieldSelector.
func validateLabelSelector(s *authorizationv1.LabelSelectorAttributes, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := oneSelector(s.RawSelector, len(s.Requirements), at)
	for i, r := range s.Requirements {
		opts := metavalidation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		errs = append(errs, metavalidation.ValidateLabelSelectorRequirement(r, opts, at.Child("requirements").Index(i))...)
	}
	return errs
}

func validateSubject(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateLocal(r, _ *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	errs := append(validateSubject(&r.Spec), noMetadata(r.ObjectMeta, "must be empty except for namespace")...)
	spec := field.NewPath("spec")
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	return errs
}
