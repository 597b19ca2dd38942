package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"proa/internal/api"
	"proa/internal/kinds/column"
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
