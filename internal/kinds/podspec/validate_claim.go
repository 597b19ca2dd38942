package podspec

import (
	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// AccessModes checks the access modes of a volume or a claim.
func AccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) (errs field.ErrorList) {
	if len(modes) == 0 {
		return append(errs, field.Required(at, "at least 1 access mode is required"))
	}
	once, other := false, false
	for _, m := range modes {
		errs = append(errs, validate.Known(m, at, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
		once = once || m == corev1.ReadWriteOncePod
		other = other || m != corev1.ReadWriteOncePod
	}
	if once && other {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// ValidateClaimSpec checks the spec of a claim: its own, or the template inside
// a StatefulSet or an ephemeral volume.
func ValidateClaimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) (errs field.ErrorList) {
	errs = AccessModes(s.AccessModes, at.Child("accessModes"))
	if s.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(s.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	}
	size, ok := s.Resources.Requests[corev1.ResourceStorage]
	where := at.Child("resources").Key(string(corev1.ResourceStorage))
	switch {
	case !ok:
		errs = append(errs, field.Required(where, ""))
	case size.Sign() <= 0:
		errs = append(errs, field.Invalid(where, size.String(), "must be greater than zero"))
	}
	if c := s.StorageClassName; c != nil && *c != "" {
		errs = append(errs, validate.Subdomain(*c, at.Child("storageClassName"))...)
	}
	if m := s.VolumeMode; m != nil {
		errs = append(errs, validate.Known(*m, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if d, p := s.DataSource, at.Child("dataSource"); d != nil {
		errs = append(errs, validate.Given(d.Name, p.Child("name"))...)
		errs = append(errs, validate.Given(d.Kind, p.Child("kind"))...)
		if (d.APIGroup == nil || *d.APIGroup == "") && d.Kind != "PersistentVolumeClaim" {
			errs = append(errs, field.Invalid(p, d.Kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
	}
	if d, p := s.DataSourceRef, at.Child("dataSourceRef"); d != nil {
		errs = append(errs, validate.Given(d.Name, p.Child("name"))...)
		errs = append(errs, validate.Given(d.Kind, p.Child("kind"))...)
	}
	return errs
}
