package controllers

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/sched"
)

// ClaimProtection lets a claim that is being deleted go when no pod on a node uses
// it. The finalizer that keeps it is put there when it is made; on claims from before
// that it is put here.
var ClaimProtection = &control.Sweep{
	Name:      "pvc-protection",
	Kinds:     control.Fixed(core.PersistentVolumeClaim.Def(), core.Pod.Def()),
	Writes:    []api.Definition{core.PersistentVolumeClaim},
	Changed:   claimUseChanged,
	Reconcile: protectClaim,
}

// VolumeProtection lets a volume that is being deleted go when no claim is bound to it.
var VolumeProtection = &control.Controller[*corev1.PersistentVolume]{
	Name: "pv-protection",
	For:  core.PersistentVolume,
	Reconcile: func(ctx context.Context, c *control.Cluster, v *corev1.PersistentVolume) (time.Duration, error) {
		if protectionStands(v, core.VolumeProtection) || v.DeletionTimestamp != nil && bindingOrBound(v) {
			return 0, nil
		}
		_, err := core.PersistentVolume.Update(ctx, c, reprotected(v, core.VolumeProtection))
		return 0, ignoreNotFound(err)
	},
}

// bindingOrBound says whether a volume is a claim's, or about to be.
func bindingOrBound(v *corev1.PersistentVolume) bool {
	switch v.Status.Phase {
	case corev1.VolumeBound:
		return true
	case corev1.VolumeReleased, corev1.VolumeFailed:
		return false
	}
	return v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID != ""
}

// protectionStands says whether an object has the finalizer just if it is not being deleted.
func protectionStands(o api.Object, finalizer string) bool {
	return slices.Contains(o.GetFinalizers(), finalizer) == (o.GetDeletionTimestamp() == nil)
}

// reprotected is the object with the finalizer just if it is not being deleted.
func reprotected[T api.Object](o T, finalizer string) T {
	next := api.Clone(o)
	list := slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizer })
	if next.GetDeletionTimestamp() == nil {
		list = append(list, finalizer)
	}
	next.SetFinalizers(list)
	return next
}

// claimUseChanged names the claims that may have to be let go, or protected.
func claimUseChanged(c *control.Cluster, _ *api.Resource, old, new api.Object) (keys []control.Key) {
	if p, ok := new.(*corev1.PersistentVolumeClaim); ok {
		if !protectionStands(p, core.ClaimProtection) {
			keys = append(keys, control.KeyOf(p))
		}
		return keys
	}
	was, ok := old.(*corev1.Pod)
	if is, there := new.(*corev1.Pod); !ok || there && !shutDown(is) {
		return nil
	}
	for _, name := range sched.Claims(was) {
		if p, ok := control.Get(c, core.PersistentVolumeClaim, was.Namespace, name); ok && p.DeletionTimestamp != nil {
			keys = append(keys, control.KeyOf(p))
		}
	}
	return keys
}

// shutDown says whether a pod's node has said that all of it has ended.
func shutDown(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
}

func protectClaim(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	p, ok := control.Get(c, core.PersistentVolumeClaim, key.Namespace, key.Name)
	if !ok || protectionStands(p, core.ClaimProtection) {
		return 0, nil
	}
	if p.DeletionTimestamp != nil {
		used := func(pods []*corev1.Pod) bool {
			return slices.ContainsFunc(pods, func(o *corev1.Pod) bool { return mountsClaim(o, p) })
		}
		if used(podsUsing.Find(c, sched.ObjectKey(p.Namespace, p.Name))) {
			return 0, nil
		}
		// Pods may have come that are not known here, and what goes with the claim does not come back.
		pods, err := core.Pod.List(ctx, c, p.Namespace, api.Selectors{})
		if err != nil || used(pods) {
			return 0, err
		}
	}
	_, err := core.PersistentVolumeClaim.Update(ctx, c, reprotected(p, core.ClaimProtection))
	return 0, ignoreNotFound(err)
}

// mountsClaim says whether a pod is on a node with a claim. No node starts a pod whose claim
// is being deleted, so others do not count; one that has ended may still be mounted.
// A claim that goes with its pod does not keep it once its node is done with it.
func mountsClaim(o *corev1.Pod, p *corev1.PersistentVolumeClaim) bool {
	return o.Spec.NodeName != "" && slices.ContainsFunc(o.Spec.Volumes, func(v corev1.Volume) bool {
		if v.PersistentVolumeClaim != nil {
			return v.PersistentVolumeClaim.ClaimName == p.Name
		}
		return v.Ephemeral != nil && !shutDown(o) && ephemeral.VolumeClaimName(o, &v) == p.Name && ephemeral.VolumeIsForPod(o, p) == nil
	})
}
