// Package kinds lists every built-in kind.
package kinds

import (
	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/authentication"
	"proa/internal/kinds/authorization"
	"proa/internal/kinds/autoscaling"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/certificates"
	"proa/internal/kinds/coordination"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/kinds/events"
	"proa/internal/kinds/flowcontrol"
	"proa/internal/kinds/networking"
	"proa/internal/kinds/node"
	"proa/internal/kinds/policy"
	"proa/internal/kinds/rbac"
	"proa/internal/kinds/scheduling"
	"proa/internal/kinds/storage"
	"proa/internal/kinds/storagemigration"
)

// All is every kind the server serves before any custom resource definition,
// in the order of the groups in discovery.
var All = []api.Definition{
	core.Binding,
	core.ConfigMap,
	core.Endpoints,
	core.Event,
	core.LimitRange,
	core.Namespace,
	core.Node,
	core.PersistentVolume,
	core.PersistentVolumeClaim,
	core.Pod,
	core.PodTemplate,
	core.ReplicationController,
	core.ResourceQuota,
	core.Secret,
	core.Service,
	core.ServiceAccount,
	apps.ControllerRevision,
	apps.DaemonSet,
	apps.Deployment,
	apps.ReplicaSet,
	apps.StatefulSet,
	authentication.SelfSubjectReview,
	authentication.TokenReview,
	authorization.LocalSubjectAccessReview,
	authorization.SelfSubjectAccessReview,
	authorization.SelfSubjectRulesReview,
	authorization.SubjectAccessReview,
	autoscaling.HorizontalPodAutoscaler,
	autoscaling.HorizontalPodAutoscalerV1,
	batch.CronJob,
	batch.Job,
	certificates.CertificateSigningRequest,
	certificates.ClusterTrustBundle,
	certificates.PodCertificateRequest,
	coordination.Lease,
	discovery.EndpointSlice,
	events.Event,
	networking.Ingress,
	networking.IngressClass,
	networking.IPAddress,
	networking.NetworkPolicy,
	networking.ServiceCIDR,
	flowcontrol.FlowSchema,
	flowcontrol.PriorityLevelConfiguration,
	node.RuntimeClass,
	policy.PodDisruptionBudget,
	rbac.ClusterRole,
	rbac.ClusterRoleBinding,
	rbac.Role,
	rbac.RoleBinding,
	scheduling.PriorityClass,
	storage.CSIDriver,
	storage.CSINode,
	storage.CSIStorageCapacity,
	storage.StorageClass,
	storage.VolumeAttachment,
	storage.VolumeAttributesClass,
	storagemigration.StorageVersionMigration,
}
