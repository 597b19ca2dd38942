package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/pki"
)

var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// objects answers gets from a map by resource and key.
type objects map[string]api.Object

func (o objects) Handle(_ context.Context, r *api.Request) (*api.Response, error) {
	if x := o[r.Resource.Resource+" "+r.Namespace+"/"+r.Name]; x != nil {
		return &api.Response{Object: x}, nil
	}
	return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
}

func (o objects) Mutate(context.Context, *api.Request, func(api.Object) (api.Object, error)) (*api.Item, error) {
	panic("identity changes nothing")
}

func world(t *testing.T) (*Authenticator, objects) {
	t.Helper()
	signer, err := pki.OpenSigner(t.TempDir(), "sa", "https://kubernetes.default.svc")
	if err != nil {
		t.Fatal(err)
	}
	o := objects{
		"serviceaccounts app/bot": &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "bot", UID: "sa-1"}},
		"pods app/web": &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web", UID: "pod-1"},
			Spec: corev1.PodSpec{ServiceAccountName: "bot", NodeName: "n1"}},
		"nodes /n1": &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-1"}},
	}
	return &Authenticator{Handler: o, Signer: signer, Audiences: []string{"https://kubernetes.default.svc"}, Now: func() time.Time { return start }}, o
}

func request(ref *authenticationv1.BoundObjectReference) *api.Request {
	return &api.Request{Verb: api.Create, Resource: core.ServiceAccount.Def(), Namespace: "app", Name: "bot", Sub: "token",
		Object: &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref}}}
}

func bearer(token string) *http.Request {
	r, _ := http.NewRequest("GET", "https://localhost/api", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func TestBoundToken(t *testing.T) {
	a, o := world(t)
	issue := a.Subs()["serviceaccounts/token"]
	resp, err := issue(t.Context(), o, request(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: "pod-1"}))
	if err != nil {
		t.Fatal(err)
	}
	st := resp.Object.(*authenticationv1.TokenRequest).Status
	if want := start.Add(time.Hour); !st.ExpirationTimestamp.Time.Equal(want) {
		t.Errorf("expires %v, want %v", st.ExpirationTimestamp, want)
	}
	u, ok, err := a.Authenticate(bearer(st.Token))
	if err != nil || !ok || u.Name != "system:serviceaccount:app:bot" || u.UID != "sa-1" ||
		u.Extra["authentication.kubernetes.io/node-uid"][0] != "node-1" || !u.In("system:serviceaccounts:app") {
		t.Fatalf("%+v %v %v", u, ok, err)
	}
	pod := o["pods app/web"].(*corev1.Pod)
	for _, tt := range []struct {
		name   string
		change func()
		want   string
	}{
		{"pod deleted long ago", func() {
			pod.DeletionTimestamp = &metav1.Time{Time: start.Add(-2 * time.Minute)}
		}, "the token's pod has been deleted"},
		{"pod ending", func() { pod.DeletionTimestamp = &metav1.Time{Time: start.Add(-time.Second)} }, ""},
		{"another pod of that name", func() { pod.UID = "pod-2" }, "the token's pod is gone"},
		{"account made anew", func() { o["serviceaccounts app/bot"].SetUID("sa-2") }, "the token's service account is gone"},
		{"account gone", func() { delete(o, "serviceaccounts app/bot") }, "the token's service account is gone"},
	} {
		tt.change()
		_, ok, err := a.Authenticate(bearer(st.Token))
		if ok != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("%s: %v %v, want %q", tt.name, ok, err, tt.want)
		}
	}
}

func TestTokenRequestRefused(t *testing.T) {
	a, o := world(t)
	issue := a.Subs()["serviceaccounts/token"]
	short, pod := request(nil), request(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: "old"})
	life := int64(5)
	short.Object.(*authenticationv1.TokenRequest).Spec.ExpirationSeconds = &life
	for _, tt := range []struct {
		req  *api.Request
		is   func(error) bool
		want string
	}{
		{short, apierrors.IsInvalid, "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"},
		{pod, apierrors.IsConflict, "does not match the UID in record"},
		{request(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "none"}), apierrors.IsNotFound, `pods "none" not found`},
		{request(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x"}), apierrors.IsBadRequest, "cannot bind token to object"},
	} {
		if _, err := issue(t.Context(), o, tt.req); err == nil || !tt.is(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

func TestTokenReview(t *testing.T) {
	a, o := world(t)
	resp, err := a.Subs()["serviceaccounts/token"](t.Context(), o, request(nil))
	if err != nil {
		t.Fatal(err)
	}
	token := resp.Object.(*authenticationv1.TokenRequest).Status.Token
	for _, tt := range []struct {
		spec authenticationv1.TokenReviewSpec
		want bool
	}{
		{authenticationv1.TokenReviewSpec{Token: token}, true},
		{authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"vault"}}, false},
		{authenticationv1.TokenReviewSpec{Token: "nonsense"}, false},
	} {
		resp, err := a.Subs()["tokenreviews.authentication.k8s.io"](t.Context(), o, &api.Request{Object: &authenticationv1.TokenReview{Spec: tt.spec}})
		if err != nil {
			t.Fatal(err)
		}
		if st := resp.Object.(*authenticationv1.TokenReview).Status; st.Authenticated != tt.want || !tt.want && st.Error == "" {
			t.Errorf("%+v: %+v", tt.spec, st)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	a, _ := world(t)
	ours, _ := pki.OpenCA(t.TempDir(), "ca", start)
	theirs, _ := pki.OpenCA(t.TempDir(), "ca", start)
	a.Roots = x509.NewCertPool()
	a.Roots.AddCert(ours.Cert)
	with := func(ca *pki.CA, l pki.Leaf) *http.Request {
		p, err := ca.Issue(l, start)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := pem.Decode(p.Cert)
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}}
	}
	admin := with(ours, pki.Leaf{User: "admin", Groups: []string{api.GroupMasters}})
	for range 2 { // verified, then remembered
		u, ok, err := a.Authenticate(admin)
		if err != nil || !ok || u.Name != "admin" || !u.In(api.GroupMasters) || !u.In(api.GroupAuthenticated) {
			t.Fatalf("%+v %v %v", u, ok, err)
		}
	}
	if _, ok, err := a.Authenticate(with(theirs, pki.Leaf{User: "admin", Groups: []string{api.GroupMasters}})); ok || err == nil {
		t.Error("another authority's certificate was taken")
	}
	if _, ok, _ := a.Authenticate(with(ours, pki.Leaf{User: "server", Server: true})); ok {
		t.Error("a server's certificate was taken for a client's")
	}
	a.Now = func() time.Time { return start.Add(2 * 365 * 24 * time.Hour) }
	if _, ok, _ := a.Authenticate(admin); ok {
		t.Error("an old certificate was taken")
	}
	if _, ok, err := a.Authenticate(&http.Request{TLS: &tls.ConnectionState{}, Header: http.Header{}}); ok || err != nil {
		t.Errorf("no credential: %v %v", ok, err)
	}
}
