// Package controllers holds the built-in controllers, one file each.
package controllers

import (
	"proa/internal/api"
	"proa/internal/control"
)

// Config is what controllers need from outside.
type Config struct {
	Resources []*api.Resource // everything the server stores: for garbage collection and namespace deletion
	RootCA    string          // PEM of what signs the API server's certificate, for kube-root-ca.crt
	PodCIDR   string          // what the nodes' pod networks are cut from; "10.42.0.0/16" if empty
}

// All is every controller, in no particular order.
func All(cfg Config) []control.Runner {
	return []control.Runner{
		ClusterRoleAggregation,
		Deployment,
		Disruption(cfg.Resources),
		Endpoints,
		EndpointSlice,
		Job,
		JobOrphans,
		GarbageCollector(cfg.Resources),
		Namespace(cfg.Resources),
		NodeLifecycle(),
		PodCIDR(cfg.PodCIDR),
		PodGC(),
		RootCA(cfg.RootCA),
		ServiceAccount,
		ServiceAddresses,
		ServiceAddressRemoval,
		TaintEviction,
		ReplicaSet,
	}
}
