package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

func (v *checker) probes(c *corev1.Container, at *field.Path) (errs field.ErrorList) {
	errs = append(errs, v.probe(c.LivenessProbe, at.Child("livenessProbe"), true)...)
	errs = append(errs, v.probe(c.ReadinessProbe, at.Child("readinessProbe"), false)...)
	if p := c.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds,
			"must not be set for readinessProbes"))
	}
	return append(errs, v.probe(c.StartupProbe, at.Child("startupProbe"), true)...)
}

// probe checks a probe; those that can only fail once succeed once.
func (v *checker) probe(p *corev1.Probe, at *field.Path, once bool) (errs field.ErrorList) {
	if p == nil {
		return nil
	}
	errs = v.handler(&corev1.LifecycleHandler{Exec: p.Exec, HTTPGet: p.HTTPGet, TCPSocket: p.TCPSocket}, p.GRPC, at)
	for _, n := range []struct {
		name string
		n    int32
	}{{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold}} {
		errs = append(errs, validate.Count(n.n, at.Child(n.name))...)
	}
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	if once && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	return errs
}

func (v *checker) lifecycle(l *corev1.Lifecycle, at *field.Path) (errs field.ErrorList) {
	if l == nil {
		return nil
	}
	if l.PostStart != nil {
		errs = append(errs, v.handler(l.PostStart, nil, at.Child("postStart"))...)
	}
	if l.PreStop != nil {
		errs = append(errs, v.handler(l.PreStop, nil, at.Child("preStop"))...)
	}
	if l.StopSignal != nil && (v.spec.OS == nil || v.spec.OS.Name == "") {
		errs = append(errs, field.Forbidden(at.Child("stopSignal"), "may not be set for containers with empty `spec.os.name`"))
	}
	return errs
}

// handler checks that exactly one action is there, and that it is sound.
func (v *checker) handler(h *corev1.LifecycleHandler, grpc *corev1.GRPCAction, at *field.Path) (errs field.ErrorList) {
	n := 0
	one := func(name string, check func(*field.Path) field.ErrorList) {
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 handler type"))
			return
		}
		errs = append(errs, check(at.Child(name))...)
	}
	if h.Exec != nil {
		one("exec", func(p *field.Path) field.ErrorList {
			if len(h.Exec.Command) == 0 {
				return field.ErrorList{field.Required(p.Child("command"), "")}
			}
			return nil
		})
	}
	if h.HTTPGet != nil {
		one("httpGet", func(p *field.Path) field.ErrorList { return httpGet(h.HTTPGet, p) })
	}
	if h.TCPSocket != nil {
		one("tcpSocket", func(p *field.Path) field.ErrorList { return validate.PortOrName(h.TCPSocket.Port, p.Child("port")) })
	}
	if grpc != nil {
		one("grpc", func(p *field.Path) field.ErrorList { return validate.Port(grpc.Port, p.Child("port")) })
	}
	if h.Sleep != nil {
		one("sleep", func(p *field.Path) field.ErrorList {
			if s := h.Sleep.Seconds; s < 0 || s > v.grace {
				return field.ErrorList{field.Invalid(p, s, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", v.grace))}
			}
			return nil
		})
	}
	if n == 0 {
		errs = append(errs, field.Required(at, "must specify a handler type"))
	}
	return errs
}

func httpGet(h *corev1.HTTPGetAction, at *field.Path) (errs field.ErrorList) {
	errs = validate.Given(h.Path, at.Child("path"))
	errs = append(errs, validate.PortOrName(h.Port, at.Child("port"))...)
	errs = append(errs, validate.Known(h.Scheme, at.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range h.HTTPHeaders {
		errs = append(errs, validate.Messages(at.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))...)
	}
	return errs
}
