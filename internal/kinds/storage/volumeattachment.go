package storage

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// The limits of what is reported about an attachment, in bytes.
const (
	maxAttachmentMetadata = 256 << 10
	maxVolumeError        = 1024
)

// VolumeAttachment asks for a volume to be attached to a node.
var VolumeAttachment = &api.Kind[*storagev1.VolumeAttachment]{
	API: "storage.k8s.io/v1", Resource: "volumeattachments", Scope: api.Cluster,
	Conditional: true,
	Columns: []api.Column[*storagev1.VolumeAttachment]{
		api.Col("Attacher", func(a *storagev1.VolumeAttachment) string { return a.Spec.Attacher }),
		api.Col("PV", func(a *storagev1.VolumeAttachment) string {
			if n := a.Spec.Source.PersistentVolumeName; n != nil {
				return *n
			}
			return ""
		}),
		api.Col("Node", func(a *storagev1.VolumeAttachment) string { return a.Spec.NodeName }),
		api.Col("Attached", func(a *storagev1.VolumeAttachment) bool { return a.Status.Attached }),
	},
	Prepare: func(a, old *storagev1.VolumeAttachment) {
		a.Status = storagev1.VolumeAttachmentStatus{}
		if old != nil {
			a.Status = old.Status
		}
	},
	Validate:       validateAttachment,
	Status:         true,
	PrepareStatus:  func(a, old *storagev1.VolumeAttachment) { a.Spec = old.Spec },
	ValidateStatus: validateAttachmentStatus,
	Ungenerated:    true,
}

func validateAttachment(a, old *storagev1.VolumeAttachment) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	if at := spec.Child("attacher"); a.Spec.Attacher == "" {
		errs = podspec.CSIDriver("", at) // missing and no name, both
	} else {
		errs = validate.Driver(a.Spec.Attacher, at)
	}
	errs = append(errs, validateAttachmentSource(&a.Spec.Source, spec.Child("source"))...)
	errs = append(errs, validate.Subdomain(a.Spec.NodeName, spec.Child("nodeName"))...)
	if old != nil {
		errs = append(errs, validate.Fixed(a.Spec, old.Spec, spec)...)
	}
	return errs
}

func validateAttachmentSource(s *storagev1.VolumeAttachmentSource, at *field.Path) field.ErrorList {
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	name, inline := s.PersistentVolumeName, s.InlineVolumeSpec
	switch {
	case name == nil && inline == nil:
		return field.ErrorList{field.Required(at, one)}
	case name != nil && inline != nil:
		return field.ErrorList{field.Forbidden(at, one)}
	case inline != nil:
		return validateInline(inline, at.Child("inlineVolumeSpec"))
	case *name == "":
		return field.ErrorList{field.Required(at.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")}
	}
	return validate.Subdomain(*name, at.Child("persistentVolumeName"))
}

// validateInline checks a volume that a pod brought itself, translated to a CSI one.
func validateInline(s *corev1.PersistentVolumeSpec, at *field.Path) (errs field.ErrorList) {
	const no = "may not be specified in the context of inline volumes"
	if s.ClaimRef != nil {
		errs = append(errs, field.Forbidden(at.Child("claimRef"), no))
	}
	if len(s.Capacity) > 0 {
		errs = append(errs, field.Forbidden(at.Child("capacity"), no))
	}
	if s.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), no))
	}
	if s.StorageClassName != "" {
		errs = append(errs, field.Forbidden(at.Child("storageClassName"), no))
	}
	if s.NodeAffinity != nil {
		errs = append(errs, field.Forbidden(at.Child("nodeAffinity"), no))
	}
	errs = append(errs, podspec.AccessModes(s.AccessModes, at.Child("accessModes"))...)
	if m := s.VolumeMode; m != nil {
		errs = append(errs, validate.Known(*m, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if s.CSI == nil {
		return append(errs, field.Required(at.Child("csi"), "has to be specified in the context of inline volumes"))
	}
	errs = append(errs, podspec.OneSource(&s.PersistentVolumeSource, at)...)
	return append(errs, core.ValidateCSIVolume(s.CSI, at.Child("csi"))...)
}

func validateAttachmentStatus(a, _ *storagev1.VolumeAttachment) (errs field.ErrorList) {
	status, size := field.NewPath("status"), 0
	for k, v := range a.Status.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxAttachmentMetadata {
		errs = append(errs, field.TooLong(status.Child("attachmentMetadata"), "", maxAttachmentMetadata))
	}
	errs = append(errs, validateVolumeError(a.Status.AttachError, status.Child("attachError"))...)
	return append(errs, validateVolumeError(a.Status.DetachError, status.Child("detachError"))...)
}

func validateVolumeError(e *storagev1.VolumeError, at *field.Path) (errs field.ErrorList) {
	if e == nil {
		return nil
	}
	errs = validate.AtMost(e.Message, at.Child("message"), maxVolumeError)
	if c := e.ErrorCode; c != nil && *c < 0 {
		errs = append(errs, field.Invalid(at.Child("errorCode"), *c, validation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}
