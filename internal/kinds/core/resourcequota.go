package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
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
