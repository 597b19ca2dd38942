package certificates

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// The limits of a pod's certificate, its request, and the answer.
const (
	minLife      = 60 * 60   // seconds
	maxLife      = 91 * day  // seconds
	maxStub      = 10 << 10  // bytes
	maxChain     = 100 << 10 // bytes
	maxUID       = 128       // bytes
	clockSkew    = 5 * time.Minute
	refreshSlack = 10 * time.Minute
)

func validatePCR(p, old *pcr) field.ErrorList {
	if old != nil {
		return validate.Same(p.Spec, old.Spec, specPath)
	}
	s := &p.Spec
	errs := validate.SignerName(s.SignerName, specPath.Child("signerName"))
	errs = append(errs, named(s.PodName, specPath.Child("podName"))...)
	errs = append(errs, uid(s.PodUID, specPath.Child("podUID"))...)
	errs = append(errs, named(s.ServiceAccountName, specPath.Child("serviceAccountName"))...)
	errs = append(errs, uid(s.ServiceAccountUID, specPath.Child("serviceAccountUID"))...)
	errs = append(errs, named(string(s.NodeName), specPath.Child("nodeName"))...)
	errs = append(errs, uid(s.NodeUID, specPath.Child("nodeUID"))...)
	errs = append(errs, validateLife(s, specPath.Child("maxExpirationSeconds"))...)
	errs = append(errs, validateStub(s.StubPKCS10Request, specPath.Child("stubPKCS10Request"))...)
	return append(errs, validateUserAnnotations(s.UnverifiedUserAnnotations, specPath.Child("unverifiedUserAnnotations"))...)
}

func named(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "must not be empty")}
	}
	return validate.Subdomain(name, at)
}

func uid(id types.UID, at *field.Path) field.ErrorList {
	switch n := len(id); {
	case n == 0:
		return field.ErrorList{field.Required(at, "must not be empty")}
	case n > maxUID:
		return field.ErrorList{field.TooLong(at, id, maxUID)}
	}
	return nil
}

func validateLife(s *certificatesv1.PodCertificateRequestSpec, at *field.Path) field.ErrorList {
	most := int32(maxLife)
	if strings.HasPrefix(s.SignerName, "kubernetes.io/") {
		most = day
	}
	switch n := s.MaxExpirationSeconds; {
	case n == nil:
		return field.ErrorList{field.Required(at, "must be set")}
	case *n < minLife || *n > most:
		return field.ErrorList{field.Invalid(at, *n, fmt.Sprintf("must be in the range [%d, %d]", minLife, most))}
	}
	return nil
}

// validateStub checks a request in DER: that who made it holds the key, and that
// the key is of an allowed type.
func validateStub(der []byte, at *field.Path) field.ErrorList {
	switch n := len(der); {
	case n == 0:
		return field.ErrorList{field.Required(at, "")}
	case n > maxStub:
		return field.ErrorList{field.TooLong(at, der, maxStub)}
	}
	bad := func(msg string) field.ErrorList { return field.ErrorList{field.Invalid(at, "<value omitted>", msg)} }
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return bad("must be a valid DER-serialized PKCS#10 certificate signing request")
	}
	if err := checkKey(r.PublicKey); err != nil {
		return bad(err.Error())
	}
	if err := r.CheckSignature(); err != nil {
		return bad("could not verify the signature")
	}
	return nil
}

func validateUserAnnotations(m map[string]string, at *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(m, at)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !strings.Contains(k, "/") {
			errs = append(errs, field.Invalid(at.Key(k), k, "must be a domain-prefixed key"))
		}
	}
	return errs
}

const afterEnd = "immutable after PodCertificateRequest is issued, denied, or failed"

func validatePCRStatus(p, old *pcr) (errs field.ErrorList) {
	conditions := statusPath.Child("conditions")
	if decision(old) != nil {
		return unchanged(p, old)
	}
	errs = metavalidation.ValidateConditions(p.Status.Conditions, conditions)
	ends := 0
	for i, c := range p.Status.Conditions {
		if !slices.Contains(decided, c.Type) {
			continue
		}
		if ends++; ends > 1 {
			errs = append(errs, field.Invalid(conditions.Index(i).Child("type"), c.Type,
				`There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		if c.Status != metav1.ConditionTrue {
			errs = append(errs, field.NotSupported(conditions.Index(i).Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	if c := decision(p); c != nil && c.Type == certificatesv1.PodCertificateRequestConditionTypeIssued {
		return append(errs, validateIssued(p)...)
	}
	s := &p.Status
	for _, f := range []struct {
		name string
		set  bool
	}{{"certificateChain", s.CertificateChain != ""}, {"notBefore", s.NotBefore != nil},
		{"beginRefreshAt", s.BeginRefreshAt != nil}, {"notAfter", s.NotAfter != nil}} {
		if f.set {
			errs = append(errs, field.Forbidden(statusPath.Child(f.name), `may only be set together with the condition "Issued"`))
		}
	}
	return errs
}

// unchanged checks that the answer to a request stays what it was.
func unchanged(p, old *pcr) (errs field.ErrorList) {
	n, o := &p.Status, &old.Status
	same := func(name string, a, b any) {
		if !equality.Semantic.DeepEqual(a, b) {
			errs = append(errs, field.Forbidden(statusPath.Child(name), afterEnd))
		}
	}
	same("conditions", n.Conditions, o.Conditions)
	same("certificateChain", n.CertificateChain, o.CertificateChain)
	same("notBefore", n.NotBefore, o.NotBefore)
	same("beginRefreshAt", n.BeginRefreshAt, o.BeginRefreshAt)
	same("notAfter", n.NotAfter, o.NotAfter)
	return errs
}

// validateIssued checks the certificate, and that the times are the certificate's.
func validateIssued(p *pcr) (errs field.ErrorList) {
	s := &p.Status
	bad := func(name string, v any, msg string) {
		errs = append(errs, field.Invalid(statusPath.Child(name), v, msg))
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"notBefore", s.NotBefore != nil}, {"beginRefreshAt", s.BeginRefreshAt != nil}, {"notAfter", s.NotAfter != nil}} {
		if !f.set {
			errs = append(errs, field.Required(statusPath.Child(f.name), "must be present and consistent with the issued certificate"))
		}
	}
	leaf, msg := leafOf(s.CertificateChain)
	if msg != "" {
		bad("certificateChain", "<value omitted>", msg)
	}
	if len(errs) > 0 {
		return errs
	}
	if !sameKey(leaf, p.Spec.StubPKCS10Request) {
		bad("certificateChain", "<value omitted>", "leaf certificate was not issued to the requested public key")
	}
	if !s.NotBefore.Time.Equal(leaf.NotBefore) {
		bad("notBefore", s.NotBefore, "must be set to the NotBefore time encoded in the leaf certificate")
	}
	if d := time.Since(s.NotBefore.Time); d > clockSkew || d < -clockSkew {
		bad("notBefore", s.NotBefore, "must be set to within 5 minutes of kube-apiserver's current time")
	}
	if !s.NotAfter.Time.Equal(leaf.NotAfter) {
		bad("notAfter", s.NotAfter, "must be set to the NotAfter time encoded in the leaf certificate")
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if life < minLife*time.Second {
		bad("certificateChain", "<value omitted>", "leaf certificate lifetime must be at least 1 hour")
	}
	if most := p.Spec.MaxExpirationSeconds; most != nil && life > time.Duration(*most)*time.Second {
		bad("certificateChain", "<value omitted>", fmt.Sprintf("leaf certificate lifetime must be at most spec.maxExpirationSeconds (%d seconds)", *most))
	}
	if s.BeginRefreshAt.Time.Before(leaf.NotBefore.Add(refreshSlack)) {
		bad("beginRefreshAt", s.BeginRefreshAt, "must be at least 10 minutes after status.notBefore")
	}
	if s.BeginRefreshAt.Time.After(leaf.NotAfter.Add(-refreshSlack)) {
		bad("beginRefreshAt", s.BeginRefreshAt, "must be at least 10 minutes before status.notAfter")
	}
	return errs
}

// leafOf is the first certificate of a chain, or what is wrong with the chain.
func leafOf(chain string) (leaf *x509.Certificate, wrong string) {
	switch n := len(chain); {
	case n == 0:
		return nil, "must be present when the condition \"Issued\" is"
	case n > maxChain:
		return nil, fmt.Sprintf("may not be more than %d bytes", maxChain)
	}
	rest := []byte(chain)
	for i := 0; ; i++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != certificateBlock {
			return nil, fmt.Sprintf("entry %d has bad block type: %v", i, b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Sprintf("entry %d does not parse as X.509", i)
		}
		if leaf == nil {
			leaf = c
		}
	}
	if leaf == nil {
		return nil, "must consist of one or more PEM-formatted certificates"
	}
	return leaf, ""
}

// sameKey says whether a certificate is for the key of a request.
func sameKey(c *x509.Certificate, der []byte) bool {
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return false
	}
	k, ok := r.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(c.PublicKey)
}
