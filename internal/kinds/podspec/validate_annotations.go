package podspec

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// The annotations that pods had before there were fields.
const (
	mirrorAnnotation    = corev1.MirrorPodAnnotationKey
	seccompAnnotation   = corev1.SeccompPodAnnotationKey
	seccompOfContainer  = corev1.SeccompContainerAnnotationKeyPrefix
	appArmorOfContainer = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
)

// annotations checks the annotations that mean something to pods.
func (v *checker) annotations(set map[string]string, at *field.Path) {
	for k, value := range set {
		switch {
		case k == mirrorAnnotation:
			if v.spec.NodeName == "" {
				v.add(field.Invalid(at.Key(k), value, "must set spec.nodeName if mirror pod annotation is set"))
			}
		case k == corev1.PodDeletionCost:
			if n, err := strconv.ParseInt(value, 10, 32); err != nil || strconv.FormatInt(n, 10) != value {
				v.add(field.Invalid(at.Key(k), value, "must be a 32bit integer"))
			}
		case k == seccompAnnotation, strings.HasPrefix(k, seccompOfContainer):
			v.seccompName(value, at.Child(k))
		case strings.HasPrefix(k, appArmorOfContainer):
			name := strings.TrimPrefix(k, appArmorOfContainer)
			found := false
			v.each(at, func(c *corev1.Container, _ *field.Path) { found = found || c.Name == name })
			if !found {
				v.add(field.Invalid(at.Key(k), name, "container not found"))
			}
			if value != "" && value != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && value != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
				!strings.HasPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
				v.add(field.Invalid(at.Key(k), value, fmt.Sprintf("invalid AppArmor profile name: %q", value)))
			}
		}
	}
}

func (v *checker) seccompName(p string, at *field.Path) {
	switch local, ok := strings.CutPrefix(p, corev1.SeccompLocalhostProfileNamePrefix); {
	case p == corev1.SeccompProfileRuntimeDefault, p == corev1.DeprecatedSeccompProfileDockerDefault, p == corev1.SeccompProfileNameUnconfined:
	case ok:
		v.add(validate.RelativePath(local, at)...)
	default:
		v.add(field.Invalid(at, p, "must be a valid seccomp profile"))
	}
}

// annotationsMatch checks that annotations say the same as the fields that have
// replaced them.
func (v *checker) annotationsMatch(set map[string]string, path *field.Path) {
	if len(set) == 0 {
		return
	}
	pod := v.spec.SecurityContext
	if pod != nil && pod.SeccompProfile != nil {
		v.seccompMatch(set, seccompAnnotation, pod.SeccompProfile, path.Child("securityContext"))
	}
	v.each(path, func(c *corev1.Container, at *field.Path) {
		at = at.Child("securityContext")
		if c.SecurityContext != nil && c.SecurityContext.SeccompProfile != nil {
			v.seccompMatch(set, seccompOfContainer+c.Name, c.SecurityContext.SeccompProfile, at)
		}
		if v.os() == corev1.Windows {
			return
		}
		if c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			v.appArmorMatch(set, c.Name, c.SecurityContext.AppArmorProfile, at)
		} else if pod != nil && pod.AppArmorProfile != nil {
			v.appArmorMatch(set, c.Name, pod.AppArmorProfile, at)
		}
	})
}

func (v *checker) seccompMatch(set map[string]string, key string, p *corev1.SeccompProfile, at *field.Path) {
	a, ok := set[key]
	if !ok {
		return
	}
	local, isLocal := strings.CutPrefix(a, corev1.SeccompLocalhostProfileNamePrefix)
	same := true
	switch p.Type {
	case corev1.SeccompProfileTypeUnconfined:
		same = a == corev1.SeccompProfileNameUnconfined
	case corev1.SeccompProfileTypeRuntimeDefault:
		same = a == corev1.SeccompProfileRuntimeDefault || a == corev1.DeprecatedSeccompProfileDockerDefault
	case corev1.SeccompProfileTypeLocalhost:
		same = isLocal
		if same && (p.LocalhostProfile == nil || *p.LocalhostProfile != local) {
			v.add(field.Forbidden(at.Child("seccompProfile", "localhostProfile"), "seccomp profile in annotation and field must match"))
		}
	}
	if !same {
		v.add(field.Forbidden(at.Child("seccompProfile", "type"), "seccomp type in annotation and field must match"))
	}
}

func (v *checker) appArmorMatch(set map[string]string, container string, p *corev1.AppArmorProfile, at *field.Path) {
	a, ok := set[appArmorOfContainer+container]
	if !ok {
		return
	}
	local, isLocal := strings.CutPrefix(a, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	same := true
	switch p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		same = a == corev1.DeprecatedAppArmorBetaProfileNameUnconfined
	case corev1.AppArmorProfileTypeRuntimeDefault:
		same = a == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault
	case corev1.AppArmorProfileTypeLocalhost:
		same = isLocal
		if same && (p.LocalhostProfile == nil || *p.LocalhostProfile != local) {
			v.add(field.Forbidden(at.Child("appArmorProfile", "localhostProfile"), "apparmor profile in annotation and field must match"))
		}
	}
	if !same {
		v.add(field.Forbidden(at.Child("appArmorProfile", "type"), "apparmor type in annotation and field must match"))
	}
}
