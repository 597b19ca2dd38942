package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
)

// DaemonSet keeps a pod on every node that it selects.
var DaemonSet = &api.Kind[*appsv1.DaemonSet]{
	API: "apps/v1", Resource: "daemonsets", Scope: api.Namespaced,
	Short: []string{"ds"}, Categories: []string{"all"},
	Columns: append([]api.Column[*appsv1.DaemonSet]{
		api.Col("Desired", func(d *appsv1.DaemonSet) int32 { return d.Status.DesiredNumberScheduled }),
		api.Col("Current", func(d *appsv1.DaemonSet) int32 { return d.Status.CurrentNumberScheduled }),
		api.Col("Ready", func(d *appsv1.DaemonSet) int32 { return d.Status.NumberReady }),
		api.Col("Up-to-date", func(d *appsv1.DaemonSet) int32 { return d.Status.UpdatedNumberScheduled }),
		api.Col("Available", func(d *appsv1.DaemonSet) int32 { return d.Status.NumberAvailable }),
		api.Col("Node Selector", func(d *appsv1.DaemonSet) string {
			if s := d.Spec.Template.Spec.NodeSelector; len(s) > 0 {
				return labels.FormatLabels(s)
			}
			return "<none>"
		}),
	}, append(column.Workload(func(d *appsv1.DaemonSet) *corev1.PodSpec { return &d.Spec.Template.Spec }),
		column.Selector(func(d *appsv1.DaemonSet) *metav1.LabelSelector { return d.Spec.Selector }))...),
	Default: defaultDaemonSet,
	Prepare: func(d, old *appsv1.DaemonSet) {
		d.Status = appsv1.DaemonSetStatus{}
		if old != nil {
			d.Status = old.Status
		}
	},
	Validate:       validateDaemonSet,
	Warn:           func(d, _ *appsv1.DaemonSet) []string { return podspec.WarnTemplate(&d.Spec.Template) },
	Status:         true,
	PrepareStatus:  func(d, old *appsv1.DaemonSet) { d.Spec = old.Spec },
	ValidateStatus: validateDaemonSetStatus,
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	s := &d.Spec
	podspec.DefaultTemplate(&s.Template)
	fill.Nil(&s.RevisionHistoryLimit, 10)
	fill.Zero(&s.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = new(appsv1.RollingUpdateDaemonSet)
		}
		fill.Nil(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		fill.Nil(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
}
