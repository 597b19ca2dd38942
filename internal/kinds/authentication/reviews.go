// Package authentication declares the kinds of authentication.k8s.io/v1: questions
// about who someone is, which whoever starts the server answers.
package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"proa/internal/api"
)

// TokenReview asks whose token something is. Whoever answers refuses one without
// a token, as a bad request and not as an invalid object.
var TokenReview = &api.Kind[*authenticationv1.TokenReview]{
	API: "authentication.k8s.io/v1", Resource: "tokenreviews", Scope: api.Cluster, Virtual: true, Status: true,
}

// SelfSubjectReview asks who the caller is.
var SelfSubjectReview = &api.Kind[*authenticationv1.SelfSubjectReview]{
	API: "authentication.k8s.io/v1", Resource: "selfsubjectreviews", Scope: api.Cluster, Virtual: true, Status: true,
}
