package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

func (v *checker) mounts(c *corev1.Container, path *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	paths, devices := sets.New[string](), sets.New[string]()
	for _, d := range c.VolumeDevices {
		paths.Insert(d.DevicePath)
		devices.Insert(d.Name)
	}
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], path.Index(i)
		if m.Name == "" {
			add(field.Required(at.Child("name"), ""))
		} else if _, ok := v.volumes[m.Name]; !ok {
			add(field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			add(field.Required(at.Child("mountPath"), ""))
		}
		if paths.Has(m.MountPath) {
			add(field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		paths.Insert(m.MountPath)
		if devices.Has(m.Name) {
			add(field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if m.SubPath != "" {
			add(validate.RelativePath(m.SubPath, at.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				add(field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			add(validate.RelativePath(m.SubPathExpr, at.Child("subPathExpr"))...)
		}
		add(propagation(m, c, at)...)
		add(recursiveReadOnly(m, at.Child("recursiveReadOnly"))...)
	}
	return errs
}

func propagation(m *corev1.VolumeMount, c *corev1.Container, at *field.Path) field.ErrorList {
	p := m.MountPropagation
	if p == nil {
		return nil
	}
	at = at.Child("mountPropagation")
	errs := validate.Known(*p, at, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	privileged := c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged)
	if *p == corev1.MountPropagationBidirectional && !privileged {
		errs = append(errs, field.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers"))
	}
	return errs
}

func recursiveReadOnly(m *corev1.VolumeMount, at *field.Path) (errs field.ErrorList) {
	if m.RecursiveReadOnly == nil {
		return nil
	}
	mode := *m.RecursiveReadOnly
	errs = validate.Known(mode, at, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	if len(errs) > 0 || mode == corev1.RecursiveReadOnlyDisabled {
		return errs
	}
	if !m.ReadOnly {
		errs = append(errs, field.Forbidden(at, "may only be specified when readOnly is true"))
	}
	if p := m.MountPropagation; p != nil && *p != corev1.MountPropagationNone {
		errs = append(errs, field.Forbidden(at, "may only be specified when mountPropagation is None or not specified"))
	}
	return errs
}

func (v *checker) devices(c *corev1.Container, path *field.Path) (errs field.ErrorList) {
	names, paths := sets.New[string](), sets.New[string]()
	for i, d := range c.VolumeDevices {
		at := path.Index(i)
		vol, ok := v.volumes[d.Name]
		switch {
		case d.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case !ok:
			errs = append(errs, field.NotFound(at.Child("name"), d.Name))
		case vol.PersistentVolumeClaim == nil && vol.Ephemeral == nil:
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		if names.Has(d.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "must be unique"))
		}
		names.Insert(d.Name)
		errs = append(errs, validate.Given(d.DevicePath, at.Child("devicePath"))...)
		if d.DevicePath != "" && paths.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique"))
		}
		paths.Insert(d.DevicePath)
		errs = append(errs, validate.NoBacksteps(d.DevicePath, at.Child("devicePath"))...)
	}
	return errs
}
