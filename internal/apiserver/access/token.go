package access

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/pki"
)

// Bounds of a token's life, in seconds (TokenRequestSpec.expirationSeconds).
const (
	minTokenLife     = 10 * 60
	maxTokenLife     = 1 << 32
	defaultTokenLife = 60 * 60
)

// Subs answers the subresources and virtual kinds that are about identity, in
// the form the API server takes them.
func (a *Authenticator) Subs() map[string]api.SubFunc {
	return map[string]api.SubFunc{
		"serviceaccounts/token":                    a.issue,
		"tokenreviews.authentication.k8s.io":       a.review,
		"selfsubjectreviews.authentication.k8s.io": selfSubject,
	}
}

// issue answers POST serviceaccounts/NAME/token (KEP-1205).
func (a *Authenticator) issue(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	req, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body must be a TokenRequest, not %T", r.Object))
	}
	sa, err := core.ServiceAccount.Get(ctx, env, r.Namespace, r.Name)
	if err != nil {
		return nil, err
	}
	if err := mayIssue(ctx, env, r, &req.Spec, a.Audiences); err != nil {
		return nil, err
	}
	out := req.DeepCopy()
	spec := &out.Spec
	if len(spec.Audiences) == 0 {
		spec.Audiences = slices.Clone(a.Audiences)
	}
	life := int64(defaultTokenLife)
	if spec.ExpirationSeconds != nil {
		life = *spec.ExpirationSeconds
	}
	if errs := checkLife(life); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: "authentication.k8s.io", Kind: "TokenRequest"}, r.Name, errs)
	}
	spec.ExpirationSeconds = &life
	now := a.Now()
	claims := pki.Claims{
		Claims: jwt.Claims{
			Subject:   "system:serviceaccount:" + sa.Namespace + ":" + sa.Name,
			Audience:  spec.Audiences,
			Expiry:    jwt.NewNumericDate(now.Add(time.Duration(life) * time.Second)),
			NotBefore: jwt.NewNumericDate(now.Add(-backdate)), IssuedAt: jwt.NewNumericDate(now),
			ID: uuid.NewString(),
		},
		Kube: pki.KubeClaims{Namespace: sa.Namespace, Account: pki.Ref{Name: sa.Name, UID: string(sa.UID)}},
	}
	if err := a.bind(ctx, env, sa.Namespace, sa.Name, spec.BoundObjectRef, &claims.Kube); err != nil {
		return nil, err
	}
	token, err := a.Signer.Sign(claims)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out.Name, out.Namespace = sa.Name, sa.Namespace
	out.CreationTimestamp = metav1.NewTime(now)
	out.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(claims.Expiry.Time())}
	return &api.Response{Code: 201, Object: out}, nil
}

// backdate is how far back a token's NotBefore lies, as that of certificates: a
// clock that is set back does not shut the pods out.
const backdate = 24 * time.Hour

func checkLife(seconds int64) (errs field.ErrorList) {
	path := field.NewPath("spec", "expirationSeconds")
	if seconds < minTokenLife {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > maxTokenLife {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}

// bind ties a token to the object that it shall not outlive.
func (a *Authenticator) bind(ctx context.Context, h api.Handler, ns, account string, ref *authenticationv1.BoundObjectReference, k *pki.KubeClaims) error {
	if ref == nil {
		return nil
	}
	var uid string
	var resource string
	switch {
	case ref.APIVersion == "v1" && ref.Kind == "Pod":
		pod, err := core.Pod.Get(ctx, h, ns, ref.Name)
		if err != nil {
			return err
		}
		if pod.Spec.ServiceAccountName != account {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account))
		}
		uid, resource = string(pod.UID), "pods"
		k.Pod, k.Node = &pki.Ref{Name: pod.Name, UID: uid}, boundNode(ctx, h, pod)
	case ref.APIVersion == "v1" && ref.Kind == "Secret":
		secret, err := core.Secret.Get(ctx, h, ns, ref.Name)
		if err != nil {
			return err
		}
		uid, resource = string(secret.UID), "secrets"
		k.Secret = &pki.Ref{Name: secret.Name, UID: uid}
	case ref.APIVersion == "v1" && ref.Kind == "Node":
		node, err := core.Node.Get(ctx, h, "", ref.Name)
		if err != nil {
			return err
		}
		uid, resource = string(node.UID), "nodes"
		k.Node = &pki.Ref{Name: node.Name, UID: uid}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s, Kind=%s: only v1 Pod, Secret and Node", ref.APIVersion, ref.Kind))
	}
	if ref.UID != "" && string(ref.UID) != uid {
		return apierrors.NewConflict(schema.GroupResource{Resource: resource}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// review answers TokenReview creates.
func (a *Authenticator) review(ctx context.Context, _ api.Env, r *api.Request) (*api.Response, error) {
	in, ok := r.Object.(*authenticationv1.TokenReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body must be a TokenReview, not %T", r.Object))
	}
	if in.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	out := in.DeepCopy()
	audiences := in.Spec.Audiences
	if len(audiences) == 0 {
		audiences = a.Audiences
	}
	u, held, err := a.Token(ctx, in.Spec.Token, audiences)
	out.Status = authenticationv1.TokenReviewStatus{}
	if err != nil {
		out.Status.Error = err.Error()
	} else {
		out.Status.Authenticated, out.Status.User, out.Status.Audiences = true, info(u), held
	}
	return &api.Response{Code: 201, Object: out}, nil
}

// selfSubject answers SelfSubjectReview creates: "kubectl auth whoami" (KEP-3325).
func selfSubject(_ context.Context, _ api.Env, r *api.Request) (*api.Response, error) {
	out := &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: info(r.User)}}
	out.CreationTimestamp = metav1.Now()
	return &api.Response{Code: 201, Object: out}, nil
}

func info(u api.User) authenticationv1.UserInfo {
	i := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for k, v := range u.Extra {
		if i.Extra == nil {
			i.Extra = map[string]authenticationv1.ExtraValue{}
		}
		i.Extra[k] = v
	}
	return i
}
