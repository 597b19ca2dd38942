package core

import (
	"strings"

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
	if len(s.AccessModes) == 0 {
		add(field.Required(specPath.Child("accessModes"), ""))
	} else {
		add(podspec.AccessModes(s.AccessModes, specPath.Child("accessModes"))...)
	}
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
	add(validateVolumeSource(v)...)
	if s.StorageClassName != "" {
		add(validate.Subdomain(s.StorageClassName, specPath.Child("storageClassName"))...)
	}
	if m := s.VolumeMode; m != nil {
		add(validate.Known(*m, specPath.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if c, at := s.VolumeAttributesClassName, specPath.Child("volumeAttributesClassName"); c != nil {
		if *c == "" {
			add(field.Required(at, "an empty string is disallowed"))
		} else {
			add(validate.Subdomain(*c, at)...)
		}
		if s.CSI == nil {
			add(field.Required(specPath.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	if a := s.NodeAffinity; a != nil {
		if a.Required == nil {
			add(field.Required(specPath.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			add(podspec.ValidateNodeSelector(a.Required, specPath.Child("nodeAffinity", "required"))...)
		}
	}
	if old != nil {
		add(validateVolumeChange(s, &old.Spec)...)
	}
	return errs
}

// validateVolumeChange checks what of a volume may change: not where it is, nor
// what is there. The paths are those that users of Kubernetes see, not quite
// those of the fields.
func validateVolumeChange(s, old *corev1.PersistentVolumeSpec) (errs field.ErrorList) {
	source := s.PersistentVolumeSource
	if source.CSI != nil && old.CSI != nil && old.CSI.ControllerExpandSecretRef == nil { // may be given later
		source = *source.DeepCopy()
		source.CSI.ControllerExpandSecretRef = nil
	}
	if !equality.Semantic.DeepEqual(source, old.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation\n"+
			diff.Diff(old.PersistentVolumeSource, source)))
	}
	errs = append(errs, validate.Same(s.VolumeMode, old.VolumeMode, field.NewPath("volumeMode"))...)
	if old.NodeAffinity != nil {
		errs = append(errs, validate.Same(s.NodeAffinity, old.NodeAffinity, field.NewPath("nodeAffinity"))...)
	}
	if old.VolumeAttributesClassName != nil && s.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

func validateClaim(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := podspec.ValidateClaimSpec(&c.Spec, specPath)
	if old == nil {
		return errs
	}
	errs = append(errs, validateClaimChange(c, old)...)
	errs = append(errs, validateClaimSize(c, old)...)
	errs = append(errs, validate.Same(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if was, is := old.Spec.VolumeAttributesClassName, c.Spec.VolumeAttributesClassName; was != nil {
		at := specPath.Child("volumeAttributesClassName")
		if is == nil {
			errs = append(errs, field.Forbidden(at, "update from non-nil value to nil is forbidden"))
		} else if *is == "" && *was != "" {
			errs = append(errs, field.Forbidden(at, "update from non-nil value to an empty string is forbidden"))
		}
	}
	return errs
}

// validateClaimChange checks that a claim's spec stays as it is, but for what
// may change: its volume once, its class from none to one, and if it is bound its size.
func validateClaimChange(c, old *corev1.PersistentVolumeClaim) (errs field.ErrorList) {
	rest := c.Spec.DeepCopy()
	if old.Spec.VolumeName == "" {
		rest.VolumeName = ""
	}
	rest.VolumeAttributesClassName = old.Spec.VolumeAttributesClassName
	if old.Status.Phase == corev1.ClaimBound && rest.Resources.Requests != nil {
		rest.Resources.Requests[corev1.ResourceStorage] = old.Spec.Resources.Requests[corev1.ResourceStorage]
	}
	was, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	switch {
	case old.Spec.StorageClassName == nil && annotated && rest.StorageClassName != nil && *rest.StorageClassName == was:
		rest.StorageClassName = nil // from the annotation to the field
	case c.Annotations[corev1.BetaStorageClassAnnotation] != was:
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation),
			c.Annotations[corev1.BetaStorageClassAnnotation], "field is immutable"))
	case old.Spec.StorageClassName == nil && !annotated:
		rest.StorageClassName = nil // a default class that came later
	}
	if !equality.Semantic.DeepEqual(rest, &old.Spec) {
		errs = append(errs, field.Forbidden(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+
			diff.Diff(old.Spec, *rest)))
	}
	return errs
}

// validateClaimSize checks that a claim that shrinks, because its volume could
// not grow, still asks for more than it has.
func validateClaimSize(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	size, was := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	have := old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(was) < 0 && size.Cmp(have) <= 0 {
		return field.ErrorList{field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity")}
	}
	return nil
}

// validateClaimStatus checks what the parts that bind and grow claims say.
func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) (errs field.ErrorList) {
	status := field.NewPath("status")
	for name, q := range c.Status.Capacity {
		errs = append(errs, podspec.Quantity(name, q, status.Child("capacity").Key(string(name)))...)
	}
	for name, q := range c.Status.AllocatedResources {
		errs = append(errs, claimResource(name, status.Child("allocatedResources"))...)
		errs = append(errs, podspec.Quantity(name, q, status.Child("allocatedResources").Key(string(name)))...)
	}
	at := status.Child("allocatedResourceStatus")
	for name, s := range c.Status.AllocatedResourceStatuses {
		errs = append(errs, claimResource(name, at)...)
		errs = append(errs, validate.Known(s, at.Key(string(name)), corev1.PersistentVolumeClaimControllerResizeInProgress,
			corev1.PersistentVolumeClaimControllerResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
			corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible)...)
	}
	return errs
}

// claimResource checks the name of a resource that a claim can have: storage, or
// one of another domain.
func claimResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := validate.Qualified(string(name), at)
	if len(errs) == 0 && name != corev1.ResourceStorage && !strings.Contains(string(name), "/") {
		errs = append(errs, field.NotSupported(at, name, []string{"storage"}))
	}
	return errs
}
