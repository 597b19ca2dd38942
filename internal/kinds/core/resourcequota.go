package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// ResourceQuota bounds what a namespace may hold in total.
var ResourceQuota = &api.Kind[*corev1.ResourceQuota]{
	API: "v1", Resource: "resourcequotas", Scope: api.Namespaced, Short: []string{"quota"},
	Columns: []api.Column[*corev1.ResourceQuota]{
		api.Col("Request", func(q *corev1.ResourceQuota) string { return quotaText(q, false) }),
		api.Col("Limit", func(q *corev1.ResourceQuota) string { return quotaText(q, true) }),
	},
	Prepare: func(q, old *corev1.ResourceQuota) {
		q.Status = corev1.ResourceQuotaStatus{}
		if old != nil {
			q.Status = old.Status
		}
	},
	Validate:       validateResourceQuota,
	Status:         true,
	PrepareStatus:  func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec },
	ValidateStatus: validateResourceQuotaStatus,
	Ungenerated:    true,
}

// quotaText shows used and hard of each limit, or of each other resource.
func quotaText(q *corev1.ResourceQuota, limits bool) string {
	var names []string
	for k := range q.Status.Hard {
		if strings.HasPrefix(string(k), "limits") == limits {
			names = append(names, string(k))
		}
	}
	slices.Sort(names)
	for i, k := range names {
		used, hard := q.Status.Used[corev1.ResourceName(k)], q.Status.Hard[corev1.ResourceName(k)]
		names[i] = fmt.Sprintf("%s: %s/%s", k, used.String(), hard.String())
	}
	return strings.Join(names, ", ")
}

// quotaScopes are the scopes that a quota can have.
var quotaScopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
	corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopePriorityClass,
	corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeVolumeAttributesClass}

func validateResourceQuota(q, old *corev1.ResourceQuota) (errs field.ErrorList) {
	errs = quotaList(q.Spec.Hard, specPath.Child("hard"))
	seen := map[corev1.ResourceQuotaScope]bool{}
	scopes := specPath.Child("scopes")
	for _, s := range q.Spec.Scopes {
		errs = append(errs, validate.Known(s, scopes, quotaScopes...)...)
		seen[s] = true
	}
	for _, pair := range [][2]corev1.ResourceQuotaScope{{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating}} {
		if seen[pair[0]] && seen[pair[1]] {
			errs = append(errs, field.Invalid(scopes, q.Spec.Scopes, "conflicting scopes"))
		}
	}
	if q.Spec.ScopeSelector != nil {
		for i, r := range q.Spec.ScopeSelector.MatchExpressions {
			errs = append(errs, validateScopeRequirement(r, specPath.Child("scopeSelector", "matchExpressions").Index(i))...)
		}
	}
	if old != nil {
		same := map[corev1.ResourceQuotaScope]bool{}
		for _, s := range old.Spec.Scopes {
			same[s] = true
		}
		if !equality.Semantic.DeepEqual(seen, same) {
			errs = append(errs, field.Invalid(scopes, q.Spec.Scopes, "field is immutable"))
		}
	}
	return errs
}

func validateScopeRequirement(r corev1.ScopedResourceSelectorRequirement, at *field.Path) (errs field.ErrorList) {
	errs = validate.Known(r.ScopeName, at.Child("scopeName"), quotaScopes...)
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

func quotaList(l corev1.ResourceList, at *field.Path) (errs field.ErrorList) {
	for name, q := range l {
		errs = append(errs, validate.Qualified(string(name), at.Key(string(name)))...)
		errs = append(errs, podspec.Quantity(name, q, at.Key(string(name)))...)
	}
	return errs
}

func validateResourceQuotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	status := field.NewPath("status")
	return append(quotaList(q.Status.Hard, status.Child("hard")), quotaList(q.Status.Used, status.Child("used"))...)
}
