package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/certificates"
	"proa/internal/kinds/core"
	"proa/internal/kinds/rbac"
	"proa/internal/store/memory"
)

type (
	csr    = certificatesv1.CertificateSigningRequest
	pcr    = certificatesv1.PodCertificateRequest
	bundle = certificatesv1.ClusterTrustBundle
)

// signing starts a server where the user ann may do everything with requests and
// bundles, and on signers what the rules say.
func signing(t *testing.T, rules ...rbacv1.PolicyRule) (inside, ann api.Handler) {
	t.Helper()
	r := access.NewRBAC()
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Admit = append(admit.All(admit.Settings{}), r.Steps()...) })
	must[*corev1.Namespace](t)(core.Namespace.Create(t.Context(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}))
	rules = append(rules, rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"certificates.k8s.io"},
		Resources: []string{"certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status",
			"podcertificaterequests", "podcertificaterequests/status", "clustertrustbundles"}})
	must[*rbacv1.ClusterRole](t)(rbac.ClusterRole.Create(t.Context(), s, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: rules}))
	must[*rbacv1.ClusterRoleBinding](t)(rbac.ClusterRoleBinding.Create(t.Context(), s, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "ann"}}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "r"}}))
	r.Follow(t.Context(), s, func(err error) { t.Error(err) })
	<-r.Ready()
	user := api.User{Name: "ann", UID: "7", Groups: []string{"dev", api.GroupAuthenticated}, Extra: map[string][]string{"team": {"a", "b"}}}
	return s, api.As(user, access.Authorize(s, r))
}

func onSigner(verb, name string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{name}}
}

func request(t *testing.T, signer string, organizations ...string) *csr {
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann", Organization: organizations}}, key))
	return &csr{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}
}

func putCSR(t *testing.T, h api.Handler, sub string, o *csr) (*csr, error) {
	resp, err := h.Handle(t.Context(), &api.Request{Verb: api.Update, Resource: certificates.CertificateSigningRequest.Def(), Name: o.Name, Sub: sub, Object: o})
	if err != nil {
		return nil, err
	}
	return api.Clone(resp.Result().(*csr)), nil
}

func with(o *csr, t certificatesv1.RequestConditionType) *csr {
	o = api.Clone(o)
	o.Status.Conditions = append(o.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: t, Status: corev1.ConditionTrue})
	return o
}

func TestRequesterIsWhoAsks(t *testing.T) {
	_, ann := signing(t)
	o := request(t, "example.com/mine")
	o.Spec.Username, o.Spec.UID, o.Spec.Groups = "root", "0", []string{api.GroupMasters}
	o.Spec.Extra = map[string]certificatesv1.ExtraValue{"a": {"b"}}
	o.Status.Conditions = with(o, certificatesv1.CertificateApproved).Status.Conditions
	o = must[*csr](t)(certificates.CertificateSigningRequest.Create(t.Context(), ann, o))
	s := o.Spec
	if s.Username != "ann" || s.UID != "7" || len(s.Groups) != 2 || s.Groups[0] != "dev" || len(s.Extra) != 1 || s.Extra["team"][1] != "b" {
		t.Errorf("%+v", s)
	}
	if len(o.Status.Conditions) > 0 {
		t.Error("approved by its own word")
	}
	o = api.Clone(o)
	o.Spec.Username = "root"
	if o, err := putCSR(t, ann, "", o); err != nil || o.Spec.Username != "ann" {
		t.Error(err)
	}
}

func TestNoCertificateOfMasters(t *testing.T) {
	_, ann := signing(t)
	_, err := certificates.CertificateSigningRequest.Create(t.Context(), ann, request(t, certificatesv1.KubeAPIServerClientSignerName, "dev", api.GroupMasters))
	wantError(t, err, 403, metav1.StatusReasonForbidden, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")
	must[*csr](t)(certificates.CertificateSigningRequest.Create(t.Context(), ann, request(t, "example.com/mine", api.GroupMasters)))
}

func TestWhoApprovesAndSigns(t *testing.T) {
	cert := selfSigned(t, nil, time.Hour)
	for _, name := range []string{"example.com/mine", "example.com/*"} {
		inside, ann := signing(t, onSigner("approve", name))
		o := must[*csr](t)(certificates.CertificateSigningRequest.Create(t.Context(), ann, request(t, "example.com/mine")))
		o = must[*csr](t)(putCSR(t, ann, "approval", with(o, certificatesv1.CertificateApproved)))
		c := o.Status.Conditions[0]
		if c.LastUpdateTime.IsZero() || c.LastTransitionTime.IsZero() {
			t.Error("a condition without its times", c)
		}
		signed := api.Clone(o)
		signed.Status.Certificate = cert
		_, err := putCSR(t, ann, "status", signed)
		wantError(t, err, 403, metav1.StatusReasonForbidden, `user not permitted to sign requests with signerName "example.com/mine"`)
		if _, err := putCSR(t, ann, "status", api.Clone(o)); err != nil {
			t.Error("a write to the status that changes nothing is refused:", err)
		}
		must[*csr](t)(putCSR(t, inside, "status", signed))
	}
	inside, ann := signing(t, onSigner("sign", "example.com/mine"), onSigner("approve", "example.com/other"))
	o := must[*csr](t)(certificates.CertificateSigningRequest.Create(t.Context(), ann, request(t, "example.com/mine")))
	_, err := putCSR(t, ann, "approval", with(o, certificatesv1.CertificateApproved))
	wantError(t, err, 403, metav1.StatusReasonForbidden, `user not permitted to approve requests with signerName "example.com/mine"`)
	o = must[*csr](t)(putCSR(t, inside, "approval", with(o, certificatesv1.CertificateApproved)))
	o.Status.Certificate = cert
	o = must[*csr](t)(putCSR(t, ann, "status", o))
	o.Status.Certificate = selfSigned(t, nil, time.Hour)
	_, err = putCSR(t, ann, "status", o)
	wantError(t, err, 422, metav1.StatusReasonInvalid, "status.certificate: Forbidden: updates may not modify existing certificate content")
}

// selfSigned is a certificate in PEM for a key, a new one if it is nil.
func selfSigned(t *testing.T, key *ecdsa.PrivateKey, life time.Duration) []byte {
	if key == nil {
		key = must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	}
	now := time.Now().Truncate(time.Second)
	c := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now, NotAfter: now.Add(life), IsCA: true, BasicConstraintsValid: true}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, c, c, key.Public(), key))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestWhoAttests(t *testing.T) {
	_, ann := signing(t, onSigner("attest", "example.com/mine"))
	make := func(name, signer string) error {
		b := &bundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(selfSigned(t, nil, time.Hour))}}
		_, err := certificates.ClusterTrustBundle.Create(t.Context(), ann, b)
		return err
	}
	if err := make("free", ""); err != nil {
		t.Error(err)
	}
	if err := make("example.com:mine:v1", "example.com/mine"); err != nil {
		t.Error(err)
	}
	wantError(t, make("example.com:other:v1", "example.com/other"), 403, metav1.StatusReasonForbidden, `user not permitted to attest for signerName "example.com/other"`)
}

// podRequest makes a request and the certificate that answers it.
func podRequest(t *testing.T, h api.Handler, name string, key *ecdsa.PrivateKey) *pcr {
	der := must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	p := &pcr{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: certificatesv1.PodCertificateRequestSpec{
		SignerName: "example.com/mine", PodName: "p", PodUID: "1", ServiceAccountName: "s", ServiceAccountUID: "2", NodeName: "n", NodeUID: "3",
		StubPKCS10Request: der}}
	return must[*pcr](t)(certificates.PodCertificateRequest.Create(t.Context(), h, p))
}

func issue(t *testing.T, p *pcr, chain []byte) *pcr {
	p = api.Clone(p)
	b, _ := pem.Decode(chain)
	c := must[*x509.Certificate](t)(x509.ParseCertificate(b.Bytes))
	p.Status = certificatesv1.PodCertificateRequestStatus{
		Conditions:       []metav1.Condition{{Type: "Issued", Status: "True", Reason: "Issued"}},
		CertificateChain: string(chain), NotBefore: &metav1.Time{Time: c.NotBefore}, NotAfter: &metav1.Time{Time: c.NotAfter},
		BeginRefreshAt: &metav1.Time{Time: c.NotBefore.Add(30 * time.Minute)},
	}
	return p
}

func TestPodCertificate(t *testing.T) {
	inside, ann := signing(t, onSigner("sign", "example.com/other"))
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	chain := selfSigned(t, key, 2*time.Hour)
	p := podRequest(t, ann, "a", key)
	put := func(h api.Handler, o *pcr) (*pcr, error) {
		return certificates.PodCertificateRequest.UpdateStatus(t.Context(), h, o)
	}
	_, err := put(ann, issue(t, p, chain))
	wantError(t, err, 422, metav1.StatusReasonInvalid, `spec.signerName: Forbidden: User "ann" is not permitted to "sign" for signer "example.com/mine"`)

	for what, c := range map[string]struct {
		chain []byte
		spoil func(*pcr)
		want  string
	}{
		"another key":      {selfSigned(t, nil, 2*time.Hour), nil, "leaf certificate was not issued to the requested public key"},
		"a short life":     {selfSigned(t, key, 30*time.Minute), func(p *pcr) { p.Status.BeginRefreshAt.Time = p.Status.NotBefore.Add(15 * time.Minute) }, "leaf certificate lifetime must be at least 1 hour"},
		"a long life":      {selfSigned(t, key, 25*time.Hour), nil, "leaf certificate lifetime must be at most spec.maxExpirationSeconds (86400 seconds)"},
		"another end":      {chain, func(p *pcr) { p.Status.NotAfter.Time = p.Status.NotAfter.Add(time.Second) }, "status.notAfter"},
		"another start":    {chain, func(p *pcr) { p.Status.NotBefore.Time = p.Status.NotBefore.Add(time.Second) }, "status.notBefore"},
		"an early refresh": {chain, func(p *pcr) { p.Status.BeginRefreshAt.Time = p.Status.NotBefore.Time }, "must be at least 10 minutes after status.notBefore"},
		"a late refresh":   {chain, func(p *pcr) { p.Status.BeginRefreshAt.Time = p.Status.NotAfter.Time }, "must be at least 10 minutes before status.notAfter"},
	} {
		o := issue(t, p, c.chain)
		if c.spoil != nil {
			c.spoil(o)
		}
		if _, err := put(inside, o); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	o := must[*pcr](t)(put(inside, issue(t, p, append(chain, selfSigned(t, nil, time.Hour)...))))
	if o.Status.Conditions[0].LastTransitionTime.IsZero() {
		t.Error("a condition without its time")
	}
	again := api.Clone(o)
	again.Status.CertificateChain = string(chain)
	_, err = put(inside, again)
	wantError(t, err, 422, metav1.StatusReasonInvalid, "status.certificateChain: Forbidden: immutable after PodCertificateRequest is issued, denied, or failed")
}
