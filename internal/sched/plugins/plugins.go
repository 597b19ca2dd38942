// Package plugins holds what the scheduler considers in placing a pod, one file each.
package plugins

import "proa/internal/sched"

// All is every plugin, in the order in which nodes are asked: what is quickly
// told and often refuses comes first.
var All = []*sched.Plugin{
	NodeUnschedulable,
	NodeName,
	TaintToleration,
	NodeAffinity,
	NodePorts,
	NodeResourcesFit,
	VolumeRestrictions,
	NodeVolumeLimits,
	VolumeBinding,
	VolumeZone,
	PodTopologySpread,
	InterPodAffinity,
	DynamicResources,
	NodeResourcesBalancedAllocation,
	ImageLocality,
}
