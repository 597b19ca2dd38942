// Package controllers holds the built-in controllers, one file each.
package controllers

import (
	"proa/internal/control"
)

// Config is what controllers need from outside.
type Config struct {
	Kinds   control.Kinds // everything the server stores: for garbage collection, namespace deletion and more
	RootCA  string        // PEM of what signs the API server's certificate, for kube-root-ca.crt
	Metrics Metrics       // where pods' metrics are asked for; nowhere if nil
	PodCIDR string        // what the nodes' pod networks are cut from; "10.42.0.0/16" if empty
}

// All is every controller, in no particular order.
func All(cfg Config) []control.Runner {
	return []control.Runner{
		ClaimProtection,
		ClusterRoleAggregation,
		ConfigRollout,
		CronJob,
		DaemonSet(),
		DefinitionCleanup(cfg.Kinds),
		Definitions(cfg.Kinds),
		Deployment,
		DeviceTaintEviction(),
		Disruption(cfg.Kinds),
		Endpoints,
		EndpointSlice,
		EndpointSliceMirroring,
		EphemeralVolumes,
		FlowSchema,
		HorizontalPodAutoscaler(cfg.Kinds, cfg.Metrics),
		Job,
		JobOrphans,
		GarbageCollector(cfg.Kinds),
		Namespace(cfg.Kinds),
		NodeLifecycle(),
		PersistentVolumes(),
		PodCIDR(cfg.PodCIDR),
		PodGC(),
		ReplicationController,
		ResourceClaims(),
		ResourceQuota(cfg.Kinds),
		RootCA(cfg.RootCA),
		ServiceAccount,
		ServiceAddresses,
		ServiceAddressRemoval,
		StatefulSet,
		StorageVersionMigration(cfg.Kinds),
		TaintEviction(),
		ReplicaSet,
		VolumeProtection,
	}
}
