package access

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/apiserver/admit"
)

// Signers of certificates exist as names only. What somebody may do for one is
// what he may do with the resource signers of that name: approve requests, sign
// them, and attest to the signer's trust anchors.

// signerSteps judge by the signer that an object names.
func signerSteps() []*admit.Step {
	const csr, pcr, bundle = "certificatesigningrequests.certificates.k8s.io", "podcertificaterequests.certificates.k8s.io", "clustertrustbundles.certificates.k8s.io"
	update := []api.Verb{api.Update}
	return []*admit.Step{
		{Name: "CertificateApproval", For: []string{csr}, Verbs: update, Subs: []string{"approval"}, Validate: mayApprove},
		{Name: "CertificateSigning", For: []string{csr}, Verbs: update, Subs: []string{"status"}, Validate: maySign},
		{Name: "PodCertificateSigning", For: []string{pcr}, Verbs: update, Subs: []string{"status"}, Validate: maySignPod},
		{Name: "ClusterTrustBundleAttest", For: []string{bundle}, Verbs: []api.Verb{api.Create, api.Update}, Validate: mayAttest},
	}
}

// holds says whether who asks has a verb on a signer, by its whole name or by
// its domain ("example.com/*"). What was not judged at the door is not judged here.
func holds(ctx context.Context, a *admit.Attributes, verb, signer string) bool {
	j, ok := ctx.Value(judgedKey{}).(judged)
	if !ok {
		return true
	}
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		q := Attributes{User: a.User, Verb: verb, Group: certificatesv1.GroupName, Resource: "signers", Name: name}
		if ok, _ := j.by.Authorize(ctx, q); ok {
			return true
		}
	}
	return false
}

func mayApprove(ctx context.Context, a *admit.Attributes) error {
	old, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Sub != "approval" || holds(ctx, a, "approve", old.Spec.SignerName) {
		return nil
	}
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, fmt.Errorf("user not permitted to approve requests with signerName %q", old.Spec.SignerName))
}

func maySign(ctx context.Context, a *admit.Attributes) error {
	old, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Sub != "status" {
		return nil
	}
	now := a.New.(*certificatesv1.CertificateSigningRequest)
	same := bytes.Equal(old.Status.Certificate, now.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, now.Status.Conditions)
	if same || holds(ctx, a, "sign", old.Spec.SignerName) {
		return nil
	}
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
}

func maySignPod(ctx context.Context, a *admit.Attributes) error {
	old, ok := a.Old.(*certificatesv1.PodCertificateRequest)
	if !ok || a.Sub != "status" {
		return nil
	}
	signer := old.Spec.SignerName
	if equality.Semantic.DeepEqual(old.Status, a.New.(*certificatesv1.PodCertificateRequest).Status) || holds(ctx, a, "sign", signer) {
		return nil
	}
	return apierrors.NewInvalid(a.Resource.GroupKind(), a.Name, field.ErrorList{field.Forbidden(field.NewPath("spec", "signerName"),
		fmt.Sprintf("User %q is not permitted to \"sign\" for signer %q", a.User.Name, signer))})
}

func mayAttest(ctx context.Context, a *admit.Attributes) error {
	b := a.New.(*certificatesv1.ClusterTrustBundle)
	if b.Spec.SignerName == "" || holds(ctx, a, "attest", b.Spec.SignerName) {
		return nil
	}
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, fmt.Errorf("user not permitted to attest for signerName %q", b.Spec.SignerName))
}
