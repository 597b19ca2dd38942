package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"

	"proa/internal/kinds/validate"
)

func (v *checker) userID(id *int64, at *field.Path, name string) {
	if id != nil {
		said(v, at.Child(name), *id, validation.IsValidUserID(*id))
	}
}

func (v *checker) groupID(id *int64, at *field.Path, name string) {
	if id != nil {
		said(v, at.Child(name), *id, validation.IsValidGroupID(*id))
	}
}

func (v *checker) podSecurity(path *field.Path) {
	c := v.spec.SecurityContext
	if isTrue(v.spec.ShareProcessNamespace) && v.spec.HostPID {
		v.add(field.Invalid(path.Child("securityContext", "shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if c == nil {
		return
	}
	at := path.Child("securityContext")
	v.groupID(c.FSGroup, at, "fsGroup")
	v.userID(c.RunAsUser, at, "runAsUser")
	v.groupID(c.RunAsGroup, at, "runAsGroup")
	for i, g := range c.SupplementalGroups {
		said(v, at.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))
	}
	v.sysctls(c.Sysctls, at.Child("sysctls"))
	known(v, c.FSGroupChangePolicy, at, "fsGroupChangePolicy", corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	v.seccomp(c.SeccompProfile, at)
	v.windowsOptions(c.WindowsOptions, at)
	v.appArmor(c.AppArmorProfile, at)
	known(v, c.SupplementalGroupsPolicy, at, "supplementalGroupsPolicy", corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	known(v, c.SELinuxChangePolicy, at, "seLinuxChangePolicy", corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)
}

const (
	sysctlSegment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	sysctlPattern = "^(" + sysctlSegment + "[\\./])*" + sysctlSegment + "$"
	sysctlLength  = 253
)

// isSysctl says whether a name is made as sysctlPattern says.
func isSysctl(s string) bool {
	for _, part := range strings.Split(strings.ReplaceAll(s, "/", "."), ".") {
		if part == "" || strings.Trim(part, "-_") != part || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(s) <= sysctlLength
}

func (v *checker) sysctls(list []corev1.Sysctl, path *field.Path) {
	for i, y := range list {
		at := path.Index(i).Child("name")
		switch {
		case y.Name == "":
			v.add(field.Required(at, ""))
		case !isSysctl(y.Name):
			v.add(field.Invalid(at, y.Name, fmt.Sprintf("must have at most %d characters and match regex %s", sysctlLength, sysctlPattern)))
		case slices.ContainsFunc(list[:i], func(o corev1.Sysctl) bool { return o.Name == y.Name }):
			v.add(field.Duplicate(at, y.Name))
		}
		switch ns, _, _ := sysctl.GetNamespace(y.Name); {
		case v.spec.HostNetwork && ns == sysctl.NetNamespace:
			v.add(field.Invalid(at, y.Name, "may not be specified when 'hostNetwork' is true"))
		case v.spec.HostIPC && ns == sysctl.IPCNamespace:
			v.add(field.Invalid(at, y.Name, "may not be specified when 'hostIPC' is true"))
		}
	}
}

func (v *checker) seccomp(p *corev1.SeccompProfile, parent *field.Path) {
	if p == nil {
		return
	}
	at := parent.Child("seccompProfile")
	if p.Type == "" {
		v.add(field.Required(at.Child("type"), "type is required when seccompProfile is set"))
	} else {
		known(v, &p.Type, at, "type", corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	switch local := at.Child("localhostProfile"); {
	case p.Type != corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			v.add(field.Invalid(local, p, "can only be set when seccomp type is Localhost"))
		}
	case p.LocalhostProfile == nil:
		v.add(field.Required(local, "must be set when seccomp type is Localhost"))
	default:
		v.add(validate.RelativePath(*p.LocalhostProfile, local)...)
	}
}

func (v *checker) appArmor(p *corev1.AppArmorProfile, parent *field.Path) {
	if p == nil {
		return
	}
	at := parent.Child("appArmorProfile")
	local := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile == nil {
			v.add(field.Required(local, "must be set when AppArmor type is Localhost"))
			return
		}
		if name := *p.LocalhostProfile; strings.TrimSpace(name) != name {
			v.add(field.Invalid(local, name, "must not be padded with whitespace"))
		} else if name == "" {
			v.add(field.Required(local, "must be set when AppArmor type is Localhost"))
		}
		if len(*p.LocalhostProfile) > 4095 {
			v.add(field.TooLong(local, "", 4095))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			v.add(field.Invalid(local, *p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
	case "":
		v.add(field.Required(at.Child("type"), "type is required when appArmorProfile is set"))
	default:
		known(v, &p.Type, at, "type", corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

func (v *checker) containerSecurity(c *corev1.SecurityContext, parent *field.Path) {
	if c == nil {
		return
	}
	at := parent.Child("securityContext")
	v.userID(c.RunAsUser, at, "runAsUser")
	v.groupID(c.RunAsGroup, at, "runAsGroup")
	if p := c.ProcMount; p != nil {
		known(v, p, at, "procMount", corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *p == corev1.UnmaskedProcMount && v.hostUsers() {
			v.add(field.Invalid(at.Child("procMount"), *p, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	v.seccomp(c.SeccompProfile, at)
	if a := c.AllowPrivilegeEscalation; a != nil && !*a {
		if isTrue(c.Privileged) {
			v.add(field.Invalid(at, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if c.Capabilities != nil && slices.Contains(c.Capabilities.Add, "CAP_SYS_ADMIN") {
			v.add(field.Invalid(at, c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
	v.windowsOptions(c.WindowsOptions, at)
	v.appArmor(c.AppArmorProfile, at)
}
