package storage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// The limits of a class's parameters.
const (
	maxParameters     = 512
	maxParametersSize = 256 << 10
)

func validateStorageClass(s, old *storagev1.StorageClass) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	at := field.NewPath("provisioner")
	if s.Provisioner == "" {
		add(field.Required(at, s.Provisioner))
	} else {
		add(validate.Qualified(strings.ToLower(s.Provisioner), at)...)
	}
	params, total := field.NewPath("parameters"), 0
	if len(s.Parameters) > maxParameters {
		add(field.TooLong(params, "Provisioner Parameters exceeded max allowed", maxParameters))
	} else {
		for k, v := range s.Parameters {
			if k == "" {
				add(field.Invalid(params, k, "field can not be empty."))
			}
			total += len(k) + len(v)
		}
	}
	if total > maxParametersSize {
		add(field.TooLong(params, "", maxParametersSize))
	}
	if p := s.ReclaimPolicy; p != nil {
		add(validate.Known(*p, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if m := s.VolumeBindingMode; m == nil {
		add(field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		add(validate.Known(*m, field.NewPath("volumeBindingMode"), storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	if old == nil {
		return errs
	}
	if !equality.Semantic.DeepEqual(s.Parameters, old.Parameters) {
		add(field.Forbidden(params, "updates to parameters are forbidden."))
	}
	if s.Provisioner != old.Provisioner {
		add(field.Forbidden(at, "updates to provisioner are forbidden."))
	}
	if s.ReclaimPolicy != nil && old.ReclaimPolicy != nil && *s.ReclaimPolicy != *old.ReclaimPolicy {
		add(field.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden."))
	}
	add(validate.Same(s.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
	return errs
}
