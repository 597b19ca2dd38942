package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

func validatePersistentVolume(v, old *corev1.PersistentVolume) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s := &v.Spec
	add(podspec.AccessModes(s.AccessModes, specPath.Child("accessModes"))...)
	capacity := specPath.Child("capacity")
	if len(s.Capacity) == 0 {
		add(field.Required(capacity, ""))
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		add(field.NotSupported(capacity, s.Capacity, []string{"storage"}))
	}
	for name, q := range s.Capacity {
		add(podspec.Quantity(name, q, capacity.Key(string(name)))...)
		if q.Sign() <= 0 {
			add(field.Invalid(capacity.Key(string(name)), q.String(), "must be greater than zero"))
		}
	}
	add(validate.Known(s.PersistentVolumeReclaimPolicy, specPath.Child("persistentVolumeReclaimPolicy"),
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	add(podspec.OneSource(&s.PersistentVolumeSource, specPath)...)
	add(validateVolumeSource(s)...)
	if s.StorageClassName != "" {
		add(validate.Subdomain(s.StorageClassName, specPath.Child("storageClassName"))...)
	}
	if m := s.VolumeMode; m != nil {
		add(validate.Known(*m, specPath.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if a := s.NodeAffinity; a != nil {
		if a.Required == nil {
			add(field.Required(specPath.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			add(podspec.ValidateNodeSelector(a.Required, specPath.Child("nodeAffinity", "required"))...)
		}
	}
	if old == nil {
		return errs
	}
	if !equality.Semantic.DeepEqual(s.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
		add(field.Forbidden(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation\n"+
			diff.Diff(old.Spec.PersistentVolumeSource, s.PersistentVolumeSource)))
	}
	add(validate.Same(s.VolumeMode, old.Spec.VolumeMode, specPath.Child("volumeMode"))...)
	return errs
}

func validateVolumeSource(s *corev1.PersistentVolumeSpec) (errs field.ErrorList) {
	if h := s.HostPath; h != nil {
		errs = append(errs, podspec.ValidateHostPath(h, specPath.Child("hostPath"))...)
		if h.Path == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
			errs = append(errs, field.Forbidden(specPath.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
		}
	}
	if n := s.NFS; n != nil {
		errs = append(errs, podspec.ValidateNFS(n, specPath.Child("nfs"))...)
	}
	if l := s.Local; l != nil {
		at := specPath.Child("local")
		errs = append(errs, validate.Given(l.Path, at.Child("path"))...)
		errs = append(errs, validate.NoBacksteps(l.Path, at.Child("path"))...)
		if s.NodeAffinity == nil {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations"), "Local volume requires node affinity"))
		}
	}
	if c := s.CSI; c != nil {
		errs = append(errs, podspec.CSIDriver(c.Driver, specPath.Child("csi", "driver"))...)
		errs = append(errs, validate.Given(c.VolumeHandle, specPath.Child("csi", "volumeHandle"))...)
	}
	return errs
}

func validateClaim(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := podspec.ValidateClaimSpec(&c.Spec, specPath)
	if old == nil {
		return errs
	}
	bound := old.Status.Phase == corev1.ClaimBound
	rest := c.Spec.DeepCopy()
	if rest.VolumeName != "" && old.Spec.VolumeName == "" {
		rest.VolumeName = "" // binding
	}
	if bound {
		size, was := rest.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
		if have, ok := old.Status.Capacity[corev1.ResourceStorage]; size.Cmp(was) < 0 && (!ok || size.Cmp(have) <= 0) {
			errs = append(errs, field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
		}
		if rest.Resources.Requests != nil {
			rest.Resources.Requests[corev1.ResourceStorage] = was
		}
	}
	if c.Spec.VolumeAttributesClassName != nil || old.Spec.VolumeAttributesClassName == nil {
		rest.VolumeAttributesClassName = old.Spec.VolumeAttributesClassName
	}
	if rest.StorageClassName != nil && old.Spec.StorageClassName == nil && !bound {
		rest.StorageClassName = nil // a default class that came later
	}
	if !equality.Semantic.DeepEqual(rest, &old.Spec) {
		errs = append(errs, field.Forbidden(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+
			diff.Diff(old.Spec, *rest)))
	}
	return append(errs, validate.Same(c.Spec.VolumeMode, old.Spec.VolumeMode, specPath.Child("volumeMode"))...)
}
