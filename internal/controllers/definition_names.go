package controllers

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/kinds/apiextensions"
)

// names are those that are in use in a group.
type names struct{ resources, kinds map[string]bool }

func (n *names) add(plural, singular string, short []string, kinds ...string) {
	if n.resources == nil {
		n.resources, n.kinds = map[string]bool{}, map[string]bool{}
	}
	for _, r := range append([]string{plural, singular}, short...) {
		if r != "" {
			n.resources[r] = true
		}
	}
	for _, k := range kinds {
		if k != "" {
			n.kinds[k] = true
		}
	}
}

func (n *names) accepted(a *apiextensionsv1.CustomResourceDefinitionNames) {
	n.add(a.Plural, a.Singular, a.ShortNames, a.Kind, a.ListKind)
}

// decideStatus is the status that a definition gets where others of its group
// use names already. A name that is taken is refused, those that were accepted
// before stay; with the first names the resource is established, for good.
func decideStatus(d *apiextensionsv1.CustomResourceDefinition, taken names, now metav1.Time) apiextensionsv1.CustomResourceDefinitionStatus {
	next := &apiextensionsv1.CustomResourceDefinition{Status: *d.Status.DeepCopy()}
	set := func(t apiextensionsv1.CustomResourceDefinitionConditionType, s apiextensionsv1.ConditionStatus, reason, message string) {
		apiextensions.SetCondition(next, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: t, Status: s, Reason: reason, Message: message, LastTransitionTime: now})
	}
	if s, reason, message := approved(d); s != "" {
		set(apiextensionsv1.KubernetesAPIApprovalPolicyConformant, s, reason, message)
	}
	names, reason, message := acceptNames(d, taken)
	next.Status.AcceptedNames = names
	if reason != "" {
		set(apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionFalse, reason, message)
	} else {
		set(apiextensionsv1.NamesAccepted, apiextensionsv1.ConditionTrue, "NoConflicts", "no conflicts found")
	}
	switch {
	case apiextensions.True(d, apiextensionsv1.Established):
	case reason != "":
		set(apiextensionsv1.Established, apiextensionsv1.ConditionFalse, "NotAccepted", "not all names are accepted")
	case badBundle(d):
		set(apiextensionsv1.Established, apiextensionsv1.ConditionFalse, "InvalidCABundle", "The conversion webhook CABundle is invalid")
	default:
		set(apiextensionsv1.Established, apiextensionsv1.ConditionTrue, "InitialNamesAccepted", "the initial names have been accepted")
	}
	return next.Status
}

// acceptNames returns the names that a definition has now, and why not all that
// it asks for: the last reason that there is.
func acceptNames(d *apiextensionsv1.CustomResourceDefinition, taken names) (have apiextensionsv1.CustomResourceDefinitionNames, reason, message string) {
	want := d.Spec.Names.DeepCopy()
	have = *d.Status.AcceptedNames.DeepCopy()
	inUse := func(name string) string { return fmt.Sprintf("%q is already in use", name) }
	take := func(to *string, name string, used map[string]bool, why string) {
		if used[name] && name != *to {
			reason, message = why, inUse(name)
			return
		}
		*to = name
	}
	take(&have.Plural, want.Plural, taken.resources, "PluralConflict")
	take(&have.Singular, want.Singular, taken.resources, "SingularConflict")
	var refused []string
	for _, s := range want.ShortNames {
		if m := inUse(s); taken.resources[s] && !slices.Contains(have.ShortNames, s) && !slices.Contains(refused, m) {
			refused = append(refused, m)
		}
	}
	switch len(refused) {
	case 0:
		have.ShortNames = want.ShortNames
	case 1:
		reason, message = "ShortNamesConflict", refused[0]
	default:
		reason, message = "ShortNamesConflict", "["+strings.Join(refused, ", ")+"]"
	}
	take(&have.Kind, want.Kind, taken.kinds, "KindConflict")
	take(&have.ListKind, want.ListKind, taken.kinds, "ListKindConflict")
	have.Categories = want.Categories
	return have, reason, message
}

// approved says whether a group that belongs to Kubernetes has been approved;
// nothing of other groups.
func approved(d *apiextensionsv1.CustomResourceDefinition) (s apiextensionsv1.ConditionStatus, reason, message string) {
	if !apihelpers.IsProtectedCommunityGroup(d.Spec.Group) {
		return "", "", ""
	}
	state, message := apihelpers.GetAPIApprovalState(d.Annotations)
	switch state {
	case apihelpers.APIApproved:
		return apiextensionsv1.ConditionTrue, "ApprovedAnnotation", message
	case apihelpers.APIApprovalBypassed:
		return apiextensionsv1.ConditionFalse, "UnapprovedAnnotation", message
	case apihelpers.APIApprovalMissing:
		return apiextensionsv1.ConditionFalse, "MissingAnnotation", message
	}
	return apiextensionsv1.ConditionFalse, "InvalidAnnotation", message
}

// badBundle says whether conversions would go to a webhook that nobody could
// trust: what it is trusted by holds something, but no certificate.
func badBundle(d *apiextensionsv1.CustomResourceDefinition) bool {
	c := d.Spec.Conversion
	if c == nil || c.Webhook == nil || c.Webhook.ClientConfig == nil || len(c.Webhook.ClientConfig.CABundle) == 0 {
		return false
	}
	return !x509.NewCertPool().AppendCertsFromPEM(c.Webhook.ClientConfig.CABundle)
}
