package admit

import (
	"context"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"

	"proa/internal/api"
	"proa/internal/kinds/certificates"
)

// certificateRequester says in a new request for a certificate who asks,
// whatever the request itself says.
var certificateRequester = &Step{
	Name: "CertificateRequester", For: []string{"certificatesigningrequests.certificates.k8s.io"}, Verbs: []api.Verb{api.Create},
	Mutate: func(_ context.Context, a *Attributes) error {
		s := &a.New.(*certificatesv1.CertificateSigningRequest).Spec
		s.Username, s.UID, s.Groups, s.Extra = a.User.Name, a.User.UID, slices.Clone(a.User.Groups), nil
		for k, v := range a.User.Extra {
			if s.Extra == nil {
				s.Extra = map[string]certificatesv1.ExtraValue{}
			}
			s.Extra[k] = slices.Clone(v)
		}
		return nil
	},
}

// certificateSubject refuses requests for client certificates of the group that
// may do everything: who has such a certificate has it for good.
var certificateSubject = &Step{
	Name: "CertificateSubjectRestriction", For: []string{"certificatesigningrequests.certificates.k8s.io"}, Verbs: []api.Verb{api.Create},
	Validate: func(_ context.Context, a *Attributes) error {
		s := &a.New.(*certificatesv1.CertificateSigningRequest).Spec
		if s.SignerName != certificatesv1.KubeAPIServerClientSignerName {
			return nil
		}
		r, err := certificates.ParseRequest(s.Request)
		if err != nil {
			return forbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
		}
		if slices.Contains(r.Subject.Organization, api.GroupMasters) {
			return forbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", s.SignerName, api.GroupMasters))
		}
		return nil
	},
}
