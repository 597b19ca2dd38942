package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/core"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// StatefulSet keeps pods that each have a name and storage of their own.
var StatefulSet = &api.Kind[*appsv1.StatefulSet]{
	API: "apps/v1", Resource: "statefulsets", Scope: api.Namespaced,
	Short: []string{"sts"}, Categories: []string{"all"},
	Columns: append([]api.Column[*appsv1.StatefulSet]{
		column.Doc(api.Col("Ready", func(s *appsv1.StatefulSet) string {
			return fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, column.Replicas(s.Spec.Replicas))
		}), "Number of the pod with ready state"),
	}, column.Workload(func(s *appsv1.StatefulSet) *corev1.PodSpec { return &s.Spec.Template.Spec })...),
	Name:    apivalidation.NameIsDNSLabel, // pods have it in their hostname
	Default: defaultStatefulSet,
	Restore: restoreClaimTypes,
	Prepare: func(s, old *appsv1.StatefulSet) {
		s.Status = appsv1.StatefulSetStatus{}
		if old != nil {
			s.Status = old.Status
		}
	},
	Validate: validateStatefulSet,
	Warn: func(s, old *appsv1.StatefulSet) []string {
		return podspec.WarnWorkload(s.Name, &s.Spec.Template, old != nil)
	},
	Status:         true,
	PrepareStatus:  func(s, old *appsv1.StatefulSet) { s.Spec = old.Spec },
	ValidateStatus: validateStatefulSetStatus,
	Scale: &api.Scale[*appsv1.StatefulSet]{
		Want:     func(s *appsv1.StatefulSet) *int32 { return s.Spec.Replicas },
		SetWant:  func(s *appsv1.StatefulSet, n int32) { s.Spec.Replicas = &n },
		Have:     func(s *appsv1.StatefulSet) int32 { return s.Status.Replicas },
		Selector: func(s *appsv1.StatefulSet) string { return scaleSelector(s.Spec.Selector) },
	},
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	podspec.DefaultTemplate(&spec.Template)
	fill.Nil(&spec.Replicas, 1)
	fill.Nil(&spec.RevisionHistoryLimit, 10)
	fill.Zero(&spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	fill.Zero(&spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if u := &spec.UpdateStrategy; u.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		if u.RollingUpdate == nil {
			u.RollingUpdate = new(appsv1.RollingUpdateStatefulSetStrategy)
		}
		fill.Nil(&u.RollingUpdate.Partition, 0)
		fill.Nil(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	if spec.PersistentVolumeClaimRetentionPolicy == nil {
		spec.PersistentVolumeClaimRetentionPolicy = new(appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy)
	}
	fill.Zero(&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	fill.Zero(&spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	restoreClaimTypes(s)
	for i := range spec.VolumeClaimTemplates {
		c := &spec.VolumeClaimTemplates[i]
		fill.Zero(&c.Status.Phase, corev1.ClaimPending)
		core.DefaultClaimSpec(&c.Spec)
	}
}

// restoreClaimTypes says of every claim template what it is, whatever was given:
// clients see it, but the stored form does not hold it.
func restoreClaimTypes(s *appsv1.StatefulSet) {
	for i := range s.Spec.VolumeClaimTemplates {
		c := &s.Spec.VolumeClaimTemplates[i]
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
	}
}

// withClaims is the template with the volumes that the claim templates will
// become, for mounts name those.
func withClaims(s *appsv1.StatefulSet) *corev1.PodTemplateSpec {
	t := s.Spec.Template
	have := map[string]bool{}
	for _, v := range t.Spec.Volumes {
		have[v.Name] = true
	}
	vols := t.Spec.Volumes[:len(t.Spec.Volumes):len(t.Spec.Volumes)]
	for _, c := range s.Spec.VolumeClaimTemplates {
		if !have[c.Name] && validate.IsLabel(c.Name) {
			have[c.Name] = true
			vols = append(vols, corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name},
			}})
		}
	}
	t.Spec.Volumes = vols
	return &t
}
