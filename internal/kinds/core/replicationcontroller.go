package core

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// ReplicationController is what came before ReplicaSet.
var ReplicationController = &api.Kind[*corev1.ReplicationController]{
	API: "v1", Resource: "replicationcontrollers", Scope: api.Namespaced, Short: []string{"rc"}, Categories: []string{"all"},
	Columns: append([]api.Column[*corev1.ReplicationController]{
		api.Col("Desired", func(r *corev1.ReplicationController) int32 { return column.Replicas(r.Spec.Replicas) }),
		api.Col("Current", func(r *corev1.ReplicationController) int32 { return r.Status.Replicas }),
		api.Col("Ready", func(r *corev1.ReplicationController) int32 { return r.Status.ReadyReplicas }),
	}, append(column.Workload(controllerPodSpec), column.Selector(func(r *corev1.ReplicationController) *metav1.LabelSelector {
		return metav1.SetAsLabelSelector(r.Spec.Selector)
	}))...),
	Fields: map[string]func(*corev1.ReplicationController) string{
		"status.replicas": func(r *corev1.ReplicationController) string { return strconv.Itoa(int(r.Status.Replicas)) },
	},
	Default: defaultReplicationController,
	Prepare: func(r, old *corev1.ReplicationController) {
		r.Status = corev1.ReplicationControllerStatus{}
		if old != nil {
			r.Status = old.Status
		}
	},
	Validate:      validateReplicationController,
	Status:        true,
	PrepareStatus: func(r, old *corev1.ReplicationController) { r.Spec = old.Spec },
	Propagation:   metav1.DeletePropagationOrphan,
	Scale: &api.Scale[*corev1.ReplicationController]{
		Want:     func(r *corev1.ReplicationController) *int32 { return r.Spec.Replicas },
		SetWant:  func(r *corev1.ReplicationController, n int32) { r.Spec.Replicas = &n },
		Have:     func(r *corev1.ReplicationController) int32 { return r.Status.Replicas },
		Selector: func(r *corev1.ReplicationController) string { return labels.Set(r.Spec.Selector).String() },
	},
}

func controllerPodSpec(r *corev1.ReplicationController) *corev1.PodSpec {
	if r.Spec.Template == nil {
		return new(corev1.PodSpec)
	}
	return &r.Spec.Template.Spec
}

// defaultReplicationController takes selector and labels from the template if
// they are left out.
func defaultReplicationController(r *corev1.ReplicationController) {
	fill.Nil(&r.Spec.Replicas, 1)
	t := r.Spec.Template
	if t == nil {
		return
	}
	podspec.DefaultTemplate(t)
	if len(t.Labels) > 0 {
		if len(r.Spec.Selector) == 0 {
			r.Spec.Selector = merged(nil, t.Labels)
		}
		if len(r.Labels) == 0 {
			r.Labels = merged(nil, t.Labels)
		}
	}
}

func validateReplicationController(r, _ *corev1.ReplicationController) (errs field.ErrorList) {
	errs = validate.Count(r.Spec.MinReadySeconds, specPath.Child("minReadySeconds"))
	if len(r.Spec.Selector) == 0 {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	}
	if r.Spec.Replicas == nil {
		errs = append(errs, field.Required(specPath.Child("replicas"), ""))
	} else {
		errs = append(errs, validate.Count(*r.Spec.Replicas, specPath.Child("replicas"))...)
	}
	t, at := r.Spec.Template, specPath.Child("template")
	if t == nil {
		return append(errs, field.Required(at, ""))
	}
	for k, v := range r.Spec.Selector {
		if t.Labels[k] != v {
			errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
			break
		}
	}
	errs = append(errs, podspec.ValidateTemplate(t, at)...)
	return append(errs, podspec.AlwaysRestarts(t, "ReplicationController", at)...)
}
