package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateDeployment(p, old *appsv1.Deployment) field.ErrorList         { return nil }
func validateDeploymentStatus(p, old *appsv1.Deployment) field.ErrorList   { return nil }
func validateReplicaSet(p, old *appsv1.ReplicaSet) field.ErrorList         { return nil }
func validateReplicaSetStatus(p, old *appsv1.ReplicaSet) field.ErrorList   { return nil }
func validateDaemonSet(p, old *appsv1.DaemonSet) field.ErrorList           { return nil }
func validateDaemonSetStatus(p, old *appsv1.DaemonSet) field.ErrorList     { return nil }
func validateStatefulSet(p, old *appsv1.StatefulSet) field.ErrorList       { return nil }
func validateStatefulSetStatus(p, old *appsv1.StatefulSet) field.ErrorList { return nil }
func resourceOf(o *metav1.OwnerReference) string                           { return o.Kind }
