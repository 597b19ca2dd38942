package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

func (v *checker) mounts(c *corev1.Container, parent *field.Path) {
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		list := func() *field.Path { return parent.Child("volumeMounts") }
		at := func(name string) *field.Path { return list().Index(i).Child(name) }
		if m.Name == "" {
			v.add(field.Required(at("name"), ""))
		}
		vol := v.volume(m.Name)
		if vol == nil {
			v.add(field.NotFound(at("name"), m.Name))
		}
		if m.MountPath == "" {
			v.add(field.Required(at("mountPath"), ""))
		}
		if slices.ContainsFunc(c.VolumeMounts[:i], func(o corev1.VolumeMount) bool { return o.MountPath == m.MountPath }) {
			v.add(field.Invalid(at("mountPath"), m.MountPath, "must be unique"))
		}
		for _, d := range c.VolumeDevices {
			if d.Name == m.Name {
				v.add(field.Invalid(at("name"), m.Name, "must not already exist in volumeDevices"))
			}
			if d.DevicePath == m.MountPath {
				v.add(field.Invalid(at("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
			}
		}
		if m.SubPath != "" {
			v.add(validate.RelativePath(m.SubPath, list().Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				v.add(field.Invalid(at("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			v.add(validate.RelativePath(m.SubPathExpr, list().Child("subPathExpr"))...)
		}
		v.propagation(m, c, parent)
		v.recursiveReadOnly(m, parent)
		v.bindOptions(m, vol, parent, i)
	}
}

func (v *checker) propagation(m *corev1.VolumeMount, c *corev1.Container, parent *field.Path) {
	if m.MountPropagation == nil {
		return
	}
	at := parent.Child("volumeMounts")
	known(v, m.MountPropagation, at, "mountPropagation", corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	if privileged := c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged); *m.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
		v.add(field.Forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
	}
}

func (v *checker) recursiveReadOnly(m *corev1.VolumeMount, parent *field.Path) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return
	}
	at := parent.Child("volumeMounts", "recursiveReadOnly")
	switch *m.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
	default:
		v.add(validate.Known(*m.RecursiveReadOnly, at, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)...)
		return
	}
	if !m.ReadOnly {
		v.add(field.Forbidden(at, "may only be specified when readOnly is true"))
	}
	if p := m.MountPropagation; p != nil && *p != corev1.MountPropagationNone {
		v.add(field.Forbidden(at, "may only be specified when mountPropagation is None or not specified"))
	}
}

// bindOptions checks the options of the mount of a volume that is not an image.
func (v *checker) bindOptions(m *corev1.VolumeMount, vol *corev1.VolumeSource, parent *field.Path, i int) {
	if len(m.BindMountOptions) == 0 {
		return
	}
	at := parent.Child("volumeMounts").Index(i).Child("bindMountOptions")
	if vol != nil && vol.Image != nil {
		v.add(field.Forbidden(at, "not allowed in image volume sources"))
	}
	for j, o := range m.BindMountOptions {
		v.add(validate.Known(corev1.BindMountOption(o), at.Index(j), corev1.BindMountOptionNoDev, corev1.BindMountOptionNoExec, corev1.BindMountOptionNoSUID)...)
		if slices.Contains(m.BindMountOptions[:j], o) {
			v.add(field.Duplicate(at.Index(j), o))
		}
	}
}

func (v *checker) devices(c *corev1.Container, parent *field.Path) {
	for i, d := range c.VolumeDevices {
		at := parent.Child("volumeDevices").Index(i)
		v.given(d.Name, at, "name")
		before := c.VolumeDevices[:i]
		if d.Name != "" && slices.ContainsFunc(before, func(o corev1.VolumeDevice) bool { return o.Name == d.Name }) {
			v.add(field.Invalid(at.Child("name"), d.Name, "must be unique"))
		}
		switch vol := v.volume(d.Name); {
		case vol == nil:
			v.add(field.NotFound(at.Child("name"), d.Name))
		case vol.PersistentVolumeClaim == nil && vol.Ephemeral == nil:
			v.add(field.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		v.given(d.DevicePath, at, "devicePath")
		if slices.ContainsFunc(before, func(o corev1.VolumeDevice) bool { return o.DevicePath == d.DevicePath }) {
			v.add(field.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique"))
		}
		if len(validate.NoBacksteps(d.DevicePath, at)) > 0 {
			v.add(field.Invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
		}
		for _, m := range c.VolumeMounts {
			if m.Name == d.Name {
				v.add(field.Invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts"))
			}
			if m.MountPath == d.DevicePath {
				v.add(field.Invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts"))
			}
		}
	}
}
