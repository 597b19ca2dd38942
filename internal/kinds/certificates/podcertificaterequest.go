package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
)

type pcr = certificatesv1.PodCertificateRequest

// day is the seconds of a day: how long a pod's certificate lives if nobody says.
const day = 24 * 60 * 60

// PodCertificateRequest asks a signer for a certificate for a pod.
var PodCertificateRequest = &api.Kind[*pcr]{
	API: "certificates.k8s.io/v1", Resource: "podcertificaterequests", Scope: api.Namespaced,
	Whole: true,
	Columns: []api.Column[*pcr]{
		column.Name(column.Plain[*pcr]),
		column.Doc(api.Col("PodName", func(p *pcr) string { return p.Spec.PodName }), pcrDocs["podName"]),
		column.Doc(api.Col("ServiceAccountName", func(p *pcr) string { return p.Spec.ServiceAccountName }), pcrDocs["serviceAccountName"]),
		column.Doc(api.Col("NodeName", func(p *pcr) string { return string(p.Spec.NodeName) }), pcrDocs["nodeName"]),
		column.Doc(api.Col("SignerName", func(p *pcr) string { return p.Spec.SignerName }), pcrDocs["signerName"]),
		column.Doc(api.Col("State", pcrState), "Is the request Pending, Issued, Denied, or Failed?"),
	},
	Fields: map[string]func(*pcr) string{
		"spec.signerName": func(p *pcr) string { return p.Spec.SignerName },
		"spec.podName":    func(p *pcr) string { return p.Spec.PodName },
		"spec.nodeName":   func(p *pcr) string { return string(p.Spec.NodeName) },
	},
	Default:        func(p *pcr) { fill.Nil(&p.Spec.MaxExpirationSeconds, int32(day)) },
	Validate:       validatePCR,
	Status:         true,
	Ungenerated:    true,
	PrepareStatus:  preparePCRStatus,
	ValidateStatus: validatePCRStatus,
	Versioned:      true,
}

var pcrDocs = certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()

// decided is the conditions that end a request: at most one of them is there.
var decided = []string{
	certificatesv1.PodCertificateRequestConditionTypeIssued,
	certificatesv1.PodCertificateRequestConditionTypeDenied,
	certificatesv1.PodCertificateRequestConditionTypeFailed,
}

// decision is the first of the conditions that end a request, or nil.
func decision(p *pcr) *metav1.Condition {
	for i := range p.Status.Conditions {
		for _, t := range decided {
			if p.Status.Conditions[i].Type == t {
				return &p.Status.Conditions[i]
			}
		}
	}
	return nil
}

func pcrState(p *pcr) string {
	if c := decision(p); c != nil {
		return c.Type
	}
	return "Pending"
}

// preparePCRStatus keeps the metadata, and gives times to new conditions.
func preparePCRStatus(p, old *pcr) {
	metav1.ResetObjectMetaForStatus(p, old)
	now := metav1.Now()
	for i := range p.Status.Conditions {
		n := &p.Status.Conditions[i]
		if !n.LastTransitionTime.IsZero() {
			continue
		}
		n.LastTransitionTime = now
		for _, o := range old.Status.Conditions {
			if o.Type == n.Type && o.Status == n.Status {
				n.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
}
