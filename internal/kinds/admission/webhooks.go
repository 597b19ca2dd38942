// Package admission declares the kinds of admissionregistration.k8s.io/v1.
package admission

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
)

const group = "admissionregistration.k8s.io/v1"

// extensions is the category of what extends the API server.
var extensions = []string{"api-extensions"}

// MutatingWebhookConfiguration names webhooks that may change objects before they are stored.
var MutatingWebhookConfiguration = &api.Kind[*admissionv1.MutatingWebhookConfiguration]{
	API: group, Resource: "mutatingwebhookconfigurations", Scope: api.Cluster, Categories: extensions,
	Columns: []api.Column[*admissionv1.MutatingWebhookConfiguration]{
		column.Doc(api.Col("Webhooks", func(c *admissionv1.MutatingWebhookConfiguration) int { return len(c.Webhooks) }),
			"Webhooks indicates the number of webhooks registered in this configuration"),
	},
	Default: func(c *admissionv1.MutatingWebhookConfiguration) {
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			defaultHook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, w.Rules, w.ClientConfig.Service)
			fill.Nil(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		}
	},
	Prepare:  fill.Counted(func(c *admissionv1.MutatingWebhookConfiguration) any { return c.Webhooks }),
	Validate: validateMutating,
}

// ValidatingWebhookConfiguration names webhooks that may refuse objects before they are stored.
var ValidatingWebhookConfiguration = &api.Kind[*admissionv1.ValidatingWebhookConfiguration]{
	API: group, Resource: "validatingwebhookconfigurations", Scope: api.Cluster, Categories: extensions,
	Columns: []api.Column[*admissionv1.ValidatingWebhookConfiguration]{
		column.Doc(api.Col("Webhooks", func(c *admissionv1.ValidatingWebhookConfiguration) int { return len(c.Webhooks) }),
			"Webhooks indicates the number of webhooks registered in this configuration"),
	},
	Default: func(c *admissionv1.ValidatingWebhookConfiguration) {
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			defaultHook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, w.Rules, w.ClientConfig.Service)
		}
	},
	Prepare:  fill.Counted(func(c *admissionv1.ValidatingWebhookConfiguration) any { return c.Webhooks }),
	Validate: validateValidating,
}

// defaultHook fills in what the webhooks of both kinds have.
func defaultHook(failure **admissionv1.FailurePolicyType, match **admissionv1.MatchPolicyType, namespaces, objects **metav1.LabelSelector,
	timeout **int32, rules []admissionv1.RuleWithOperations, service *admissionv1.ServiceReference) {
	fill.Nil(failure, admissionv1.Fail)
	fill.Nil(timeout, 10)
	defaultMatch(match, namespaces, objects)
	for i := range rules {
		fill.Nil(&rules[i].Scope, admissionv1.AllScopes)
	}
	if service != nil {
		fill.Nil(&service.Port, 443)
	}
}

func defaultMatch(match **admissionv1.MatchPolicyType, namespaces, objects **metav1.LabelSelector) {
	fill.Nil(match, admissionv1.Equivalent)
	fill.Nil(namespaces, metav1.LabelSelector{})
	fill.Nil(objects, metav1.LabelSelector{})
}
