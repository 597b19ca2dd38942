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

func warnPod(p, old *corev1.Pod) (out []string) {
	if old == nil {
		out = podspec.WarnName(p.Name, "the Pod's hostname")
	}
	return append(out, podspec.WarnPod(p)...)
}
