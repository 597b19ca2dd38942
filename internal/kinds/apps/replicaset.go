package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
)

// ReplicaSet keeps a number of identical pods.
var ReplicaSet = &api.Kind[*appsv1.ReplicaSet]{
	API: "apps/v1", Resource: "replicasets", Scope: api.Namespaced,
	Short: []string{"rs"}, Categories: []string{"all"},
	Columns: append([]api.Column[*appsv1.ReplicaSet]{
		api.Col("Desired", func(r *appsv1.ReplicaSet) int32 { return column.Replicas(r.Spec.Replicas) }),
		api.Col("Current", func(r *appsv1.ReplicaSet) int32 { return r.Status.Replicas }),
		api.Col("Ready", func(r *appsv1.ReplicaSet) int32 { return r.Status.ReadyReplicas }),
	}, append(column.Workload(func(r *appsv1.ReplicaSet) *corev1.PodSpec { return &r.Spec.Template.Spec }),
		column.Selector(func(r *appsv1.ReplicaSet) *metav1.LabelSelector { return r.Spec.Selector }))...),
	Fields: map[string]func(*appsv1.ReplicaSet) string{
		"status.replicas": func(r *appsv1.ReplicaSet) string { return strconv.Itoa(int(r.Status.Replicas)) },
	},
	Default: func(r *appsv1.ReplicaSet) {
		fill.Nil(&r.Spec.Replicas, 1)
		podspec.DefaultTemplate(&r.Spec.Template)
	},
	Prepare: func(r, old *appsv1.ReplicaSet) {
		r.Status = appsv1.ReplicaSetStatus{}
		if old != nil {
			r.Status = old.Status
		}
	},
	Validate: validateReplicaSet,
	Warn: func(r, old *appsv1.ReplicaSet) []string {
		return podspec.WarnWorkload(r.Name, &r.Spec.Template, old != nil)
	},
	Status:         true,
	PrepareStatus:  func(r, old *appsv1.ReplicaSet) { r.Spec = old.Spec },
	ValidateStatus: validateReplicaSetStatus,
	Scale: &api.Scale[*appsv1.ReplicaSet]{
		Want:     func(r *appsv1.ReplicaSet) *int32 { return r.Spec.Replicas },
		SetWant:  func(r *appsv1.ReplicaSet, n int32) { r.Spec.Replicas = &n },
		Have:     func(r *appsv1.ReplicaSet) int32 { return r.Status.Replicas },
		Selector: func(r *appsv1.ReplicaSet) string { return scaleSelector(r.Spec.Selector) },
	},
}
