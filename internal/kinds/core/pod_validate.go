package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
)

var specPath = field.NewPath("spec")

func validatePod(p, old *corev1.Pod) field.ErrorList {
	if old == nil {
		return podspec.ValidatePod(p)
	}
	return append(podspec.ValidateChanged(p), podspec.ValidateUpdate(p, old)...)
}

// warnPod warns of a new pod. Updates of pods are seldom made by people.
func warnPod(p, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	return append(podspec.WarnName(p.Name, "the Pod's hostname"), podspec.WarnPod(p)...)
}
