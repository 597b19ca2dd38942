package certificates

import (
	"bytes"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// minExpiration is the shortest life that may be asked for, in seconds.
const minExpiration = 600

// approval is the conditions that say whether a request is approved.
var approval = []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}

// lasting is the conditions that stay once they are there, and are only ever True.
var lasting = append(slices.Clone(approval), certificatesv1.CertificateFailed)

var usages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
	certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning,
	certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageSMIME, certificatesv1.UsageTimestamping,
}

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// validateCSR checks a new request. Of an old one only metadata changes here.
func validateCSR(c, old *csr) (errs field.ErrorList) {
	if old != nil {
		return nil
	}
	s := &c.Spec
	if err := checkRequest(s.Request); err != nil {
		errs = append(errs, field.Invalid(specPath.Child("request"), "<certificate request data>", err.Error()))
	}
	at := specPath.Child("usages")
	if len(s.Usages) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	for i, u := range s.Usages {
		errs = append(errs, validate.Known(u, at.Index(i), usages...)...)
		if slices.Contains(s.Usages[:i], u) {
			errs = append(errs, field.Duplicate(at.Index(i), u))
		}
	}
	if s.SignerName == "kubernetes.io/legacy-unknown" {
		errs = append(errs, field.Invalid(specPath.Child("signerName"), s.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, validate.SignerName(s.SignerName, specPath.Child("signerName"))...)
	}
	if n := s.ExpirationSeconds; n != nil && *n < minExpiration {
		errs = append(errs, field.Invalid(specPath.Child("expirationSeconds"), *n, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

// validateCSRStatus checks a write to /status, by which a signer gives the
// certificate, once.
func validateCSRStatus(c, old *csr) field.ErrorList {
	errs := append(validateConditions(c, old), conditionsStay(c, old, lasting)...)
	at := statusPath.Child("conditions")
	for _, t := range approval {
		have, want := conditionsOf(old, t), conditionsOf(c, t)
		switch {
		case len(want) > len(have):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not add a condition of type %q", t)))
		case len(want) == len(have) && !equality.Semantic.DeepEqual(have, want):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not modify a condition of type %q", t)))
		}
	}
	if bytes.Equal(c.Status.Certificate, old.Status.Certificate) {
		return errs
	}
	at = statusPath.Child("certificate")
	if len(old.Status.Certificate) > 0 {
		return append(errs, field.Forbidden(at, "updates may not modify existing certificate content"))
	}
	if err := checkCertificates(c.Status.Certificate); err != nil {
		errs = append(errs, field.Invalid(at, "<certificate data>", err.Error()))
	}
	return errs
}

// validateApproval checks a write to /approval.
func validateApproval(c, old *csr) field.ErrorList {
	return append(validateConditions(c, old), conditionsStay(c, old, lasting)...)
}

// conditionsStay checks that no condition of these types went away.
func conditionsStay(c, old *csr, types []certificatesv1.RequestConditionType) (errs field.ErrorList) {
	for _, t := range types {
		if len(conditionsOf(c, t)) < len(conditionsOf(old, t)) {
			errs = append(errs, field.Forbidden(statusPath.Child("conditions"), fmt.Sprintf("updates may not remove a condition of type %q", t)))
		}
	}
	return errs
}

func validateConditions(c, old *csr) (errs field.ErrorList) {
	path := statusPath.Child("conditions")
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, n := range c.Status.Conditions {
		at := path.Index(i)
		if n.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		statuses := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		if slices.Contains(lasting, n.Type) {
			statuses = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		errs = append(errs, validate.OneOf(n.Status, at.Child("status"), statuses...)...)
		if n.Type == certificatesv1.CertificateApproved && seen[certificatesv1.CertificateDenied] ||
			n.Type == certificatesv1.CertificateDenied && seen[certificatesv1.CertificateApproved] {
			errs = append(errs, field.Invalid(at.Child("type"), n.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if seen[n.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), n.Type))
		}
		seen[n.Type] = true
	}
	return errs
}
