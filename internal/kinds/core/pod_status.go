package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

var statusPath = field.NewPath("status")

// validatePodStatus checks that a status does not undo what has happened.
func validatePodStatus(p, old *corev1.Pod) field.ErrorList {
	s, o := &p.Status, &old.Status
	errs := podspec.ValidateAnnotationUpdate(p, old)
	for i, c := range s.Conditions {
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady:
		default:
			errs = append(errs, validate.Qualified(string(c.Type), statusPath.Child("conditions").Index(i).Child("type"))...)
		}
	}
	if n := s.NominatedNodeName; n != "" && n != o.NominatedNodeName {
		errs = append(errs, validate.Subdomain(n, statusPath.Child("nominatedNodeName"))...)
	}
	if s.QOSClass != o.QOSClass && o.QOSClass != "" {
		errs = append(errs, field.Invalid(statusPath.Child("qosClass"), s.QOSClass, "field is immutable"))
	}
	errs = append(errs, transitions(s.ContainerStatuses, o.ContainerStatuses, statusPath.Child("containerStatuses"), func(name string) corev1.RestartPolicy {
		return restartsLike(old.Spec.Containers, name, old.Spec.RestartPolicy)
	})...)
	errs = append(errs, transitions(s.InitContainerStatuses, o.InitContainerStatuses, statusPath.Child("initContainerStatuses"), func(name string) corev1.RestartPolicy {
		return restartsLike(old.Spec.InitContainers, name, old.Spec.RestartPolicy)
	})...)
	errs = append(errs, transitions(s.EphemeralContainerStatuses, o.EphemeralContainerStatuses, statusPath.Child("ephemeralContainerStatuses"),
		func(string) corev1.RestartPolicy { return corev1.RestartPolicyNever })...)
	errs = append(errs, claimStatuses(p, statusPath.Child("resourceClaimStatuses"))...)
	windows := p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows
	for name, list := range map[string][]corev1.ContainerStatus{"containerStatuses": s.ContainerStatuses,
		"initContainerStatuses": s.InitContainerStatuses, "ephemeralContainerStatuses": s.EphemeralContainerStatuses} {
		errs = append(errs, statusUsers(list, windows, statusPath.Child(name))...)
	}
	return append(errs, statusAddresses(s, o)...)
}

// restartsLike is when a container restarts: its own rule, or else its pod's.
// One with rules for exit codes may always.
func restartsLike(list []corev1.Container, name string, ofPod corev1.RestartPolicy) corev1.RestartPolicy {
	i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name })
	switch {
	case i < 0:
		return ofPod
	case len(list[i].RestartPolicyRules) > 0:
		return corev1.RestartPolicyAlways
	case list[i].RestartPolicy != nil:
		return corev1.RestartPolicy(*list[i].RestartPolicy)
	}
	return ofPod
}

// transitions forbids that a container that has ended for good lives again.
func transitions(list, old []corev1.ContainerStatus, at *field.Path, policy func(name string) corev1.RestartPolicy) (errs field.ErrorList) {
	for i := range old {
		t := old[i].State.Terminated
		if t == nil {
			continue
		}
		again := policy(old[i].Name)
		if again == corev1.RestartPolicyAlways || again == corev1.RestartPolicyOnFailure && t.ExitCode != 0 {
			continue
		}
		for k := range list {
			if list[k].Name == old[i].Name && list[k].State.Terminated == nil {
				errs = append(errs, field.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// claimStatuses checks what the status says of the claims that the pod has.
func claimStatuses(p *corev1.Pod, path *field.Path) (errs field.ErrorList) {
	list := p.Status.ResourceClaimStatuses
	for i := range list {
		c, at := &list[i], path.Index(i)
		if !slices.ContainsFunc(p.Spec.ResourceClaims, func(r corev1.PodResourceClaim) bool { return r.Name == c.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if slices.ContainsFunc(list[:i], func(o corev1.PodResourceClaimStatus) bool { return o.Name == c.Name }) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		if n := c.ResourceClaimName; n != nil {
			errs = append(errs, validate.Subdomain(*n, at.Child("name"))...)
		}
	}
	return errs
}

// statusUsers checks the users that containers' first processes run as.
func statusUsers(list []corev1.ContainerStatus, windows bool, path *field.Path) (errs field.ErrorList) {
	for i := range list {
		u := list[i].User
		if u == nil || u.Linux == nil {
			continue
		}
		at := path.Index(i).Child("user", "linux")
		if windows {
			errs = append(errs, field.Forbidden(at, "cannot be set for a windows pod"))
			continue
		}
		errs = append(errs, validate.Messages(at.Child("uid"), u.Linux.UID, validation.IsValidUserID(u.Linux.UID))...)
		errs = append(errs, validate.Messages(at.Child("gid"), u.Linux.GID, validation.IsValidGroupID(u.Linux.GID))...)
		for k, g := range u.Linux.SupplementalGroups {
			errs = append(errs, validate.Messages(at.Child("supplementalGroups").Index(k), g, validation.IsValidGroupID(g))...)
		}
	}
	return errs
}

// statusAddresses checks the pod's and its node's addresses: at most one of each
// family. Those that are there already may stay as they are written.
func statusAddresses(s, old *corev1.PodStatus) (errs field.ErrorList) {
	pod := func(i corev1.PodIP) string { return i.IP }
	host := func(i corev1.HostIP) string { return i.IP }
	errs = addresses(texts(s.PodIPs, pod), texts(old.PodIPs, pod), s.PodIPs, statusPath.Child("podIPs"))
	if len(s.HostIPs) > 0 && s.HostIP != s.HostIPs[0].IP {
		errs = append(errs, field.Invalid(statusPath.Child("hostIPs").Index(0).Child("ip"), s.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	return append(errs, addresses(texts(s.HostIPs, host), texts(old.HostIPs, host), s.HostIPs, statusPath.Child("hostIPs"))...)
}

func texts[V any](list []V, of func(V) string) (out []string) {
	for _, v := range list {
		out = append(out, of(v))
	}
	return out
}

func addresses[V any](ips, old []string, shown V, path *field.Path) (errs field.ErrorList) {
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, old)...)
		if slices.Contains(ips[:i], ip) {
			errs = append(errs, field.Duplicate(path.Index(i), ip))
		}
	}
	if len(ips) < 2 {
		return errs
	}
	if both, err := net.IsDualStackIPStrings(ips); err == nil && (!both || len(ips) > 2) {
		errs = append(errs, field.Invalid(path, shown, "may specify no more than one IP for each IP family"))
	}
	return errs
}
