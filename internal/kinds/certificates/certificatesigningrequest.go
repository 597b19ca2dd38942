// Package certificates declares the kinds of certificates.k8s.io/v1.
package certificates

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"proa/internal/api"
	"proa/internal/kinds/column"
)

type csr = certificatesv1.CertificateSigningRequest

// CertificateSigningRequest asks a signer for a certificate. Who asks is filled
// in by the server's wiring before Prepare. The spec never changes; conditions
// Approved and Denied are set by way of /approval, the rest of the status by way
// of /status.
var CertificateSigningRequest = &api.Kind[*csr]{
	API: "certificates.k8s.io/v1", Resource: "certificatesigningrequests", Scope: api.Cluster, Short: []string{"csr"},
	Whole: true,
	Columns: []api.Column[*csr]{
		column.Name(column.Plain[*csr]),
		column.Age[*csr](),
		column.Doc(api.Col("SignerName", func(c *csr) string { return orNone(c.Spec.SignerName) }), csrDocs["signerName"]),
		column.Doc(api.Col("Requestor", func(c *csr) string { return c.Spec.Username }), csrDocs["username"]),
		column.Doc(api.Col("RequestedDuration", func(c *csr) string {
			if c.Spec.ExpirationSeconds == nil {
				return "<none>"
			}
			return duration.HumanDuration(time.Duration(*c.Spec.ExpirationSeconds) * time.Second)
		}), csrDocs["expirationSeconds"]),
		column.Doc(api.Col("Condition", csrState), "Whether the request is approved, denied, failed or issued"),
	},
	Fields: map[string]func(*csr) string{"spec.signerName": func(c *csr) string { return c.Spec.SignerName }},
	Name:   pathvalidation.ValidatePathSegmentName, // whatever can be part of a path
	Prepare: func(c, old *csr) {
		if old != nil {
			c.Spec = old.Spec
		}
	},
	Validate:       validateCSR,
	Status:         true,
	Ungenerated:    true,
	PrepareStatus:  prepareCSRStatus,
	ValidateStatus: validateCSRStatus,
	Sub: map[string]*api.Sub{
		"approval": {Verbs: []api.Verb{api.Get, api.Patch, api.Update}, Part: api.PartOf(prepareApproval, validateApproval)},
	},
}

var csrDocs = certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func csrState(c *csr) string {
	has := func(t certificatesv1.RequestConditionType) bool { return len(conditionsOf(c, t)) > 0 }
	state := "Pending"
	switch {
	case has(certificatesv1.CertificateDenied):
		state = "Denied"
	case has(certificatesv1.CertificateApproved):
		state = "Approved"
	}
	if has(certificatesv1.CertificateFailed) {
		state += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}

// prepareCSRStatus keeps what /approval is for, as long as the writer did not
// add or remove any of it, which is refused.
func prepareCSRStatus(c, old *csr) {
	for _, t := range approval {
		keepConditions(c, old, t)
	}
	stampConditions(c, old)
}

// prepareApproval lets conditions through and nothing else.
func prepareApproval(c, old *csr) {
	c.Spec, c.Status.Certificate = old.Spec, old.Status.Certificate
	keepConditions(c, old, certificatesv1.CertificateFailed)
	stampConditions(c, old)
}

// keepConditions puts the old conditions of a type in the place of the new ones,
// if there are as many.
func keepConditions(c, old *csr, t certificatesv1.RequestConditionType) {
	have := conditionsOf(old, t)
	if len(have) != len(conditionsOf(c, t)) {
		return
	}
	for i := range c.Status.Conditions {
		if c.Status.Conditions[i].Type == t {
			c.Status.Conditions[i], have = have[0], have[1:]
		}
	}
}

// stampConditions gives times to the conditions that have none.
func stampConditions(c, old *csr) {
	now := metav1.Now()
	for i := range c.Status.Conditions {
		n := &c.Status.Conditions[i]
		if n.LastUpdateTime.IsZero() {
			n.LastUpdateTime = now
		}
		if !n.LastTransitionTime.IsZero() {
			continue
		}
		n.LastTransitionTime = now
		for _, o := range conditionsOf(old, n.Type) {
			if o.Status == n.Status && !o.LastTransitionTime.IsZero() {
				n.LastTransitionTime = o.LastTransitionTime
				break
			}
		}
	}
}

// conditionsOf is every condition of a type.
func conditionsOf(c *csr, t certificatesv1.RequestConditionType) (out []certificatesv1.CertificateSigningRequestCondition) {
	for _, n := range c.Status.Conditions {
		if n.Type == t {
			out = append(out, n)
		}
	}
	return out
}
