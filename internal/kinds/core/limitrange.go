package core

import (
	"fmt"

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

func validateLimitRange(l, _ *corev1.LimitRange) (errs field.ErrorList) {
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], specPath.Child("limits").Index(i)
		errs = append(errs, validate.Qualified(string(item.Type), at.Child("type"))...)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen[item.Type] = true
		if item.Type == corev1.LimitTypePod {
			if len(item.Default) > 0 {
				errs = append(errs, field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(item.DefaultRequest) > 0 {
				errs = append(errs, field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
		}
		if item.Type == corev1.LimitTypePersistentVolumeClaim && item.Max.Storage().IsZero() && item.Min.Storage().IsZero() {
			errs = append(errs, field.Required(at, "either minimum or maximum storage value is required, but neither was provided"))
		}
		errs = append(errs, limitOrder(item, at)...)
	}
	return errs
}

// limitOrder checks min ≤ defaultRequest ≤ default ≤ max for every resource.
func limitOrder(item *corev1.LimitRangeItem, at *field.Path) (errs field.ErrorList) {
	lists := []struct {
		name string
		of   corev1.ResourceList
	}{{"min", item.Min}, {"defaultRequest", item.DefaultRequest}, {"default", item.Default}, {"max", item.Max}}
	phrase := map[string]string{"min": "min", "defaultRequest": "default request", "default": "default", "max": "max"}
	for i, low := range lists {
		for name, q := range low.of {
			errs = append(errs, podspec.Quantity(name, q, at.Child(low.name).Key(string(name)))...)
			for _, high := range lists[i+1:] {
				if h, ok := high.of[name]; ok && q.Cmp(h) > 0 {
					errs = append(errs, field.Invalid(at.Child(low.name).Key(string(name)), q.String(),
						fmt.Sprintf("%s value %s is greater than %s value %s", phrase[low.name], q.String(), phrase[high.name], h.String())))
				}
			}
		}
	}
	for name, q := range item.MaxLimitRequestRatio {
		if q.MilliValue() < 1000 {
			errs = append(errs, field.Invalid(at.Child("maxLimitRequestRatio").Key(string(name)), q.String(),
				fmt.Sprintf("ratio %s is less than 1", q.String())))
		}
	}
	return errs
}
