package podspec

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"proa/internal/kinds/validate"
)

// AccessModes checks the access modes of a volume or a claim.
func AccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) (errs field.ErrorList) {
	if len(modes) == 0 {
		return append(errs, field.Required(at, "at least 1 access mode is required"))
	}
	once, other := false, false
	for _, m := range modes {
		unknown := validate.Known(m, at, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		errs = append(errs, unknown...)
		once = once || m == corev1.ReadWriteOncePod
		other = other || m != corev1.ReadWriteOncePod && len(unknown) == 0
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
	errs = append(errs, validate.Selector(s.Selector, at.Child("selector"))...)
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
		errs = append(errs, validateDataSource(d.APIGroup, d.Kind, d.Name, p)...)
	}
	if d, p := s.DataSourceRef, at.Child("dataSourceRef"); d != nil {
		errs = append(errs, validateDataSource(d.APIGroup, d.Kind, d.Name, p)...)
		if d.Namespace != nil && *d.Namespace != "" {
			errs = append(errs, validate.Label(*d.Namespace, p.Child("namespace"))...)
		}
	}
	errs = append(errs, sameDataSource(s, at)...)
	if c := s.VolumeAttributesClassName; c != nil && *c != "" {
		errs = append(errs, validate.Subdomain(*c, at.Child("volumeAttributesClassName"))...)
	}
	return errs
}

// validateDataSource checks what a claim is filled from; without a group, that can only be a claim.
func validateDataSource(group *string, kind, name string, at *field.Path) field.ErrorList {
	errs := append(validate.Given(name, at.Child("name")), validate.Given(kind, at.Child("kind"))...)
	switch {
	case group != nil && *group != "":
		errs = append(errs, validate.Subdomain(*group, at.Child("apiGroup"))...)
	case kind != "PersistentVolumeClaim":
		errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	return errs
}

// sameDataSource checks that the two ways to name a source do not contradict each other.
func sameDataSource(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	d, r := s.DataSource, s.DataSourceRef
	switch {
	case d == nil || r == nil:
		return nil
	case r.Namespace != nil && *r.Namespace != "":
		return field.ErrorList{field.Invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified")}
	case d.Kind != r.Kind || d.Name != r.Name || !ptr.Equal(d.APIGroup, r.APIGroup):
		return field.ErrorList{field.Invalid(at, at.Child("dataSource"), "must match dataSourceRef")}
	}
	return nil
}

// templateMeta checks the metadata in the template of a claim: only labels and
// annotations become the claim's.
func templateMeta(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(m.Annotations, at.Child("annotations"))
	errs = append(errs, validate.Labels(m.Labels, at.Child("labels"))...)
	rest := *m
	rest.Labels, rest.Annotations = nil, nil
	v := reflect.ValueOf(rest)
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			name := v.Type().Field(i).Name
			errs = append(errs, field.Forbidden(at.Child(string(name[0]|0x20)+name[1:]), "cannot be set"))
		}
	}
	return errs
}
