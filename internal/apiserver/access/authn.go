package access

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/pki"
)

// An Authenticator tells who sent a request: the holder of a client certificate
// of the cluster's authority, or of a service account token. The TLS handshake
// must ask for a certificate without judging it (tls.RequestClientCert), so that
// a stranger's gets a 401 and not a broken connection.
type Authenticator struct {
	Handler   api.Handler // reads the accounts and pods that tokens are bound to
	Signer    *pki.Signer
	Audiences []string       // of the API server
	Roots     *x509.CertPool // authorities of client certificates
	Now       func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]holder // certificates that were verified
}

// A holder is the user of a verified certificate, while it is valid.
type holder struct {
	user api.User
	end  time.Time
}

// maxKnown bounds the memory of verified certificates.
const maxKnown = 1024

// Authenticate returns the user, or false if the request carries no credential.
// A credential that does not hold gives an error.
func (a *Authenticator) Authenticate(r *http.Request) (api.User, bool, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		u, err := a.Certificate(r.TLS.PeerCertificates)
		return u, err == nil, err
	}
	h := r.Header.Get("Authorization")
	if h == "" {
		return api.User{}, false, nil
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(h), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return api.User{}, false, nil
	}
	u, _, err := a.Token(r.Context(), strings.TrimSpace(token), a.Audiences)
	return u, err == nil, err
}

// Certificate returns the user that a client certificate stands for: its common
// name, in the groups of its organizations. It needs Roots and Now alone.
func (a *Authenticator) Certificate(chain []*x509.Certificate) (api.User, error) {
	leaf, now := chain[0], a.Now()
	sum := sha256.Sum256(leaf.Raw)
	a.mu.Lock()
	h, ok := a.known[sum]
	a.mu.Unlock()
	if ok && now.Before(h.end) && now.After(leaf.NotBefore) {
		return h.user, nil
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: a.Roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return api.User{}, err
	}
	h = holder{end: leaf.NotAfter, user: api.User{
		Name: leaf.Subject.CommonName, Groups: slices.Concat(leaf.Subject.Organization, []string{api.GroupAuthenticated})}}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= maxKnown {
		a.known = map[[sha256.Size]byte]holder{}
	}
	a.known[sum] = h
	return h.user, nil
}

// Leeway for the pods of tokens: a pod's token outlives its deletion by this
// long, so that what runs in it can end cleanly.
const podLeeway = 60 * time.Second

// Token returns the user of a service account token and the audiences it was
// accepted for. The account, and the object the token is bound to, must exist.
func (a *Authenticator) Token(ctx context.Context, token string, audiences []string) (api.User, []string, error) {
	c, err := a.Signer.Verify(token, audiences, a.Now())
	if err != nil {
		return api.User{}, nil, err
	}
	k := c.Kube
	sa, err := core.ServiceAccount.Get(ctx, a.Handler, k.Namespace, k.Account.Name)
	if err != nil || string(sa.UID) != k.Account.UID {
		return api.User{}, nil, errors.New("the token's service account is gone")
	}
	u := ServiceAccountUser(k.Namespace, k.Account.Name, k.Account.UID)
	if c.ID != "" {
		u.Extra["authentication.kubernetes.io/credential-id"] = []string{"JTI=" + c.ID}
	}
	if p := k.Pod; p != nil {
		pod, err := core.Pod.Get(ctx, a.Handler, k.Namespace, p.Name)
		if err != nil || string(pod.UID) != p.UID {
			return api.User{}, nil, errors.New("the token's pod is gone")
		}
		if d := pod.DeletionTimestamp; d != nil && a.Now().After(d.Add(podLeeway)) {
			return api.User{}, nil, errors.New("the token's pod has been deleted")
		}
		u.Extra["authentication.kubernetes.io/pod-name"] = []string{p.Name}
		u.Extra["authentication.kubernetes.io/pod-uid"] = []string{p.UID}
	}
	if s := k.Secret; s != nil {
		secret, err := core.Secret.Get(ctx, a.Handler, k.Namespace, s.Name)
		if err != nil || string(secret.UID) != s.UID {
			return api.User{}, nil, errors.New("the token's secret is gone")
		}
	}
	if n := k.Node; n != nil {
		if k.Pod == nil {
			node, err := core.Node.Get(ctx, a.Handler, "", n.Name)
			if err != nil || string(node.UID) != n.UID {
				return api.User{}, nil, errors.New("the token's node is gone")
			}
		}
		u.Extra["authentication.kubernetes.io/node-name"] = []string{n.Name}
		if n.UID != "" {
			u.Extra["authentication.kubernetes.io/node-uid"] = []string{n.UID}
		}
	}
	return u, common(audiences, c.Audience), nil
}

// ServiceAccountUser is the user that an account's token stands for.
func ServiceAccountUser(ns, name, uid string) api.User {
	return api.User{
		Name: fmt.Sprintf("system:serviceaccount:%s:%s", ns, name), UID: uid,
		Groups: []string{api.GroupServiceAccounts, api.GroupServiceAccounts + ":" + ns, api.GroupAuthenticated},
		Extra:  map[string][]string{},
	}
}

// Anonymous is who asks without a credential, where that is allowed at all.
var Anonymous = api.User{Name: api.UserAnonymous, Groups: []string{api.GroupUnauthenticated}}

func common(a, b []string) (out []string) {
	for _, x := range a {
		for _, y := range b {
			if x == y {
				out = append(out, x)
			}
		}
	}
	return out
}

// boundNode is the node a pod runs on, for the token bound to the pod.
func boundNode(ctx context.Context, h api.Handler, pod *corev1.Pod) *pki.Ref {
	if pod.Spec.NodeName == "" {
		return nil
	}
	ref := &pki.Ref{Name: pod.Spec.NodeName}
	if node, err := core.Node.Get(ctx, h, "", pod.Spec.NodeName); err == nil {
		ref.UID = string(node.UID)
	}
	return ref
}
