// Package gate decides who may ask a node. A holder of a client certificate of the
// cluster's authority is known by it; whose a bearer token is, the API server tells
// (TokenReview), and so it does whether somebody may do something
// (SubjectAccessReview on the Node's subresources). Nobody is let in unknown.
package gate

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"

	"proa/internal/api"
	"proa/internal/kinds/authentication"
	"proa/internal/kinds/authorization"
	"proa/internal/kubeletapi"
)

// How long an answer of the API server counts: the defaults of KubeletConfiguration,
// which has none for tokens that were refused.
const (
	knownFor   = 2 * time.Minute
	refusedFor = 30 * time.Second
	allowedFor = 5 * time.Minute
	deniedFor  = 30 * time.Second
)

// patience is how long an answer is waited for.
const patience = 10 * time.Second

// A Gate lets in who may ask one node. All fields are required.
type Gate struct {
	Handler     api.Handler // asked in the node's name
	Node        string
	Certificate func(chain []*x509.Certificate) (api.User, error) // whose it is
	Now         func() time.Time

	tokens memory[holder]
	rights memory[verdict]
}

// A holder is whose a token is, or why it counts for nothing.
type holder struct {
	user    api.User
	refused string
}

// A verdict is what the API server said of somebody's wish.
type verdict struct {
	allowed bool
	reason  string
}

// Guard returns h for those who may ask what they ask: 401 and 403 tell the others
// what they lack, and 500 that the API server did not say.
func (g *Gate) Guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := g.who(r)
		if err == nil {
			err = g.may(r.Context(), user, kubeletapi.AskOf(r))
		}
		if err == nil {
			h.ServeHTTP(w, r)
			return
		}
		code := http.StatusInternalServerError
		var refused *kubeletapi.Error
		if errors.As(err, &refused) {
			code = refused.Code
		}
		http.Error(w, err.Error(), code)
	})
}

// who asks. A certificate that does not hold is no matter if there is a token that does.
func (g *Gate) who(r *http.Request) (api.User, error) {
	token := bearer(r)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		u, err := g.Certificate(r.TLS.PeerCertificates)
		if err == nil {
			return u, nil
		}
		if token == "" {
			return u, unauthorized("the client certificate does not hold: %v", err)
		}
	}
	if token == "" {
		return api.User{}, unauthorized("the node wants a client certificate of the cluster's authority, or a bearer token that the API server knows")
	}
	h, err := g.holder(r.Context(), token)
	if err != nil {
		return api.User{}, fmt.Errorf("the API server could not be asked whose the bearer token is: %w", err)
	}
	if h.refused != "" {
		return api.User{}, unauthorized("the API server does not accept the bearer token: %s", h.refused)
	}
	return h.user, nil
}

func unauthorized(format string, args ...any) error {
	return &kubeletapi.Error{Code: http.StatusUnauthorized, Text: "Unauthorized: " + fmt.Sprintf(format, args...)}
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// apart is a context for a question to the API server: who caused it may go before
// the answer comes, which is then no refusal.
func apart(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), patience)
}

func (g *Gate) holder(ctx context.Context, token string) (holder, error) {
	key := sha256.Sum256([]byte(token))
	if h, ok := g.tokens.get(key, g.Now()); ok {
		return h, nil
	}
	ctx, cancel := apart(ctx)
	defer cancel()
	out, err := authentication.TokenReview.Create(ctx, g.Handler, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}})
	if err != nil {
		return holder{}, err
	}
	if st := out.Status; !st.Authenticated {
		h := holder{refused: st.Error}
		if h.refused == "" {
			h.refused = "it is nobody's"
		}
		g.tokens.set(key, h, g.Now(), refusedFor)
		return h, nil
	}
	i := out.Status.User
	h := holder{user: api.User{Name: i.Username, UID: i.UID, Groups: slices.Clone(i.Groups)}}
	for k, v := range i.Extra {
		if h.user.Extra == nil {
			h.user.Extra = map[string][]string{}
		}
		h.user.Extra[k] = v
	}
	g.tokens.set(key, h, g.Now(), knownFor)
	return h, nil
}

// may returns nil if the user may do what is asked by one of its subresources.
func (g *Gate) may(ctx context.Context, u api.User, a kubeletapi.Ask) error {
	var reasons []string
	for _, sub := range a.Subs {
		v, err := g.verdict(ctx, u, a.Verb, sub)
		if err != nil {
			return fmt.Errorf("the API server could not be asked whether user %q may %s nodes/%s: %w", u.Name, a.Verb, sub, err)
		}
		if v.allowed {
			return nil
		}
		if v.reason != "" && !slices.Contains(reasons, v.reason) {
			reasons = append(reasons, v.reason)
		}
	}
	text := fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v): a ClusterRole must allow it to %s nodes/%s",
		u.Name, a.Verb, a.Subs, a.Verb, strings.Join(a.Subs, " or nodes/"))
	if len(reasons) > 0 {
		text += ": " + strings.Join(reasons, ", ")
	}
	return &kubeletapi.Error{Code: http.StatusForbidden, Text: text}
}

func (g *Gate) verdict(ctx context.Context, u api.User, verb, sub string) (verdict, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{User: u.Name, UID: u.UID, Groups: u.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: sub, Name: g.Node}}
	for k, v := range u.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[k] = v
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return verdict{}, err
	}
	key := sha256.Sum256(text)
	if v, ok := g.rights.get(key, g.Now()); ok {
		return v, nil
	}
	ctx, cancel := apart(ctx)
	defer cancel()
	out, err := authorization.SubjectAccessReview.Create(ctx, g.Handler, &authorizationv1.SubjectAccessReview{Spec: spec})
	if err != nil {
		return verdict{}, err
	}
	st := out.Status
	v, keep := verdict{allowed: st.Allowed && !st.Denied, reason: st.Reason}, deniedFor
	if v.reason == "" {
		v.reason = st.EvaluationError
	}
	if v.allowed {
		keep = allowedFor
	}
	g.rights.set(key, v, g.Now(), keep)
	return v, nil
}
