package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a container's restart rules may hold.
const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

// restart checks a container's own restart policy and its rules.
func (v *checker) restart(c *corev1.Container, at *field.Path) {
	if c.RestartPolicy == nil {
		if len(c.RestartPolicyRules) > 0 {
			v.add(field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
		}
	} else {
		known(v, c.RestartPolicy, at, "restartPolicy", corev1.ContainerRestartPolicyAlways,
			corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	}
	if len(c.RestartPolicyRules) > maxRestartRules {
		v.add(field.TooLong(at.Child("restartPolicyRules"), c.RestartPolicyRules, maxRestartRules))
	}
	for i := range c.RestartPolicyRules {
		r, rule := &c.RestartPolicyRules[i], at.Child("restartPolicyRules").Index(i)
		known(v, &r.Action, rule, "action", corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if r.ExitCodes == nil {
			v.add(field.Required(rule.Child("exitCodes"), "must be specified"))
			continue
		}
		codes := rule.Child("exitCodes")
		known(v, &r.ExitCodes.Operator, codes, "operator", corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if len(r.ExitCodes.Values) > maxExitCodes {
			v.add(field.TooLong(codes.Child("values"), r.ExitCodes.Values, maxExitCodes))
		}
	}
}

func (v *checker) resizePolicy(list []corev1.ContainerResizePolicy, at *field.Path) {
	for i := range list {
		p, path := &list[i], at.Child("resizePolicy")
		if slices.ContainsFunc(list[:i], func(o corev1.ContainerResizePolicy) bool { return o.ResourceName == p.ResourceName }) {
			v.add(field.Duplicate(path.Index(i), p.ResourceName))
		}
		oneOf(v, p.ResourceName, at, "resizePolicy", corev1.ResourceCPU, corev1.ResourceMemory)
		oneOf(v, p.RestartPolicy, at, "resizePolicy", corev1.NotRequired, corev1.RestartContainer)
		if v.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			v.add(field.Invalid(path, p.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'"))
		}
	}
}

// windowsSignals and linuxSignals are the signals that can stop a container.
var (
	windowsSignals = []corev1.Signal{corev1.SIGKILL, corev1.SIGTERM}
	linuxSignals   = []corev1.Signal{corev1.SIGABRT, corev1.SIGALRM, corev1.SIGBUS, corev1.SIGCHLD, corev1.SIGCLD, corev1.SIGCONT,
		corev1.SIGFPE, corev1.SIGHUP, corev1.SIGILL, corev1.SIGINT, corev1.SIGIO, corev1.SIGIOT, corev1.SIGKILL, corev1.SIGPIPE,
		corev1.SIGPOLL, corev1.SIGPROF, corev1.SIGPWR, corev1.SIGQUIT, corev1.SIGRTMAX, corev1.SIGRTMAXMINUS1, corev1.SIGRTMAXMINUS10,
		corev1.SIGRTMAXMINUS11, corev1.SIGRTMAXMINUS12, corev1.SIGRTMAXMINUS13, corev1.SIGRTMAXMINUS14, corev1.SIGRTMAXMINUS2,
		corev1.SIGRTMAXMINUS3, corev1.SIGRTMAXMINUS4, corev1.SIGRTMAXMINUS5, corev1.SIGRTMAXMINUS6, corev1.SIGRTMAXMINUS7,
		corev1.SIGRTMAXMINUS8, corev1.SIGRTMAXMINUS9, corev1.SIGRTMIN, corev1.SIGRTMINPLUS1, corev1.SIGRTMINPLUS10,
		corev1.SIGRTMINPLUS11, corev1.SIGRTMINPLUS12, corev1.SIGRTMINPLUS13, corev1.SIGRTMINPLUS14, corev1.SIGRTMINPLUS15,
		corev1.SIGRTMINPLUS2, corev1.SIGRTMINPLUS3, corev1.SIGRTMINPLUS4, corev1.SIGRTMINPLUS5, corev1.SIGRTMINPLUS6,
		corev1.SIGRTMINPLUS7, corev1.SIGRTMINPLUS8, corev1.SIGRTMINPLUS9, corev1.SIGSEGV, corev1.SIGSTKFLT, corev1.SIGSTOP,
		corev1.SIGSYS, corev1.SIGTERM, corev1.SIGTRAP, corev1.SIGTSTP, corev1.SIGTTIN, corev1.SIGTTOU, corev1.SIGURG, corev1.SIGUSR1,
		corev1.SIGUSR2, corev1.SIGVTALRM, corev1.SIGWINCH, corev1.SIGXCPU, corev1.SIGXFSZ}
)

// stopSignal checks the signal that stops a container: which there are depends on the system.
func (v *checker) stopSignal(s *corev1.Signal, at *field.Path) {
	switch v.os() {
	case "":
		v.add(field.Forbidden(at.Child("stopSignal"), "may not be set for containers with empty `spec.os.name`"))
	case corev1.Windows:
		known(v, s, at, "stopSignal", windowsSignals...)
	case corev1.Linux:
		known(v, s, at, "stopSignal", linuxSignals...)
	}
}
