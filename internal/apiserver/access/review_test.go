package access

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
)

// TestEmptyReviews asks about nobody's token and about no namespace: bad
// requests, not invalid objects.
func TestEmptyReviews(t *testing.T) {
	a, env := world(t)
	_, err := a.Subs()["tokenreviews.authentication.k8s.io"](t.Context(), env, &api.Request{Object: &authenticationv1.TokenReview{}})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("a review of no token: %v", err)
	}
	_, err = new(RBAC).selfRules(t.Context(), env, &api.Request{Object: &authorizationv1.SelfSubjectRulesReview{}})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("a review of the rules of no namespace: %v", err)
	}
}
