package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

func (v *checker) probes(c *corev1.Container, at *field.Path) {
	if p := c.LivenessProbe; p != nil {
		v.probe(p, at.Child("livenessProbe"), true)
	}
	if p := c.ReadinessProbe; p != nil {
		v.probe(p, at.Child("readinessProbe"), false)
		if g := p.TerminationGracePeriodSeconds; g != nil {
			v.add(field.Invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), *g, "must not be set for readinessProbes"))
		}
	}
	if p := c.StartupProbe; p != nil {
		v.probe(p, at.Child("startupProbe"), true)
	}
}

// probe checks a probe; those that can only fail once succeed once.
func (v *checker) probe(p *corev1.Probe, at *field.Path, once bool) {
	v.handler(&corev1.LifecycleHandler{Exec: p.Exec, HTTPGet: p.HTTPGet, TCPSocket: p.TCPSocket}, p.GRPC, at)
	for _, n := range [...]struct {
		name string
		n    int32
	}{{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold}} {
		if n.n < 0 {
			v.add(field.Invalid(at.Child(n.name), int64(n.n), apivalidation.IsNegativeErrorMsg))
		}
	}
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		v.add(field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	if once && p.SuccessThreshold != 1 {
		v.add(field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
}

func (v *checker) lifecycle(l *corev1.Lifecycle, at *field.Path) {
	if l == nil {
		return
	}
	at = at.Child("lifecycle")
	if l.PostStart != nil {
		v.handler(l.PostStart, nil, at.Child("postStart"))
	}
	if l.PreStop != nil {
		v.handler(l.PreStop, nil, at.Child("preStop"))
	}
	if l.StopSignal != nil {
		v.stopSignal(l.StopSignal, at)
	}
}

// handler checks that exactly one action is there, and that it is sound.
func (v *checker) handler(h *corev1.LifecycleHandler, grpc *corev1.GRPCAction, at *field.Path) {
	n := 0
	first := func(there bool, name string) bool {
		if there {
			if n++; n > 1 {
				v.add(field.Forbidden(at.Child(name), "may not specify more than 1 handler type"))
			}
		}
		return there && n == 1
	}
	if first(h.Exec != nil, "exec") && len(h.Exec.Command) == 0 {
		v.add(field.Required(at.Child("exec", "command"), ""))
	}
	if first(h.HTTPGet != nil, "httpGet") {
		v.httpGet(h.HTTPGet, at.Child("httpGet"))
	}
	if first(h.TCPSocket != nil, "tcpSocket") {
		v.add(validate.PortOrName(h.TCPSocket.Port, at.Child("tcpSocket", "port"))...)
	}
	if first(grpc != nil, "grpc") {
		v.add(validate.Port(grpc.Port, at.Child("grpc", "port"))...)
		known(v, grpc.Mode, at.Child("grpc"), "mode", corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS)
	}
	if first(h.Sleep != nil, "sleep") {
		grace := v.spec.TerminationGracePeriodSeconds
		if s := h.Sleep.Seconds; grace != nil && (s < 0 || s > *grace) {
			v.add(field.Invalid(at.Child("sleep"), s, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace)))
		}
	}
	if n == 0 {
		v.add(field.Required(at, "must specify a handler type"))
	}
}

func (v *checker) httpGet(h *corev1.HTTPGetAction, at *field.Path) {
	v.given(h.Path, at, "path")
	v.add(validate.PortOrName(h.Port, at.Child("port"))...)
	known(v, &h.Scheme, at, "scheme", corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, header := range h.HTTPHeaders {
		if !validate.IsHeaderName(header.Name) {
			said(v, at.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))
		}
	}
	known(v, h.Protocol, at, "protocol", corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2)
}
