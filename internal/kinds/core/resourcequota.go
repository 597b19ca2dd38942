package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/podspec"
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
	errs = append(errs, validateScopes(&q.Spec, specPath.Child("scopes"))...)
	errs = append(errs, validateScopeSelector(&q.Spec, specPath.Child("scopeSelector", "matchExpressions"))...)
	if old != nil && !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(specPath.Child("scopes"), q.Spec.Scopes, "field is immutable"))
	}
	return errs
}

// bounds says whether what a quota bounds is what a scope is about.
func bounds(s *corev1.ResourceQuotaSpec, scope corev1.ResourceQuotaScope) bool {
	for name := range s.Hard {
		if isQuotaResource(name) && !scopeCovers(scope, name) {
			return false
		}
	}
	return true
}

// contradict says whether nothing can be in all the scopes.
func contradict(scopes sets.Set[corev1.ResourceQuotaScope]) bool {
	return scopes.HasAll(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) ||
		scopes.HasAll(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating)
}

func validateScopes(s *corev1.ResourceQuotaSpec, at *field.Path) (errs field.ErrorList) {
	for _, scope := range s.Scopes {
		if !slices.Contains(quotaScopes, scope) {
			errs = append(errs, field.Invalid(at, s.Scopes, "unsupported scope"))
		}
		if !bounds(s, scope) {
			errs = append(errs, field.Invalid(at, s.Scopes, "unsupported scope applied to resource"))
		}
	}
	if contradict(sets.New(s.Scopes...)) {
		errs = append(errs, field.Invalid(at, s.Scopes, "conflicting scopes"))
	}
	return errs
}

// validateScopeSelector checks the scopes that are selected by expressions. The
// paths of errors have no indices, as users of Kubernetes see them.
func validateScopeSelector(s *corev1.ResourceQuotaSpec, at *field.Path) (errs field.ErrorList) {
	if s.ScopeSelector == nil {
		return nil
	}
	scopes := sets.New[corev1.ResourceQuotaScope]()
	for _, r := range s.ScopeSelector.MatchExpressions {
		if !slices.Contains(quotaScopes, r.ScopeName) {
			errs = append(errs, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		if !bounds(s, r.ScopeName) {
			errs = append(errs, field.Invalid(at, s.ScopeSelector, "unsupported scope applied to resource"))
		}
		errs = append(errs, validateScopeRequirement(r, at)...)
		scopes.Insert(r.ScopeName)
	}
	if contradict(scopes) {
		errs = append(errs, field.Invalid(at, s.Scopes, "conflicting scopes"))
	}
	return errs
}

func validateScopeRequirement(r corev1.ScopedResourceSelectorRequirement, at *field.Path) (errs field.ErrorList) {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeVolumeAttributesClass: // these have values
	default:
		if slices.Contains(quotaScopes, r.ScopeName) && r.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, "+
				"ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
	}
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
		errs = append(errs, quotaResource(name, at.Key(string(name)))...)
		errs = append(errs, podspec.Quantity(name, q, at.Key(string(name)))...)
	}
	return errs
}

func validateResourceQuotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	status := field.NewPath("status")
	return append(quotaList(q.Status.Hard, status.Child("hard")), quotaList(q.Status.Used, status.Child("used"))...)
}
