package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// VolumeClass is the name of a volume's storage class.
func VolumeClass(v *corev1.PersistentVolume) string {
	if old, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return old
	}
	return v.Spec.StorageClassName
}

// VolumeUnsuited says why a volume is not one for a claim of a storage class, as
// far as it is not about labels; empty if it is. Whom it belongs to is another question.
func VolumeUnsuited(v *corev1.PersistentVolume, p *corev1.PersistentVolumeClaim, class string) string {
	if is := VolumeClass(v); is != class {
		return fmt.Sprintf("its storage class is %q, not %q", is, class)
	}
	return VolumeLacks(v, p)
}

// VolumeLacks says why a volume can not be a claim's, even if it is meant for it; empty if it can.
func VolumeLacks(v *corev1.PersistentVolume, p *corev1.PersistentVolumeClaim) string {
	if v.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	for _, m := range p.Spec.AccessModes {
		if !slices.Contains(v.Spec.AccessModes, m) {
			return fmt.Sprintf("it does not have the access mode %s", m)
		}
	}
	need, has := p.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	if has.Cmp(need) < 0 {
		return fmt.Sprintf("it has %s, less than the %s asked for", has.String(), need.String())
	}
	if is, want := volumeMode(v.Spec.VolumeMode), volumeMode(p.Spec.VolumeMode); is != want {
		return fmt.Sprintf("its volume mode is %s, not %s", is, want)
	}
	if is, want := textOf(v.Spec.VolumeAttributesClassName), textOf(p.Spec.VolumeAttributesClassName); is != want {
		return fmt.Sprintf("its volume attributes class is %q, not %q", is, want)
	}
	return ""
}

func volumeMode(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// The finalizers by which a claim stays while pods use it, and a volume while it is bound.
const (
	ClaimProtection  = "kubernetes.io/pvc-protection"
	VolumeProtection = "kubernetes.io/pv-protection"
)

// ClaimNamesClass says whether a claim says of which storage class it is to be, if
// only that it is of none.
func ClaimNamesClass(p *corev1.PersistentVolumeClaim) bool {
	_, old := p.Annotations[corev1.BetaStorageClassAnnotation]
	return old || p.Spec.StorageClassName != nil
}
