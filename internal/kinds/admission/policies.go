package admission

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
)

// ValidatingAdmissionPolicy refuses objects by expressions.
var ValidatingAdmissionPolicy = &api.Kind[*admissionv1.ValidatingAdmissionPolicy]{
	API: group, Resource: "validatingadmissionpolicies", Scope: api.Cluster, Categories: extensions,
	Columns: []api.Column[*admissionv1.ValidatingAdmissionPolicy]{
		column.Doc(api.Col("Validations", func(p *admissionv1.ValidatingAdmissionPolicy) int { return len(p.Spec.Validations) }),
			"Validations indicates the number of validation rules defined in this configuration"),
		column.Doc(api.Col("ParamKind", func(p *admissionv1.ValidatingAdmissionPolicy) string { return paramKind(p.Spec.ParamKind) }),
			"ParamKind specifies the kind of resources used to parameterize this policy"),
	},
	Default: func(p *admissionv1.ValidatingAdmissionPolicy) {
		fill.Nil(&p.Spec.FailurePolicy, admissionv1.Fail)
		defaultResources(p.Spec.MatchConstraints)
	},
	Prepare: func(p, old *admissionv1.ValidatingAdmissionPolicy) {
		p.Status = admissionv1.ValidatingAdmissionPolicyStatus{}
		if old != nil {
			p.Status = old.Status
		}
	},
	Validate:       validateValidatingPolicy,
	Status:         true,
	PrepareStatus:  func(p, old *admissionv1.ValidatingAdmissionPolicy) { p.Spec = old.Spec },
	ValidateStatus: validatePolicyStatus,
}

// ValidatingAdmissionPolicyBinding says where a policy holds, and with what parameters.
var ValidatingAdmissionPolicyBinding = &api.Kind[*admissionv1.ValidatingAdmissionPolicyBinding]{
	API: group, Resource: "validatingadmissionpolicybindings", Scope: api.Cluster, Categories: extensions,
	Columns: []api.Column[*admissionv1.ValidatingAdmissionPolicyBinding]{
		column.Doc(api.Col("PolicyName", func(b *admissionv1.ValidatingAdmissionPolicyBinding) string { return b.Spec.PolicyName }), policyNameDoc),
		column.Doc(api.Col("ParamRef", func(b *admissionv1.ValidatingAdmissionPolicyBinding) string { return paramRef(b.Spec.ParamRef) }), paramRefDoc),
	},
	Default:  func(b *admissionv1.ValidatingAdmissionPolicyBinding) { defaultResources(b.Spec.MatchResources) },
	Prepare:  fill.Counted(func(b *admissionv1.ValidatingAdmissionPolicyBinding) any { return b.Spec }),
	Validate: validateValidatingBinding,
}

// MutatingAdmissionPolicy changes objects by expressions.
var MutatingAdmissionPolicy = &api.Kind[*admissionv1.MutatingAdmissionPolicy]{
	API: group, Resource: "mutatingadmissionpolicies", Scope: api.Cluster, Categories: extensions,
	Columns: []api.Column[*admissionv1.MutatingAdmissionPolicy]{
		column.Doc(api.Col("Mutations", func(p *admissionv1.MutatingAdmissionPolicy) int { return len(p.Spec.Mutations) }),
			"Mutations indicates the number of mutations rules defined in this configuration"),
		column.Doc(api.Col("ParamKind", func(p *admissionv1.MutatingAdmissionPolicy) string { return paramKind(p.Spec.ParamKind) }),
			"ParamKind specifies the kind of resources used to parameterize this policy"),
	},
	Default: func(p *admissionv1.MutatingAdmissionPolicy) {
		fill.Nil(&p.Spec.FailurePolicy, admissionv1.Fail)
		defaultResources(p.Spec.MatchConstraints)
	},
	Prepare:  fill.Counted(func(p *admissionv1.MutatingAdmissionPolicy) any { return p.Spec }),
	Validate: validateMutatingPolicy,
}

// MutatingAdmissionPolicyBinding says where a policy holds, and with what parameters.
var MutatingAdmissionPolicyBinding = &api.Kind[*admissionv1.MutatingAdmissionPolicyBinding]{
	API: group, Resource: "mutatingadmissionpolicybindings", Scope: api.Cluster, Categories: extensions,
	Columns: []api.Column[*admissionv1.MutatingAdmissionPolicyBinding]{
		column.Doc(api.Col("PolicyName", func(b *admissionv1.MutatingAdmissionPolicyBinding) string { return b.Spec.PolicyName }), policyNameDoc),
		column.Doc(api.Col("ParamRef", func(b *admissionv1.MutatingAdmissionPolicyBinding) string { return paramRef(b.Spec.ParamRef) }), paramRefDoc),
	},
	Default:  func(b *admissionv1.MutatingAdmissionPolicyBinding) { defaultResources(b.Spec.MatchResources) },
	Prepare:  fill.Counted(func(b *admissionv1.MutatingAdmissionPolicyBinding) any { return b.Spec }),
	Validate: validateMutatingBinding,
}

const (
	policyNameDoc = "PolicyName indicates the policy definition which the policy binding binded to"
	paramRefDoc   = "ParamRef indicates the param resource which sets the configration param"
)

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

// paramRef shows the parameters of a binding. Whether those without a
// namespace are in one cannot be told from here.
func paramRef(r *admissionv1.ParamRef) string {
	switch {
	case r != nil && r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r != nil && r.Name != "":
		return "*/" + r.Name
	case r != nil && r.Selector != nil:
		return metav1.FormatLabelSelector(r.Selector)
	}
	return "<unset>"
}

func defaultResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	defaultMatch(&m.MatchPolicy, &m.NamespaceSelector, &m.ObjectSelector)
	for i := range m.ResourceRules {
		fill.Nil(&m.ResourceRules[i].Scope, admissionv1.AllScopes)
	}
	for i := range m.ExcludeResourceRules {
		fill.Nil(&m.ExcludeResourceRules[i].Scope, admissionv1.AllScopes)
	}
}
