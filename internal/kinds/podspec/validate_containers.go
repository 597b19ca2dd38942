package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

func (v *checker) containers(path *field.Path) {
	if len(v.spec.Containers) == 0 {
		v.add(field.Required(path, ""))
		return
	}
	var ports []string
	for i := range v.spec.Containers {
		c, at := &v.spec.Containers[i], path.Index(i)
		v.container(c, at)
		if v.pod != nil {
			v.padding(c, at)
		}
		ports = v.hostPorts(c, ports, at)
		v.lifecycle(c.Lifecycle, at)
		v.probes(c, at)
		v.restart(c, at)
	}
}

func (v *checker) initContainers(path *field.Path) {
	for i := range v.spec.InitContainers {
		c, at := &v.spec.InitContainers[i], path.Child("initContainers").Index(i)
		v.container(c, at)
		if v.pod != nil {
			v.padding(c, at)
		}
		v.hostPorts(c, nil, at)
		if Sidecar(c) {
			if len(c.RestartPolicyRules) > 0 {
				v.add(field.Forbidden(at.Child("restartPolicyRules"), "restartPolicyRules are not allowed for init containers with restart policy Always"))
			}
			v.lifecycle(c.Lifecycle, at)
			v.probes(c, at)
			continue
		}
		v.restart(c, at)
		v.unset(at, "may not be set for init containers without restartPolicy=Always", []set{{"lifecycle", c.Lifecycle != nil},
			{"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil}})
	}
}

func (v *checker) ephemeralContainers(path *field.Path) {
	for i := range v.spec.EphemeralContainers {
		e, at := &v.spec.EphemeralContainers[i], path.Child("ephemeralContainers").Index(i)
		c := (*corev1.Container)(&e.EphemeralContainerCommon)
		v.container(c, at)
		v.padding(c, at)
		if t := e.TargetContainerName; t != "" && !v.ordinary(t) {
			v.add(field.NotFound(at.Child("targetContainerName"), t))
		}
		v.unset(at, "cannot be set for an Ephemeral Container", []set{{"ports", len(c.Ports) > 0},
			{"resources", len(c.Resources.Limits)+len(c.Resources.Requests)+len(c.Resources.Claims) > 0}, {"resizePolicy", len(c.ResizePolicy) > 0},
			{"restartPolicy", c.RestartPolicy != nil}, {"restartPolicyRules", len(c.RestartPolicyRules) > 0},
			{"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
			{"lifecycle", c.Lifecycle != nil}})
		for j, m := range c.VolumeMounts {
			v.unset(at.Child("volumeMounts").Index(j), "cannot be set for an Ephemeral Container",
				[]set{{"subPath", m.SubPath != ""}, {"subPathExpr", m.SubPathExpr != ""}})
		}
	}
}

// A set is a field by its name, and whether it has a value.
type set struct {
	name string
	is   bool
}

// unset forbids that one of fields has a value.
func (v *checker) unset(at *field.Path, why string, fields []set) {
	for _, f := range fields {
		if f.is {
			v.add(field.Forbidden(at.Child(f.name), why))
		}
	}
}

// Sidecar says whether an init container goes on beside those that follow (KEP-753).
func Sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (v *checker) ordinary(name string) bool {
	is := func(c corev1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(v.spec.Containers, is) || slices.ContainsFunc(v.spec.InitContainers, is)
}

// padding checks that an image has no space around it: in templates it may stand for something.
func (v *checker) padding(c *corev1.Container, at *field.Path) {
	if c.Image != strings.TrimSpace(c.Image) {
		v.add(field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
}

// container checks what every kind of container has.
func (v *checker) container(c *corev1.Container, at *field.Path) {
	if c.Name == "" {
		v.add(field.Required(at.Child("name"), ""))
	} else if !validate.IsLabel(c.Name) {
		v.add(validate.Label(c.Name, at.Child("name"))...)
	}
	if c.Name != "" && slices.Contains(v.names, c.Name) {
		v.add(field.Duplicate(at.Child("name"), c.Name))
	}
	v.names = append(v.names, c.Name)
	v.given(c.Image, at, "image")
	oneOf(v, c.TerminationMessagePolicy, at, "terminationMessagePolicy",
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	v.ports(c.Ports, at)
	v.env(c.Env, at)
	v.envFrom(c.EnvFrom, at)
	v.mounts(c, at)
	v.devices(c, at)
	oneOf(v, c.ImagePullPolicy, at, "imagePullPolicy", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	v.requirements(&c.Resources, at, containerResource)
	v.resizePolicy(c.ResizePolicy, at)
	v.containerSecurity(c.SecurityContext, at)
}

func (v *checker) ports(ports []corev1.ContainerPort, at *field.Path) {
	for i := range ports {
		p := &ports[i]
		path := func(name string) *field.Path { return at.Child("ports").Index(i).Child(name) }
		if p.Name != "" {
			if !validate.IsPortName(p.Name) {
				said(v, path("name"), p.Name, validation.IsValidPortName(p.Name))
			} else if slices.ContainsFunc(ports[:i], func(o corev1.ContainerPort) bool { return o.Name == p.Name }) {
				v.add(field.Duplicate(path("name"), p.Name))
			}
		}
		if p.ContainerPort == 0 {
			v.add(field.Required(path("containerPort"), ""))
		} else if p.ContainerPort < 1 || p.ContainerPort > 65535 {
			said(v, path("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))
		}
		if p.HostPort < 0 || p.HostPort > 65535 {
			said(v, path("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort)))
		}
		switch p.Protocol {
		case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
		default:
			oneOf(v, p.Protocol, at.Child("ports").Index(i), "protocol", corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
		}
		if p.HostIP != "" {
			v.add(legacyIP(p.HostIP, path("hostIP"))...)
		}
	}
}

// hostPorts finds ports of the host that are asked for twice; it answers those seen.
func (v *checker) hostPorts(c *corev1.Container, seen []string, at *field.Path) []string {
	for i, p := range c.Ports {
		if p.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
		if slices.Contains(seen, key) {
			v.add(field.Duplicate(at.Child("ports").Index(i).Child("hostPort"), key))
		}
		seen = append(seen, key)
	}
	return seen
}
