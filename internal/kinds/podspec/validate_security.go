package podspec

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

func userID(id *int64, at *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return validate.Messages(at, *id, validation.IsValidUserID(*id))
}

func groupID(id *int64, at *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return validate.Messages(at, *id, validation.IsValidGroupID(*id))
}

const (
	sysctlSegment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	sysctlPattern = "(" + sysctlSegment + "[\\./])*" + sysctlSegment
	sysctlLength  = 253
)

var sysctlName = regexp.MustCompile("^" + sysctlPattern + "$")

func validatePodSecurity(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	c, at := s.SecurityContext, path.Child("securityContext")
	if c == nil {
		return nil
	}
	errs = append(errs, userID(c.RunAsUser, at.Child("runAsUser"))...)
	errs = append(errs, groupID(c.RunAsGroup, at.Child("runAsGroup"))...)
	errs = append(errs, groupID(c.FSGroup, at.Child("fsGroup"))...)
	for i := range c.SupplementalGroups {
		errs = append(errs, groupID(&c.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))...)
	}
	if p := c.SupplementalGroupsPolicy; p != nil {
		errs = append(errs, validate.Known(*p, at.Child("supplementalGroupsPolicy"), corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if p := c.FSGroupChangePolicy; p != nil {
		errs = append(errs, validate.Known(*p, at.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	if p := c.SELinuxChangePolicy; p != nil {
		errs = append(errs, validate.Known(*p, at.Child("seLinuxChangePolicy"), corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
	}
	seen := sets.New[string]()
	for i, y := range c.Sysctls {
		p := at.Child("sysctls").Index(i).Child("name")
		name := strings.ReplaceAll(y.Name, "/", ".")
		switch {
		case y.Name == "":
			errs = append(errs, field.Required(p, ""))
		case len(y.Name) > sysctlLength || !sysctlName.MatchString(y.Name):
			errs = append(errs, field.Invalid(p, y.Name, fmt.Sprintf("must have at most %d characters and match regex %s", sysctlLength, "^"+sysctlPattern+"$")))
		case seen.Has(name):
			errs = append(errs, field.Duplicate(p, y.Name))
		case s.HostNetwork && strings.HasPrefix(name, "net."):
			errs = append(errs, field.Invalid(p, y.Name, "may not be specified when 'hostNetwork' is true"))
		case s.HostIPC && (strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")):
			errs = append(errs, field.Invalid(p, y.Name, "may not be specified when 'hostIPC' is true"))
		}
		seen.Insert(name)
	}
	errs = append(errs, seccomp(c.SeccompProfile, at.Child("seccompProfile"))...)
	return append(errs, appArmor(c.AppArmorProfile, at.Child("appArmorProfile"))...)
}

func seccomp(p *corev1.SeccompProfile, at *field.Path) (errs field.ErrorList) {
	if p == nil {
		return nil
	}
	if p.Type == corev1.SeccompProfileTypeLocalhost {
		if p.LocalhostProfile == nil {
			return append(errs, field.Required(at.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
		}
		return validate.RelativePath(*p.LocalhostProfile, at.Child("localhostProfile"))
	}
	if p.LocalhostProfile != nil {
		errs = append(errs, field.Invalid(at.Child("localhostProfile"), p, "can only be set when seccomp type is Localhost"))
	}
	if p.Type == "" {
		return append(errs, field.Required(at.Child("type"), "type is required when seccompProfile is set"))
	}
	return append(errs, validate.Known(p.Type, at.Child("type"),
		corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
}

func appArmor(p *corev1.AppArmorProfile, at *field.Path) (errs field.ErrorList) {
	if p == nil {
		return nil
	}
	local := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch {
		case p.LocalhostProfile == nil:
			errs = append(errs, field.Required(local, "must be set when AppArmor type is Localhost"))
		case strings.TrimSpace(*p.LocalhostProfile) != *p.LocalhostProfile:
			errs = append(errs, field.Invalid(local, *p.LocalhostProfile, "must not be padded with whitespace"))
		case *p.LocalhostProfile == "":
			errs = append(errs, field.Required(local, "must be set when AppArmor type is Localhost"))
		case len(*p.LocalhostProfile) > 4095:
			errs = append(errs, field.TooLongCharacters(local, *p.LocalhostProfile, 4095))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(local, p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
	case "":
		errs = append(errs, field.Required(at.Child("type"), "type is required when appArmorProfile is set"))
	default:
		errs = append(errs, validate.Known(p.Type, at.Child("type"),
			corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)...)
	}
	return errs
}

func validateContainerSecurity(c *corev1.SecurityContext, at *field.Path) (errs field.ErrorList) {
	if c == nil {
		return nil
	}
	errs = append(errs, userID(c.RunAsUser, at.Child("runAsUser"))...)
	errs = append(errs, groupID(c.RunAsGroup, at.Child("runAsGroup"))...)
	if c.ProcMount != nil {
		errs = append(errs, validate.Known(*c.ProcMount, at.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
	}
	errs = append(errs, seccomp(c.SeccompProfile, at.Child("seccompProfile"))...)
	if a := c.AllowPrivilegeEscalation; a != nil && !*a {
		if isTrue(c.Privileged) {
			errs = append(errs, field.Invalid(at, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if c.Capabilities != nil {
			for _, add := range c.Capabilities.Add {
				if add == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(at, c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	return append(errs, appArmor(c.AppArmorProfile, at.Child("appArmorProfile"))...)
}
