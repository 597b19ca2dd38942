package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A checker holds what the check of a part must know of its pod, and what was
// found. Paths are made only for what is wrong: most pods are fine.
type checker struct {
	spec    *corev1.PodSpec
	pod     *metav1.ObjectMeta // the pod's; nil where the spec is a template's
	volumes []*corev1.Volume   // those that are sound
	names   []string           // of the containers seen so far
	claims  []string           // of the resource claims
	errs    field.ErrorList
}

func (v *checker) add(errs ...*field.Error) { v.errs = append(v.errs, errs...) }

// volume is the sound volume of this name, or nil.
func (v *checker) volume(name string) *corev1.VolumeSource {
	for _, o := range v.volumes {
		if o.Name == name {
			return &o.VolumeSource
		}
	}
	return nil
}

// hostUsers says whether the pod's users are the host's.
func (v *checker) hostUsers() bool { return v.spec.HostUsers == nil || *v.spec.HostUsers }

func (v *checker) os() corev1.OSName {
	if v.spec.OS == nil {
		return ""
	}
	return v.spec.OS.Name
}

// each calls f for every container of the pod, in the order of their kinds.
func (v *checker) each(path *field.Path, f func(c *corev1.Container, at *field.Path)) {
	s := v.spec
	for i := range s.InitContainers {
		f(&s.InitContainers[i], path.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		f(&s.Containers[i], path.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		f((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), path.Child("ephemeralContainers").Index(i))
	}
}

// given requires that s is not empty.
func (v *checker) given(s string, at *field.Path, name string) {
	if s == "" {
		v.add(field.Required(at.Child(name), ""))
	}
}

// oneOf requires that s is one of allowed.
func oneOf[S ~string](v *checker, s S, at *field.Path, name string, allowed ...S) {
	if s == "" {
		v.add(field.Required(at.Child(name), ""))
		return
	}
	known(v, &s, at, name, allowed...)
}

// known checks that *s is one of allowed; nil is fine.
func known[S ~string](v *checker, s *S, at *field.Path, name string, allowed ...S) {
	if s != nil && !slices.Contains(allowed, *s) {
		v.add(field.NotSupported(at.Child(name), *s, slices.Clone(allowed)))
	}
}

// said turns what a library says of a value into errors.
func said[V any](v *checker, at *field.Path, value V, msgs []string) {
	for _, m := range msgs {
		v.add(field.Invalid(at, value, m))
	}
}

func isTrue(b *bool) bool { return b != nil && *b }
