// Package steps is the list of what a pod needs of the host before its sandbox
// starts, and the check of what the host must have for that.
package steps

import (
	"context"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/node"
	"proa/internal/node/cgroups"
	"proa/internal/node/mounts"
	"proa/internal/node/volumes"
)

// Real are the steps of a node with real containers, in their order.
func Real(tree *cgroups.Tree, vols *volumes.Manager) []*node.Step {
	return []*node.Step{Folder(), Cgroup(tree), vols.Step()}
}

// Folder is undone last of all: what is still mounted in a pod's folder must be
// gone before the folder is removed.
func Folder() *node.Step {
	return &node.Step{
		Name: "folder",
		Start: func(_ context.Context, r *node.Run) error {
			return os.MkdirAll(r.Dir, 0o750)
		},
		Stop: func(_ context.Context, r *node.Run) error {
			return mounts.Below(r.Dir)
		},
	}
}

// Cgroup makes the pod's cgroup with the limits of the pod as a whole.
func Cgroup(tree *cgroups.Tree) *node.Step {
	return &node.Step{
		Name: "cgroup",
		Start: func(_ context.Context, r *node.Run) error {
			r.Cgroup = tree.Pod(node.QOS(r.Pod), string(r.Pod.UID))
			return tree.Create(r.Cgroup, Limits(r.Pod))
		},
		Stop: func(_ context.Context, r *node.Run) error {
			// An orphan's class is not known: its cgroup is looked for in each.
			for _, q := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
				if err := tree.Remove(tree.Pod(q, string(r.Pod.UID))); err != nil {
					return err
				}
			}
			return nil
		},
		Sweep: func(known func(types.UID) bool) error {
			return tree.Sweep(func(uid string) bool { return known(types.UID(uid)) })
		},
	}
}

// Limits are those of the pod as a whole: a limit on CPU or memory only if every
// container has one.
func Limits(pod *corev1.Pod) cgroups.Resources {
	req, lim := node.PodRequests(pod), node.PodLimits(pod)
	cpu := req[corev1.ResourceCPU]
	out := cgroups.Resources{Shares: node.CPUShares(cpu.MilliValue())}
	if q, ok := lim[corev1.ResourceCPU]; ok {
		out.Quota = node.CPUQuota(q.MilliValue())
	}
	if q, ok := lim[corev1.ResourceMemory]; ok {
		out.Memory = q.Value()
	}
	return out
}
