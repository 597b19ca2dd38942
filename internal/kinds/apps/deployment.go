// Package apps declares the kinds of the apps group, v1.
package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
)

// Deployment rolls a pod template out over replica sets.
var Deployment = &api.Kind[*appsv1.Deployment]{
	API: "apps/v1", Resource: "deployments", Scope: api.Namespaced,
	Short: []string{"deploy"}, Categories: []string{"all"},
	Columns: append([]api.Column[*appsv1.Deployment]{
		column.Doc(api.Col("Ready", func(d *appsv1.Deployment) string {
			return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, column.Replicas(d.Spec.Replicas))
		}), "Number of the pod with ready state"),
		api.Col("Up-to-date", func(d *appsv1.Deployment) int32 { return d.Status.UpdatedReplicas }),
		api.Col("Available", func(d *appsv1.Deployment) int32 { return d.Status.AvailableReplicas }),
	}, append(column.Workload(func(d *appsv1.Deployment) *corev1.PodSpec { return &d.Spec.Template.Spec }),
		column.Selector(func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector }))...),
	Default: defaultDeployment,
	Prepare: func(d, old *appsv1.Deployment) {
		d.Status = appsv1.DeploymentStatus{}
		if old != nil {
			d.Status = old.Status
		}
	},
	Validate: validateDeployment,
	Warn: func(d, old *appsv1.Deployment) []string {
		return podspec.WarnWorkload(d.Name, &d.Spec.Template, old != nil)
	},
	Status:         true,
	PrepareStatus:  func(d, old *appsv1.Deployment) { d.Spec, d.Labels = old.Spec, old.Labels },
	ValidateStatus: validateDeploymentStatus,
	Scale: &api.Scale[*appsv1.Deployment]{
		Want:     func(d *appsv1.Deployment) *int32 { return d.Spec.Replicas },
		SetWant:  func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n },
		Have:     func(d *appsv1.Deployment) int32 { return d.Status.Replicas },
		Selector: func(d *appsv1.Deployment) string { return scaleSelector(d.Spec.Selector) },
	},
}

// scaleSelector is how a scale's status shows the selector.
func scaleSelector(s *metav1.LabelSelector) string {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return sel.String()
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	podspec.DefaultTemplate(&s.Template)
	fill.Nil(&s.Replicas, 1)
	fill.Nil(&s.RevisionHistoryLimit, 10)
	fill.Nil(&s.ProgressDeadlineSeconds, 600)
	fill.Zero(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = new(appsv1.RollingUpdateDeployment)
		}
		fill.Nil(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		fill.Nil(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
}
