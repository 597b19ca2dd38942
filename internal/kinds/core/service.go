package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/fill"
)

// Service is a name and an address for a set of pods. Its cluster addresses and
// node ports are given by the server's wiring between Prepare and Validate.
var Service = &api.Kind[*corev1.Service]{
	API: "v1", Resource: "services", Scope: api.Namespaced, Short: []string{"svc"}, Categories: []string{"all"},
	Columns: []api.Column[*corev1.Service]{
		api.Col("Type", func(s *corev1.Service) string { return string(s.Spec.Type) }),
		api.Col("Cluster-IP", func(s *corev1.Service) string { return orNone(s.Spec.ClusterIP) }),
		api.Col("External-IP", serviceExternal),
		api.Col("Port(s)", servicePorts),
		api.Wide("Selector", func(s *corev1.Service) string {
			return metav1.FormatLabelSelector(metav1.SetAsLabelSelector(s.Spec.Selector))
		}),
	},
	Fields: map[string]func(*corev1.Service) string{
		"spec.clusterIP": func(s *corev1.Service) string { return s.Spec.ClusterIP },
		"spec.type":      func(s *corev1.Service) string { return string(s.Spec.Type) },
	},
	Name:           apivalidation.NameIsDNSLabel, // since 1.37, KEP-5311
	Default:        defaultService,
	Prepare:        prepareService,
	Validate:       validateService,
	Warn:           warnService,
	Status:         true,
	PrepareStatus:  func(s, old *corev1.Service) { s.Spec = old.Spec },
	ValidateStatus: validateServiceStatus,
	Ungenerated:    true,
	CreateOnUpdate: true,
	Sub: map[string]*api.Sub{
		"proxy": {Verbs: []api.Verb{api.Create, api.Delete, api.Get, api.Patch, api.Update}, Kind: "ServiceProxyOptions", Connect: true},
	},
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	fill.Zero(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	if spec.SessionAffinity == corev1.ServiceAffinityNone {
		spec.SessionAffinityConfig = nil
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			seconds := corev1.DefaultClientIPServiceAffinitySeconds
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
	}
	fill.Zero(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		fill.Zero(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	external := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer ||
		(spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0)
	if external {
		fill.Zero(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		fill.Nil(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		fill.Nil(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
				fill.Nil(&in.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
	sameClusterIP(spec)
}

func serviceExternal(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var out []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				out = append(out, in.IP)
			} else if in.Hostname != "" {
				out = append(out, in.Hostname)
			}
		}
		slices.Sort(out)
		out = slices.Compact(out)
		if len(out) == 0 && len(s.Spec.ExternalIPs) == 0 {
			return "<pending>"
		}
		return strings.Join(append(out, s.Spec.ExternalIPs...), ",")
	}
	return "<unknown>"
}

func servicePorts(s *corev1.Service) string {
	out := make([]string, len(s.Spec.Ports))
	for i, p := range s.Spec.Ports {
		out[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			out[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return orNone(strings.Join(out, ","))
}
