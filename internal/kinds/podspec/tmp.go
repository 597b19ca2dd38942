package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateTemplate checks a pod template.
func ValidateTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList { return nil }

// WarnTemplate warns about a pod template.
func WarnTemplate(t *corev1.PodTemplateSpec) []string { return nil }
