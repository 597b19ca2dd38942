package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a container must not see or write under /proc and /sys unless it asks for it.
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// containerSecurity is what a container may do: its own settings over the pod's.
func (a *Agent) containerSecurity(pod *corev1.Pod, c *corev1.Container, img *v1.Image) (*v1.LinuxContainerSecurityContext, error) {
	ps, cs := pod.Spec.SecurityContext, c.SecurityContext
	if ps == nil {
		ps = &corev1.PodSecurityContext{}
	}
	if cs == nil {
		cs = &corev1.SecurityContext{}
	}
	out := &v1.LinuxContainerSecurityContext{
		NamespaceOptions:         namespaces(pod),
		Privileged:               is(cs.Privileged),
		ReadonlyRootfs:           is(cs.ReadOnlyRootFilesystem),
		NoNewPrivs:               cs.AllowPrivilegeEscalation != nil && !*cs.AllowPrivilegeEscalation,
		SupplementalGroups:       groups(ps),
		SupplementalGroupsPolicy: groupPolicy(ps),
		SelinuxOptions:           selinux(first(cs.SELinuxOptions, ps.SELinuxOptions)),
		MaskedPaths:              maskedPaths,
		ReadonlyPaths:            readonlyPaths,
	}
	if cs.ProcMount != nil && *cs.ProcMount == corev1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = nil, nil
	}
	user := first(cs.RunAsUser, ps.RunAsUser)
	switch {
	case user != nil:
		out.RunAsUser = &v1.Int64Value{Value: *user}
	case img.GetUid() != nil:
		out.RunAsUser = &v1.Int64Value{Value: img.Uid.Value}
	default:
		out.RunAsUsername = img.GetUsername()
	}
	if g := first(cs.RunAsGroup, ps.RunAsGroup); g != nil {
		out.RunAsGroup = &v1.Int64Value{Value: *g}
	}
	if out.RunAsUser == nil && out.RunAsUsername == "" {
		out.RunAsUser = &v1.Int64Value{}
	}
	if is(first(cs.RunAsNonRoot, ps.RunAsNonRoot)) {
		if err := nonRoot(pod, c, user, img); err != nil {
			return nil, err
		}
	}
	if caps := cs.Capabilities; caps != nil {
		out.Capabilities = &v1.Capability{}
		for _, x := range caps.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(x))
		}
		for _, x := range caps.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(x))
		}
	}
	var err error
	out.Seccomp, err = a.seccomp(first(cs.SeccompProfile, ps.SeccompProfile), out.Privileged)
	return out, err
}

func is(b *bool) bool { return b != nil && *b }

// first returns the first pointer that is not nil.
func first[T any](ps ...*T) *T {
	for _, p := range ps {
		if p != nil {
			return p
		}
	}
	return nil
}

func nonRoot(pod *corev1.Pod, c *corev1.Container, user *int64, img *v1.Image) error {
	where := fmt.Sprintf("(pod: \"%s_%s(%s)\", container: %s)", pod.Name, pod.Namespace, pod.UID, c.Name)
	switch {
	case user != nil && *user == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case user != nil:
		return nil
	case img.GetUid() != nil && img.Uid.Value == 0, img.GetUid() == nil && img.GetUsername() == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case img.GetUid() == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", img.Username, where)
	}
	return nil
}

// seccomp is the container's system call filter. None asked for is Unconfined, as
// in Kubernetes' default.
func (a *Agent) seccomp(p *corev1.SeccompProfile, privileged bool) (*v1.SecurityProfile, error) {
	if p == nil || privileged {
		return &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Unconfined}, nil
	}
	switch p.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		return &v1.SecurityProfile{ProfileType: v1.SecurityProfile_RuntimeDefault}, nil
	case corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			return nil, errors.New("localhostProfile must be set if seccompProfile type is Localhost")
		}
		if !filepath.IsLocal(*p.LocalhostProfile) {
			return nil, fmt.Errorf("seccomp profile %q must be a path below the profile folder", *p.LocalhostProfile)
		}
		return &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Localhost, LocalhostRef: filepath.Join(a.SeccompDir, *p.LocalhostProfile)}, nil
	}
	return &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Unconfined}, nil
}

// chownLike gives a new folder the owner of the one that it is in.
func chownLike(root *os.Root, name string, like os.FileInfo) {
	if st, ok := like.Sys().(*syscall.Stat_t); ok {
		_ = root.Chown(name, int(st.Uid), int(st.Gid))
	}
}
