package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// WarnTemplate warns about a pod template.
func WarnTemplate(t *corev1.PodTemplateSpec) []string {
	return warn(&t.Spec, t.Annotations, field.NewPath("spec", "template"))
}

// WarnPod warns about a pod.
func WarnPod(p *corev1.Pod) []string { return warn(&p.Spec, p.Annotations, nil) }

// WarnName warns about the name of a new object that hostnames are made of.
func WarnName(name, used string) []string {
	msgs := validation.IsDNS1123Label(name)
	if name == "" || len(msgs) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", used, msgs)}
}

// WarnWorkload warns about what makes pods from a template, and is new if old is false.
func WarnWorkload(name string, t *corev1.PodTemplateSpec, old bool) (out []string) {
	if !old {
		out = WarnName(name, "Pod names and hostnames")
	}
	return append(out, WarnTemplate(t)...)
}

// oldNodeLabels are labels of nodes that have a newer name, or none.
var oldNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                  "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
	"beta.kubernetes.io/os":                    "deprecated since v1.14; use \"kubernetes.io/os\" instead",
	"failure-domain.beta.kubernetes.io/region": "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
	"failure-domain.beta.kubernetes.io/zone":   "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
	"beta.kubernetes.io/instance-type":         "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
}

func warn(s *corev1.PodSpec, annotations map[string]string, root *field.Path) (out []string) {
	path := root.Child("spec")
	say := func(at *field.Path, format string, args ...any) {
		out = append(out, at.String()+": "+fmt.Sprintf(format, args...))
	}
	for k := range s.NodeSelector {
		if msg := oldNodeLabels[k]; msg != "" {
			say(path.Child("nodeSelector").Key(k), "%s", msg)
		}
	}
	for k := range annotations {
		at := root.Child("metadata", "annotations").Key(k)
		switch {
		case k == "seccomp.security.alpha.kubernetes.io/pod" || strings.HasPrefix(k, "container.seccomp.security.alpha.kubernetes.io/"):
			say(at, "non-functional in v1.27+; use the \"seccompProfile\" field instead")
		case strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			say(at, "deprecated since v1.30; use the \"appArmorProfile\" field instead")
		case k == "scheduler.alpha.kubernetes.io/critical-pod":
			say(at, "non-functional in v1.16+; use the \"priorityClassName\" field instead")
		}
	}
	for i, h := range s.HostAliases {
		out = append(out, validation.GetWarningsForIP(path.Child("hostAliases").Index(i).Child("ip"), h.IP)...)
	}
	for i := range s.Volumes {
		v, at := &s.Volumes[i], path.Child("volumes").Index(i)
		switch {
		case v.GitRepo != nil:
			say(at.Child("gitRepo"), "deprecated in v1.11, and disabled by default in v1.33+")
		case v.CephFS != nil:
			say(at.Child("cephfs"), "deprecated in v1.28, non-functional in v1.31+")
		case v.RBD != nil:
			say(at.Child("rbd"), "deprecated in v1.28, non-functional in v1.31+")
		case v.Glusterfs != nil:
			say(at.Child("glusterfs"), "deprecated in v1.25, non-functional in v1.26+")
		}
		if e := v.EmptyDir; e != nil && e.Medium == corev1.StorageMediumMemory && e.SizeLimit != nil && e.SizeLimit.Value() > 0 && e.SizeLimit.MilliValue()%1000 != 0 {
			say(at.Child("emptyDir", "sizeLimit"), "fractional byte value %q is invalid, must be an integer", e.SizeLimit.String())
		}
	}
	for _, r := range s.ImagePullSecrets {
		if r.Name == "" {
			say(path.Child("imagePullSecrets"), "invalid empty name %q", r.Name)
		}
	}
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		say(path.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	for _, list := range []struct {
		name string
		of   []corev1.Container
	}{{"initContainers", s.InitContainers}, {"containers", s.Containers}} {
		for i := range list.of {
			out = append(out, warnContainer(&list.of[i], path.Child(list.name).Index(i))...)
		}
	}
	return out
}

func warnContainer(c *corev1.Container, at *field.Path) (out []string) {
	for list, of := range map[string]corev1.ResourceList{"limits": c.Resources.Limits, "requests": c.Resources.Requests} {
		for name, q := range of {
			if (name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage) && q.MilliValue()%1000 != 0 {
				out = append(out, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer",
					at.Child("resources", list).Key(string(name)), q.String()))
			}
		}
	}
	seen := sets.New[string]()
	for i, e := range c.Env {
		if seen.Has(e.Name) {
			out = append(out, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply", at.Child("env").Index(i), e.Name))
		}
		seen.Insert(e.Name)
	}
	ports := map[string]int{}
	for i, p := range c.Ports {
		key := fmt.Sprintf("%s/%s/%d/%d", p.HostIP, p.Protocol, p.ContainerPort, p.HostPort)
		if j, ok := ports[key]; ok {
			out = append(out, fmt.Sprintf("%s: duplicate port definition with %s", at.Child("ports").Index(i), at.Child("ports").Index(j)))
		} else {
			ports[key] = i
		}
	}
	return out
}
