package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// The most rules that a policy may have, and a rule conditions, codes, and
// bytes for indexes.
const (
	maxRules        = 20
	maxExitCodes    = 255
	maxRuleIndexes  = 64 * 1024
	maxOnConditions = 20
)

// listed checks that v is one of allowed, which are in order; the error about
// an empty v lists them.
func listed[S ~string](v S, path *field.Path, allowed ...S) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", slices.Clone(allowed)))}
	}
	return validate.Known(v, path, allowed...)
}

func validateFailurePolicy(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	names := map[string]bool{}
	for i := range s.Template.Spec.InitContainers {
		names[s.Template.Spec.InitContainers[i].Name] = true
	}
	for i := range s.Template.Spec.Containers {
		names[s.Template.Spec.Containers[i].Name] = true
	}
	rules := path.Child("rules")
	if n := len(s.PodFailurePolicy.Rules); n > maxRules {
		errs = append(errs, field.TooMany(rules, n, maxRules))
	}
	for i := range s.PodFailurePolicy.Rules {
		r, at := &s.PodFailurePolicy.Rules[i], rules.Index(i)
		errs = append(errs, validateFailureRule(r, s.BackoffLimitPerIndex != nil, names, at)...)
	}
	return errs
}

func validateFailureRule(r *batchv1.PodFailurePolicyRule, perIndex bool, names map[string]bool, at *field.Path) (errs field.ErrorList) {
	if r.Action == batchv1.PodFailurePolicyActionFailIndex && !perIndex {
		errs = append(errs, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	}
	errs = append(errs, listed(r.Action, at.Child("action"), batchv1.PodFailurePolicyActionCount,
		batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)...)
	if r.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(r.OnExitCodes, names, at.Child("onExitCodes"))...)
	}
	conditions := at.Child("onPodConditions")
	if n := len(r.OnPodConditions); n > maxOnConditions {
		errs = append(errs, field.TooMany(conditions, n, maxOnConditions))
	}
	for i, c := range r.OnPodConditions {
		p := conditions.Index(i)
		errs = append(errs, validate.Qualified(string(c.Type), p.Child("type"))...)
		errs = append(errs, listed(c.Status, p.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	switch codes, conds := r.OnExitCodes != nil, len(r.OnPodConditions) > 0; {
	case codes && conds:
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case !codes && !conds:
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, names map[string]bool, at *field.Path) (errs field.ErrorList) {
	errs = listed(r.Operator, at.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if r.ContainerName != nil && !names[*r.ContainerName] {
		errs = append(errs, field.Invalid(at.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := at.Child("values")
	if n := len(r.Values); n == 0 {
		errs = append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	} else if n > maxExitCodes {
		errs = append(errs, field.TooMany(values, n, maxExitCodes))
	}
	seen := map[int32]bool{}
	for i, v := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		seen[v] = true
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	rules := path.Child("rules")
	if n := len(s.SuccessPolicy.Rules); n == 0 {
		errs = append(errs, field.Required(rules, "at least one rules must be specified when the successPolicy is specified"))
	} else if n > maxRules {
		errs = append(errs, field.TooMany(rules, n, maxRules))
	}
	for i := range s.SuccessPolicy.Rules {
		errs = append(errs, validateSuccessRule(&s.SuccessPolicy.Rules[i], s.Completions, rules.Index(i))...)
	}
	return errs
}

func validateSuccessRule(r *batchv1.SuccessPolicyRule, completions *int32, at *field.Path) (errs field.ErrorList) {
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	total := int32(-1)
	if x, p := r.SucceededIndexes, at.Child("succeededIndexes"); x != nil {
		if len(*x) > maxRuleIndexes {
			errs = append(errs, field.TooLong(p, *x, maxRuleIndexes))
		}
		if completions != nil {
			spans, err := parseIndexes(*x, *completions)
			if err != nil {
				errs = append(errs, field.Invalid(p, *x, "error parsing succeededIndexes: "+err.Error()))
			} else {
				total = spans.total()
			}
		}
	}
	if n, p := r.SucceededCount, at.Child("succeededCount"); n != nil {
		errs = append(errs, validate.Count(*n, p)...)
		if completions != nil && *n > *completions {
			errs = append(errs, field.Invalid(p, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *completions)))
		}
		if total >= 0 && *n > total {
			errs = append(errs, field.Invalid(p, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}
