package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// LimitRange bounds and defaults the resources of what a namespace holds.
var LimitRange = &api.Kind[*corev1.LimitRange]{
	API: "v1", Resource: "limitranges", Scope: api.Namespaced, Short: []string{"limits"},
	Whole: true,
	Columns: []api.Column[*corev1.LimitRange]{
		column.Name(column.Plain[*corev1.LimitRange]), column.CreatedAt[*corev1.LimitRange](),
	},
	Default:        defaultLimitRange,
	Validate:       validateLimitRange,
	CreateOnUpdate: true,
}

// defaultLimitRange lets a container's default limit be its maximum, its default
// request be its default limit or else its minimum.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		fillList := func(dst *corev1.ResourceList, src corev1.ResourceList) {
			for k, v := range src {
				if _, ok := (*dst)[k]; !ok {
					if *dst == nil {
						*dst = map[corev1.ResourceName]resource.Quantity{}
					}
					(*dst)[k] = v.DeepCopy()
				}
			}
		}
		fillList(&item.Default, item.Max)
		fillList(&item.DefaultRequest, item.Default)
		fillList(&item.DefaultRequest, item.Min)
	}
}

var limitTypes = []corev1.LimitType{corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim}

func validateLimitRange(l, _ *corev1.LimitRange) (errs field.ErrorList) {
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], specPath.Child("limits").Index(i)
		bad := validate.Qualified(string(item.Type), at.Child("type"))
		if len(bad) == 0 && !strings.Contains(string(item.Type), "/") && !slices.Contains(limitTypes, item.Type) {
			bad = append(bad, field.Invalid(at.Child("type"), item.Type, "must be a standard limit type or fully qualified"))
		}
		errs = append(errs, bad...)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen[item.Type] = true
		if item.Type == corev1.LimitTypePersistentVolumeClaim {
			_, low := item.Min[corev1.ResourceStorage]
			_, high := item.Max[corev1.ResourceStorage]
			if !low && !high {
				errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
			}
		}
		errs = append(errs, limitNames(item, at)...)
		errs = append(errs, limitOrder(item, at)...)
		errs = append(errs, limitRatio(item, at)...)
	}
	return errs
}

// limitNames checks which resources can be bounded, and that whole pods are given no defaults.
func limitNames(item *corev1.LimitRangeItem, at *field.Path) (errs field.ErrorList) {
	rule := podspec.ResourceName
	if item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
		rule = podspec.ContainerResourceName
	}
	for list, of := range map[string]corev1.ResourceList{"max": item.Max, "min": item.Min, "default": item.Default,
		"defaultRequest": item.DefaultRequest, "maxLimitRequestRatio": item.MaxLimitRequestRatio} {
		if item.Type == corev1.LimitTypePod && len(of) > 0 && (list == "default" || list == "defaultRequest") {
			errs = append(errs, field.Forbidden(at.Child(list), "may not be specified when `type` is 'Pod'"))
			continue
		}
		for name := range of {
			errs = append(errs, rule(name, at.Child(list).Key(string(name)))...)
		}
	}
	return errs
}

// limitOrder checks that min ≤ defaultRequest ≤ default ≤ max for every resource.
// Each rule has the list that its error is at, and whose value it shows.
func limitOrder(item *corev1.LimitRangeItem, at *field.Path) (errs field.ErrorList) {
	type list struct {
		name, phrase string
		of           corev1.ResourceList
	}
	low, high := list{"min", "min", item.Min}, list{"max", "max", item.Max}
	request, limit := list{"defaultRequest", "default request", item.DefaultRequest}, list{"default", "default", item.Default}
	named := limit
	named.phrase = "default limit"
	for _, r := range []struct{ low, high, at, shown list }{
		{low, high, low, low}, {low, request, request, request}, {request, high, request, request},
		{request, named, request, request}, {low, limit, limit, low}, {limit, high, limit, high},
	} {
		for name, q := range r.low.of {
			if h, ok := r.high.of[name]; ok && q.Cmp(h) > 0 {
				errs = append(errs, field.Invalid(at.Child(r.at.name).Key(string(name)), r.shown.of[name],
					fmt.Sprintf("%s value %s is greater than %s value %s", r.low.phrase, q.String(), r.high.phrase, h.String())))
			}
		}
	}
	for name, q := range item.Default {
		if r, ok := item.DefaultRequest[name]; ok && !overcommits(name) && q.Cmp(r) != 0 {
			errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(string(name)), r,
				fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", q.String(), r.String(), name)))
		}
	}
	return errs
}

// limitRatio checks how many times more than a request a limit may be: at least
// once, and not more than the bounds allow anyway.
func limitRatio(item *corev1.LimitRangeItem, at *field.Path) (errs field.ErrorList) {
	for name, q := range item.MaxLimitRequestRatio {
		p := at.Child("maxLimitRequestRatio").Key(string(name))
		if q.CmpInt64(1) < 0 {
			errs = append(errs, field.Invalid(p, q, fmt.Sprintf("ratio %s is less than 1", q.String())))
		}
		low, ok1 := item.Min[name]
		high, ok2 := item.Max[name]
		if most := high.AsApproximateFloat64() / low.AsApproximateFloat64(); ok1 && ok2 && q.AsApproximateFloat64() > most {
			errs = append(errs, field.Invalid(p, q, fmt.Sprintf("ratio %s is greater than max/min = %f", q.String(), most)))
		}
	}
	return errs
}
