package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

func validatePod(p, old *corev1.Pod) field.ErrorList                                     { return nil }
func validatePodStatus(p, old *corev1.Pod) field.ErrorList                               { return nil }
func warnPod(p, old *corev1.Pod) []string                                                { return nil }
func validateNode(p, old *corev1.Node) field.ErrorList                                   { return nil }
func validateEndpoints(p, old *corev1.Endpoints) field.ErrorList                         { return nil }
func validateService(p, old *corev1.Service) field.ErrorList                             { return nil }
func validateServiceStatus(p, old *corev1.Service) field.ErrorList                       { return nil }
func validatePersistentVolume(p, old *corev1.PersistentVolume) field.ErrorList           { return nil }
func validateClaim(p, old *corev1.PersistentVolumeClaim) field.ErrorList                 { return nil }
func validateLimitRange(p, old *corev1.LimitRange) field.ErrorList                       { return nil }
func validateResourceQuota(p, old *corev1.ResourceQuota) field.ErrorList                 { return nil }
func validateResourceQuotaStatus(p, old *corev1.ResourceQuota) field.ErrorList           { return nil }
func validateReplicationController(p, old *corev1.ReplicationController) field.ErrorList { return nil }

// podEphemeral adds ephemeral containers.
var podEphemeral = api.PartOf(func(p, old *corev1.Pod) {
	e := p.Spec.EphemeralContainers
	p.Spec, p.Status = *old.Spec.DeepCopy(), old.Status
	p.Spec.EphemeralContainers = e
}, validatePod)

// podResize changes resources.
var podResize = api.PartOf(func(p, old *corev1.Pod) { p.Status = old.Status }, validatePod)
