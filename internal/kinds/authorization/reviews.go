// Package authorization declares the kinds of authorization.k8s.io/v1: questions
// about who may do what, which whoever starts the server answers.
package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// SubjectAccessReview asks whether someone may do something.
var SubjectAccessReview = &api.Kind[*authorizationv1.SubjectAccessReview]{
	API: "authorization.k8s.io/v1", Resource: "subjectaccessreviews", Scope: api.Cluster, Virtual: true, Status: true,
	Validate: func(r, _ *authorizationv1.SubjectAccessReview) field.ErrorList { return validateSubject(&r.Spec) },
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
		return validateAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	},
}

// SelfSubjectRulesReview asks for all that the caller may do in a namespace.
var SelfSubjectRulesReview = &api.Kind[*authorizationv1.SelfSubjectRulesReview]{
	API: "authorization.k8s.io/v1", Resource: "selfsubjectrulesreviews", Scope: api.Cluster, Virtual: true, Status: true,
	Validate: func(r, _ *authorizationv1.SelfSubjectRulesReview) (errs field.ErrorList) {
		if r.Spec.Namespace == "" {
			errs = append(errs, field.Required(field.NewPath("spec", "namespace"), "namespace is required"))
		}
		return errs
	},
}

func validateAttributes(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	if r != nil && n != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), n, "cannot be specified in combination with resourceAttributes"))
	}
	if r == nil && n == nil {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes"), r, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
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
	errs := validateSubject(&r.Spec)
	spec := field.NewPath("spec")
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	return errs
}
