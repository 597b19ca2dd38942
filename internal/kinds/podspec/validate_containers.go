package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// A checker holds what the check of one container must know of its pod.
type checker struct {
	spec    *corev1.PodSpec
	volumes map[string]*corev1.VolumeSource
	names   sets.Set[string] // of the containers seen so far
	grace   int64            // seconds
}

func (v *checker) containers(path *field.Path) (errs field.ErrorList) {
	if len(v.spec.Containers) == 0 {
		return append(errs, field.Required(path, ""))
	}
	ports := sets.New[string]()
	for i := range v.spec.Containers {
		c, at := &v.spec.Containers[i], path.Index(i)
		errs = append(errs, v.container(c, at)...)
		errs = append(errs, hostPorts(c, ports, at)...)
		errs = append(errs, v.lifecycle(c.Lifecycle, at.Child("lifecycle"))...)
		errs = append(errs, v.probes(c, at)...)
		errs = append(errs, v.restart(c, at, false)...)
	}
	return errs
}

func (v *checker) initContainers(path *field.Path) (errs field.ErrorList) {
	for i := range v.spec.InitContainers {
		c, at := &v.spec.InitContainers[i], path.Index(i)
		errs = append(errs, v.container(c, at)...)
		errs = append(errs, hostPorts(c, sets.New[string](), at)...)
		errs = append(errs, v.restart(c, at, true)...)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			errs = append(errs, v.lifecycle(c.Lifecycle, at.Child("lifecycle"))...)
			errs = append(errs, v.probes(c, at)...)
			continue
		}
		for _, f := range []struct {
			name string
			set  bool
		}{{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil}} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
	}
	return errs
}

func (v *checker) ephemeralContainers(path *field.Path) (errs field.ErrorList) {
	for i := range v.spec.EphemeralContainers {
		e, at := &v.spec.EphemeralContainers[i], path.Index(i)
		c := (*corev1.Container)(&e.EphemeralContainerCommon)
		errs = append(errs, v.container(c, at)...)
		if t := e.TargetContainerName; t != "" && !v.ordinary(t) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), t))
		}
		for _, f := range []struct {
			name string
			set  bool
		}{{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil},
			{"startupProbe", c.StartupProbe != nil}, {"ports", len(c.Ports) > 0}, {"resizePolicy", len(c.ResizePolicy) > 0},
			{"restartPolicy", c.RestartPolicy != nil},
			{"resources", len(c.Resources.Limits)+len(c.Resources.Requests)+len(c.Resources.Claims) > 0}} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "cannot be set for an Ephemeral Container"))
			}
		}
		for j, m := range c.VolumeMounts {
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), "cannot be set for an Ephemeral Container"))
			}
			if m.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), "cannot be set for an Ephemeral Container"))
			}
		}
	}
	return errs
}

func (v *checker) ordinary(name string) bool {
	for _, c := range containers(v.spec) {
		if c.Name == name {
			return true
		}
	}
	return false
}

// container checks what every kind of container has.
func (v *checker) container(c *corev1.Container, at *field.Path) (errs field.ErrorList) {
	add := func(e field.ErrorList) { errs = append(errs, e...) }
	switch {
	case c.Name == "":
		errs = append(errs, field.Required(at.Child("name"), ""))
	case v.names.Has(c.Name):
		errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
	default:
		add(validate.Label(c.Name, at.Child("name")))
	}
	v.names.Insert(c.Name)
	switch {
	case c.Image == "":
		errs = append(errs, field.Required(at.Child("image"), ""))
	case c.Image != strings.TrimSpace(c.Image):
		errs = append(errs, field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	add(validate.OneOf(c.TerminationMessagePolicy, at.Child("terminationMessagePolicy"),
		corev1.TerminationMessageFallbackToLogsOnError, corev1.TerminationMessageReadFile))
	add(containerPorts(c.Ports, at.Child("ports")))
	add(v.env(c.Env, at.Child("env")))
	add(envFrom(c.EnvFrom, at.Child("envFrom")))
	add(v.mounts(c, at.Child("volumeMounts")))
	add(v.devices(c, at.Child("volumeDevices")))
	add(validate.OneOf(c.ImagePullPolicy, at.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever))
	add(ValidateResources(&c.Resources, v.claims(), at.Child("resources")))
	add(resizePolicy(c, at.Child("resizePolicy")))
	add(validateContainerSecurity(c.SecurityContext, at.Child("securityContext")))
	return errs
}

func resizePolicy(c *corev1.Container, path *field.Path) (errs field.ErrorList) {
	seen := sets.New[corev1.ResourceName]()
	for i, p := range c.ResizePolicy {
		at := path.Index(i)
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(at, p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, validate.OneOf(p.ResourceName, at.Child("resourceName"), corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, validate.OneOf(p.RestartPolicy, at.Child("restartPolicy"), corev1.NotRequired, corev1.RestartContainer)...)
	}
	return errs
}

// restart checks a container's own restart policy and its rules.
func (v *checker) restart(c *corev1.Container, at *field.Path, init bool) (errs field.ErrorList) {
	if c.RestartPolicy == nil {
		if len(c.RestartPolicyRules) > 0 {
			errs = append(errs, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
		}
		return errs
	}
	errs = validate.Known(*c.RestartPolicy, at.Child("restartPolicy"), corev1.ContainerRestartPolicyAlways,
		corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	rules := at.Child("restartPolicyRules")
	if init && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && len(c.RestartPolicyRules) > 0 {
		errs = append(errs, field.Forbidden(rules, "restartPolicyRules cannot be set for sidecar containers"))
	}
	if len(c.RestartPolicyRules) > 20 {
		errs = append(errs, field.TooLong(rules, c.RestartPolicyRules, 20))
	}
	for i, r := range c.RestartPolicyRules {
		rule := rules.Index(i)
		errs = append(errs, validate.OneOf(r.Action, rule.Child("action"),
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if r.ExitCodes == nil {
			errs = append(errs, field.Required(rule.Child("exitCodes"), "must be specified"))
			continue
		}
		errs = append(errs, validate.OneOf(r.ExitCodes.Operator, rule.Child("exitCodes", "operator"),
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(r.ExitCodes.Values); n > 255 {
			errs = append(errs, field.TooLong(rule.Child("exitCodes", "values"), r.ExitCodes.Values, 255))
		}
	}
	return errs
}

func containerPorts(ports []corev1.ContainerPort, path *field.Path) (errs field.ErrorList) {
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			msgs := validation.IsValidPortName(p.Name)
			errs = append(errs, validate.Messages(at.Child("name"), p.Name, msgs)...)
			if len(msgs) == 0 && names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, validate.Port(p.ContainerPort, at.Child("containerPort"))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, validate.Port(p.HostPort, at.Child("hostPort"))...)
		}
		errs = append(errs, validate.OneOf(p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if p.HostIP != "" {
			errs = append(errs, legacyIP(p.HostIP, at.Child("hostIP"))...)
		}
	}
	return errs
}

// hostPorts finds ports of the host that are asked for twice.
func hostPorts(c *corev1.Container, seen sets.Set[string], at *field.Path) (errs field.ErrorList) {
	for i, p := range c.Ports {
		if p.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
		if seen.Has(key) {
			errs = append(errs, field.Duplicate(at.Child("ports").Index(i).Child("hostPort"), key))
		}
		seen.Insert(key)
	}
	return errs
}

func (v *checker) claims() sets.Set[string] {
	out := sets.New[string]()
	for _, c := range v.spec.ResourceClaims {
		out.Insert(c.Name)
	}
	return out
}
