package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

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
