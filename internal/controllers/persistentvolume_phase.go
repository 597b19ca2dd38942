package controllers

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/sched"
)

// What a volume says of who made it, and so deletes it.
const (
	provisionedBy     = "pv.kubernetes.io/provisioned-by"
	migratedTo        = "pv.kubernetes.io/migrated-to"
	externalFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"
)

// reconcileVolume keeps a volume's phase true, and lets go of a volume whose claim
// has another.
func reconcileVolume(ctx context.Context, c *control.Cluster, v *corev1.PersistentVolume) error {
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" { // or set aside for a claim, which sees to it
		return setPhase(ctx, c, v, phase{is: corev1.VolumeAvailable})
	}
	same := func(p *corev1.PersistentVolumeClaim) bool { return p.UID == ref.UID }
	p, ok, err := present(ctx, c, core.PersistentVolumeClaim, ref.Namespace, ref.Name, same)
	switch {
	case err != nil:
		return err
	case !ok || !same(p):
		return setPhase(ctx, c, v, released(v))
	case p.Spec.VolumeName == v.Name:
		return setPhase(ctx, c, v, phase{is: corev1.VolumeBound})
	case p.Spec.VolumeName == "":
		return nil // the claim sees to it
	case v.Annotations[provisionedBy] != "" && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return setPhase(ctx, c, v, released(v)) // it was made for nothing
	}
	return unbind(ctx, c, v)
}

// A phase is what a volume's status says, and the reason and message of a failure.
type phase struct {
	is              corev1.PersistentVolumePhase
	reason, message string
}

// released is what becomes of a volume whose claim is gone.
func released(v *corev1.PersistentVolume) phase {
	switch policy := v.Spec.PersistentVolumeReclaimPolicy; {
	case v.DeletionTimestamp != nil: // it goes anyway
	case policy == corev1.PersistentVolumeReclaimRecycle:
		return phase{corev1.VolumeFailed, "VolumeFailedRecycle", "the reclaim policy Recycle is deprecated, and nothing is recycled here: " +
			"clear the data away yourself and take spec.claimRef out, or set spec.persistentVolumeReclaimPolicy to Retain or Delete"}
	case policy == corev1.PersistentVolumeReclaimDelete && !deletedElsewhere(v):
		return phase{corev1.VolumeFailed, "VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched: "+
			"no provisioner has made this volume, so none deletes what it stores. Delete that and then the volume yourself, or set spec.persistentVolumeReclaimPolicy to Retain", v.Name)}
	case policy == corev1.PersistentVolumeReclaimDelete && v.Status.Phase == corev1.VolumeFailed:
		return phase{corev1.VolumeFailed, v.Status.Reason, v.Status.Message} // what its deleter said
	}
	return phase{is: corev1.VolumeReleased}
}

// deletedElsewhere says whether a provisioner outside deletes a volume that is released.
func deletedElsewhere(v *corev1.PersistentVolume) bool {
	by := v.Annotations[provisionedBy]
	return by != "" && !builtIn(by) || v.Annotations[migratedTo] != "" || slices.Contains(v.Finalizers, externalFinalizer)
}

func setPhase(ctx context.Context, c *control.Cluster, v *corev1.PersistentVolume, to phase) error {
	s := v.Status
	if s.Phase == to.is && s.Reason == to.reason && s.Message == to.message {
		return nil
	}
	_, err := control.SetStatus(ctx, c, core.PersistentVolume, v, func(v *corev1.PersistentVolume) {
		if s := &v.Status; s.Phase != to.is {
			s.LastPhaseTransitionTime = new(metav1.NewTime(c.Now()).Rfc3339Copy())
		}
		v.Status.Phase, v.Status.Reason, v.Status.Message = to.is, to.reason, to.message
	})
	if err == nil && to.is == corev1.VolumeFailed {
		c.Eventf(v, corev1.EventTypeWarning, to.reason, "%s", to.message)
	}
	return err
}

// unbind lets go of a volume whose claim has another one. Whom it was meant for
// before anybody bound it, it is meant for again.
func unbind(ctx context.Context, c *control.Cluster, v *corev1.PersistentVolume) error {
	next := api.Clone(v)
	if _, ours := v.Annotations[sched.BoundByController]; ours {
		next.Spec.ClaimRef = nil
		delete(next.Annotations, sched.BoundByController)
	} else {
		next.Spec.ClaimRef.UID, next.Spec.ClaimRef.ResourceVersion = "", ""
	}
	_, err := core.PersistentVolume.Update(ctx, c, next)
	return err
}
