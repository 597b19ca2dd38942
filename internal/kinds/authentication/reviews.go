// Package authentication declares the kinds of authentication.k8s.io/v1: questions
// about who someone is, which whoever starts the server answers.
package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// TokenReview asks whose token something is.
var TokenReview = &api.Kind[*authenticationv1.TokenReview]{
	API: "authentication.k8s.io/v1", Resource: "tokenreviews", Scope: api.Cluster, Virtual: true, Status: true,
	Validate: func(r, _ *authenticationv1.TokenReview) (errs field.ErrorList) {
		if r.Spec.Token == "" {
			errs = append(errs, field.Required(field.NewPath("spec", "token"), ""))
		}
		return errs
	},
}

// SelfSubjectReview asks who the caller is.
var SelfSubjectReview = &api.Kind[*authenticationv1.SelfSubjectReview]{
	API: "authentication.k8s.io/v1", Resource: "selfsubjectreviews", Scope: api.Cluster, Virtual: true, Status: true,
}
