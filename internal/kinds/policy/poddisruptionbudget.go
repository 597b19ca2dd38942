// Package policy declares the kinds of policy/v1.
package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/validate"
)

// PodDisruptionBudget limits how many of some pods may be evicted at a time.
var PodDisruptionBudget = &api.Kind[*policyv1.PodDisruptionBudget]{
	API: "policy/v1", Resource: "poddisruptionbudgets", Scope: api.Namespaced, Short: []string{"pdb"},
	Conditional: true,
	Columns: []api.Column[*policyv1.PodDisruptionBudget]{
		column.Doc(api.Col("Min Available", func(b *policyv1.PodDisruptionBudget) string { return amount(b.Spec.MinAvailable) }),
			"The minimum number of pods that must be available."),
		column.Doc(api.Col("Max Unavailable", func(b *policyv1.PodDisruptionBudget) string { return amount(b.Spec.MaxUnavailable) }),
			"The maximum number of pods that may be unavailable."),
		column.Doc(api.Col("Allowed Disruptions", func(b *policyv1.PodDisruptionBudget) int32 { return b.Status.DisruptionsAllowed }),
			"Calculated number of pods that may be disrupted at this time."),
	},
	Validate:       validateBudget,
	Status:         true,
	ValidateStatus: validateBudgetStatus,
	Versioned:      true,
}

func amount(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

func validateBudget(b, old *policyv1.PodDisruptionBudget) (errs field.ErrorList) {
	s, at := &b.Spec, field.NewPath("spec")
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(at, s, "minAvailable and maxUnavailable cannot be both set"))
	}
	errs = append(errs, amountOK(s.MinAvailable, at.Child("minAvailable"))...)
	errs = append(errs, amountOK(s.MaxUnavailable, at.Child("maxUnavailable"))...)
	opts := metavalidation.LabelSelectorValidationOptions{
		AllowInvalidLabelValueInSelector: old != nil && len(metavalidation.ValidateLabelSelector(
			old.Spec.Selector, metavalidation.LabelSelectorValidationOptions{}, nil)) > 0,
	}
	errs = append(errs, metavalidation.ValidateLabelSelector(s.Selector, opts, at.Child("selector"))...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, validate.Known(*p, at.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func amountOK(v *intstr.IntOrString, at *field.Path) field.ErrorList {
	return append(validate.CountOrPercent(v, at), validate.AtMostHundredPercent(v, at)...)
}

func validateBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	s, at := &b.Status, field.NewPath("status")
	errs := metavalidation.ValidateConditions(s.Conditions, at.Child("conditions"))
	for _, n := range []struct {
		name  string
		value int32
	}{{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy},
		{"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods}} {
		errs = append(errs, validate.Count(n.value, at.Child(n.name))...)
	}
	return errs
}

// Guards says whether a budget is about a pod with these labels. An empty
// selector is about every pod of the namespace, none about no pod.
func Guards(b *policyv1.PodDisruptionBudget, podLabels map[string]string) bool {
	if b.Spec.Selector == nil {
		return false
	}
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && sel.Matches(labels.Set(podLabels))
}
