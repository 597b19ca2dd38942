package podspec

import (
	"fmt"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// operatingSystem checks what a pod of a named operating system may not have.
func (v *checker) operatingSystem(path *field.Path) {
	if v.spec.OS == nil {
		return
	}
	c, at := v.spec.SecurityContext, path.Child("securityContext")
	switch v.os() {
	case "":
		v.add(field.Required(path.Child("os", "name"), "cannot be empty"))
	case corev1.Linux:
		const why = "windows options cannot be set for a linux pod"
		v.unset(at, why, []set{{"windowsOptions", c != nil && c.WindowsOptions != nil}})
		v.each(path, func(c *corev1.Container, p *field.Path) {
			v.unset(p.Child("securityContext"), why, []set{{"windowsOptions", c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil}})
		})
	case corev1.Windows:
		v.windows(path)
	default:
		known(v, &v.spec.OS.Name, path, "os", corev1.Linux, corev1.Windows)
	}
}

// windows checks that a pod of Windows has nothing that only Linux has.
func (v *checker) windows(path *field.Path) {
	const why = "cannot be set for a windows pod"
	s := v.spec
	v.unset(path, why, []set{{"hostUsers", s.HostUsers != nil}, {"hostPID", s.HostPID}, {"hostIPC", s.HostIPC},
		{"shareProcessNamespace", s.ShareProcessNamespace != nil}})
	if c := s.SecurityContext; c != nil {
		v.unset(path.Child("securityContext"), why, []set{{"appArmorProfile", c.AppArmorProfile != nil}, {"seLinuxOptions", c.SELinuxOptions != nil},
			{"seccompProfile", c.SeccompProfile != nil}, {"fsGroup", c.FSGroup != nil}, {"fsGroupChangePolicy", c.FSGroupChangePolicy != nil},
			{"sysctls", len(c.Sysctls) > 0}, {"runAsUser", c.RunAsUser != nil}, {"runAsGroup", c.RunAsGroup != nil},
			{"supplementalGroups", c.SupplementalGroups != nil}, {"supplementalGroupsPolicy", c.SupplementalGroupsPolicy != nil},
			{"seLinuxChangePolicy", c.SELinuxChangePolicy != nil}})
	}
	v.each(path, func(of *corev1.Container, at *field.Path) {
		if c := of.SecurityContext; c != nil {
			v.unset(at.Child("securityContext"), why, []set{{"appArmorProfile", c.AppArmorProfile != nil}, {"seLinuxOptions", c.SELinuxOptions != nil},
				{"seccompProfile", c.SeccompProfile != nil}, {"capabilities", c.Capabilities != nil},
				{"readOnlyRootFilesystem", c.ReadOnlyRootFilesystem != nil}, {"privileged", c.Privileged != nil},
				{"allowPrivilegeEscalation", c.AllowPrivilegeEscalation != nil}, {"procMount", c.ProcMount != nil},
				{"runAsUser", c.RunAsUser != nil}, {"runAsGroup", c.RunAsGroup != nil}})
		}
	})
}

// What the options of Windows may hold. Of the account DOMAIN\USER, see
// https://learn.microsoft.com/troubleshoot/windows-server/active-directory/naming-conventions-for-computer-domain-site-ou.
const (
	maxGMSAKiB    = 64
	maxUserDomain = 256
	maxUser       = 104
)

func (v *checker) windowsOptions(o *corev1.WindowsSecurityContextOptions, parent *field.Path) {
	if o == nil {
		return
	}
	at := parent.Child("windowsOptions")
	if n := o.GMSACredentialSpecName; n != nil {
		v.add(validate.Subdomain(*n, at.Child("gmsaCredentialSpecName"))...)
	}
	if c, p := o.GMSACredentialSpec, at.Child("gmsaCredentialSpec"); c != nil {
		if *c == "" {
			v.add(field.Invalid(p, *c, "gmsaCredentialSpec cannot be an empty string"))
		} else if len(*c) > maxGMSAKiB*1024 {
			v.add(field.Invalid(p, *c, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxGMSAKiB)))
		}
	}
	if u := o.RunAsUserName; u != nil {
		said(v, at.Child("runAsUserName"), *u, userName(*u))
	}
}

// userName is what is wrong with an account of Windows.
func userName(account string) (wrong []string) {
	say := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Sprintf("runAsUserName"+format, args...))
		}
	}
	domain, user, has := strings.Cut(account, `\`)
	if !has {
		domain, user = "", account
	}
	switch {
	case account == "":
		say(true, " cannot be an empty string")
	case strings.ContainsFunc(account, func(r rune) bool { return r <= unicode.MaxASCII && unicode.IsControl(r) }):
		say(true, " cannot contain control characters")
	case strings.Contains(user, `\`):
		say(true, " cannot contain more than one backslash")
	default:
		say(len(domain) >= maxUserDomain, "'s Domain length must be under %d characters", maxUserDomain)
		say(has && !netBIOS(domain) && !dnsDomain(domain), "'s Domain doesn't match the NetBios nor the DNS format")
		say(user == "", "'s User cannot be empty")
		say(len(user) > maxUser, "'s User length must not be longer than %d characters", maxUser)
		say(user != "" && strings.Trim(user, ". ") == "", "'s User cannot contain only periods or spaces")
		say(strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`), `'s User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return wrong
}

// netBIOS says whether a domain can have this name in NetBIOS.
func netBIOS(s string) bool {
	return s != "" && len([]rune(s)) <= 15 && s[0] != '.' && !strings.ContainsAny(s, `\/:*?"<>|`)
}

func dnsDomain(s string) bool {
	for _, part := range strings.Split(strings.ToLower(s), ".") {
		if !validate.IsLabel(part) {
			return false
		}
	}
	return true
}

// hostProcess checks pods with containers that are processes of the host: all or
// none of a pod's are.
func (v *checker) hostProcess(path *field.Path) {
	var ofPod *bool
	if c := v.spec.SecurityContext; c != nil && c.WindowsOptions != nil {
		ofPod = c.WindowsOptions.HostProcess
	}
	all, hosts := 0, 0
	count := func(c *corev1.Container, at func() *field.Path) {
		all++
		own := ofPod
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil && c.SecurityContext.WindowsOptions.HostProcess != nil {
			own = c.SecurityContext.WindowsOptions.HostProcess
			if ofPod != nil && *own != *ofPod {
				v.add(field.Invalid(at().Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %t", *ofPod)))
			}
		}
		if isTrue(own) {
			hosts++
		}
	}
	s := v.spec
	for i := range s.InitContainers {
		count(&s.InitContainers[i], func() *field.Path { return path.Child("initContainers").Index(i) })
	}
	for i := range s.Containers {
		count(&s.Containers[i], func() *field.Path { return path.Child("containers").Index(i) })
	}
	for i := range s.EphemeralContainers {
		count((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), func() *field.Path { return path.Child("ephemeralContainers").Index(i) })
	}
	if hosts == 0 {
		return
	}
	if hosts != all {
		v.add(field.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !s.HostNetwork {
		v.add(field.Invalid(path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
}
