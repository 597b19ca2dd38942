package core

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"proa/internal/kinds/validate"
)

// kubeletPort is where a node's own API listens.
const kubeletPort = 10250

func validateService(s, old *corev1.Service) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	spec := &s.Spec
	add(validate.OneOf(spec.Type, specPath.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	headless := len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == corev1.ClusterIPNone
	if len(spec.Ports) == 0 && !headless && spec.Type != corev1.ServiceTypeExternalName {
		add(field.Required(specPath.Child("ports"), ""))
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		for i, p := range spec.Ports {
			if p.Port == kubeletPort && spec.Type == corev1.ServiceTypeLoadBalancer {
				add(field.Invalid(specPath.Child("ports").Index(i), p.Port, fmt.Sprintf("may not expose port %v externally since it is used by kubelet", kubeletPort)))
			}
		}
		if headless {
			add(field.Invalid(specPath.Child("clusterIPs").Index(0), corev1.ClusterIPNone, fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		if len(spec.ClusterIPs) > 0 {
			add(field.Forbidden(specPath.Child("clusterIPs"), "may not be set for ExternalName services"))
		}
		if name := strings.TrimSuffix(spec.ExternalName, "."); name == "" {
			add(field.Required(specPath.Child("externalName"), ""))
		} else {
			add(validate.Subdomain(name, specPath.Child("externalName"))...)
		}
	}
	add(validateServicePorts(spec, specPath.Child("ports"))...)
	add(metavalidation.ValidateLabels(spec.Selector, specPath.Child("selector"))...)
	add(validateAffinityOf(spec)...)
	var was []string // what was allowed once may stay as it is
	if old != nil {
		was = old.Spec.ExternalIPs
	}
	for i, ip := range spec.ExternalIPs {
		at := specPath.Child("externalIPs").Index(i)
		if e := validation.IsValidIPForLegacyField(at, ip, true, was); len(e) > 0 {
			add(e...)
		} else if !slices.Contains(was, ip) {
			add(NonSpecialIP(ip, at)...)
		}
	}
	add(validateFamilies(spec, old)...)
	add(validateTraffic(spec)...)
	add(validateBalancer(s, old)...)
	if old != nil && old.Spec.Type == corev1.ServiceTypeLoadBalancer && spec.Type == corev1.ServiceTypeLoadBalancer &&
		!ptr.Equal(spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		add(field.Invalid(specPath.Child("loadBalancerClass"), spec.LoadBalancerClass, "may not change once set"))
	}
	if old != nil && wantsHealthCheck(spec) && wantsHealthCheck(&old.Spec) && spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		add(field.Forbidden(specPath.Child("healthCheckNodePort"), "field is immutable"))
	}
	return errs
}

func validateServicePorts(spec *corev1.ServiceSpec, path *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	names, ports, nodes := map[string]bool{}, map[key]bool{}, map[key]bool{}
	for i := range spec.Ports {
		p, at := &spec.Ports[i], path.Index(i)
		switch {
		case p.Name == "" && len(spec.Ports) > 1:
			add(field.Required(at.Child("name"), ""))
		case p.Name != "":
			add(validate.Label(p.Name, at.Child("name"))...)
			if names[p.Name] {
				add(field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		add(validate.Port(p.Port, at.Child("port"))...)
		add(validate.OneOf(p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		add(validate.PortOrName(p.TargetPort, at.Child("targetPort"))...)
		if p.AppProtocol != nil {
			add(validate.Qualified(*p.AppProtocol, at.Child("appProtocol"))...)
		}
		if p.NodePort < 0 || p.NodePort > 65535 {
			add(validate.Port(p.NodePort, at.Child("nodePort"))...)
		}
		if p.NodePort != 0 {
			if spec.Type == corev1.ServiceTypeClusterIP || spec.Type == corev1.ServiceTypeExternalName {
				add(field.Forbidden(at.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", spec.Type)))
			}
			if nodes[key{p.Protocol, p.NodePort}] {
				add(field.Duplicate(at.Child("nodePort"), p.NodePort))
			}
			nodes[key{p.Protocol, p.NodePort}] = true
		}
		if ports[key{p.Protocol, p.Port}] {
			add(field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		ports[key{p.Protocol, p.Port}] = true
	}
	return errs
}

// maxAffinitySeconds is a day.
const maxAffinitySeconds = 86400

func validateAffinityOf(spec *corev1.ServiceSpec) (errs field.ErrorList) {
	errs = validate.OneOf(spec.SessionAffinity, specPath.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at := specPath.Child("sessionAffinityConfig")
	c := spec.SessionAffinityConfig
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			errs = append(errs, field.Required(at, "when session affinity type is ClientIP"))
		} else if n := *c.ClientIP.TimeoutSeconds; n <= 0 || n > maxAffinitySeconds {
			errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), n, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds)))
		}
	case corev1.ServiceAffinityNone:
		if c != nil {
			errs = append(errs, field.Forbidden(at, "must not be set when session affinity is None"))
		}
	}
	return errs
}

// NonSpecialIP checks that an address is one that a pod or a host could have.
func NonSpecialIP(s string, at *field.Path) field.ErrorList {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return field.ErrorList{field.Invalid(at, s, "must be a valid IP address")}
	}
	switch ip = ip.Unmap(); {
	case ip.IsUnspecified():
		return field.ErrorList{field.Invalid(at, s, "may not be unspecified (0.0.0.0 or ::)")}
	case ip.IsLoopback():
		return field.ErrorList{field.Invalid(at, s, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case ip.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(at, s, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case ip.IsLinkLocalMulticast():
		return field.ErrorList{field.Invalid(at, s, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")}
	}
	return nil
}

// validateTraffic checks which endpoints traffic may reach.
func validateTraffic(spec *corev1.ServiceSpec) (errs field.ErrorList) {
	external := hasNodePorts(spec) || spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
	at := specPath.Child("externalTrafficPolicy")
	switch p := spec.ExternalTrafficPolicy; {
	case !external && p != "":
		errs = append(errs, field.Invalid(at, p, "may only be set for externally-accessible services"))
	case external && p == "":
		errs = append(errs, field.Required(at, ""))
	case external:
		errs = append(errs, validate.Known(p, at, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	}
	health := specPath.Child("healthCheckNodePort")
	if n := spec.HealthCheckNodePort; n < 0 {
		errs = append(errs, validate.Count(n, health)...)
	} else if n > 0 && !wantsHealthCheck(spec) {
		errs = append(errs, field.Invalid(health, n, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		in := specPath.Child("internalTrafficPolicy")
		if spec.InternalTrafficPolicy == nil {
			errs = append(errs, field.Required(in, ""))
		} else {
			errs = append(errs, validate.Known(*spec.InternalTrafficPolicy, in, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
		}
	}
	if d := spec.TrafficDistribution; d != nil {
		errs = append(errs, validate.Known(*d, specPath.Child("trafficDistribution"), corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

const onlyBalancer = "may only be used when `type` is 'LoadBalancer'"

// validateSourceRanges checks who may reach a load balancer, as the field says
// or, without it, the older annotation. The path begins with a capital in
// Kubernetes too.
func validateSourceRanges(s, old *corev1.Service) (errs field.ErrorList) {
	var was []string
	if old != nil {
		was = old.Spec.LoadBalancerSourceRanges
	}
	ranges, at := s.Spec.LoadBalancerSourceRanges, specPath.Child("LoadBalancerSourceRanges")
	text, annotated := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	annotated = annotated && len(ranges) == 0
	if annotated {
		at = field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
		if text = strings.TrimSpace(text); text != "" {
			ranges = strings.Split(text, ",")
		}
	}
	if (annotated || len(ranges) > 0) && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(at, onlyBalancer))
	}
	for i, r := range ranges {
		p := at
		if !annotated {
			p = at.Index(i)
		}
		errs = append(errs, validation.IsValidCIDRForLegacyField(p, strings.TrimSpace(r), true, was)...)
	}
	return errs
}

// validateBalancer checks what only load balancers have.
func validateBalancer(s, old *corev1.Service) (errs field.ErrorList) {
	spec := &s.Spec
	balancer := spec.Type == corev1.ServiceTypeLoadBalancer
	errs = validateSourceRanges(s, old)
	at := specPath.Child("allocateLoadBalancerNodePorts")
	if balancer && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(at, ""))
	}
	if !balancer && spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(at, onlyBalancer))
	}
	if c := spec.LoadBalancerClass; c != nil {
		if !balancer {
			errs = append(errs, field.Forbidden(specPath.Child("loadBalancerClass"), onlyBalancer))
		}
		errs = append(errs, validate.Qualified(*c, specPath.Child("loadBalancerClass"))...)
	}
	return errs
}

func validateServiceStatus(s, old *corev1.Service) (errs field.ErrorList) {
	path := field.NewPath("status", "loadBalancer", "ingress")
	if len(s.Status.LoadBalancer.Ingress) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return append(errs, field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'"))
	}
	var was []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		was = append(was, in.IP)
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		at := path.Index(i)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, was)...)
		}
		if in.IPMode != nil {
			if in.IP == "" {
				errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
			}
			errs = append(errs, validate.Known(*in.IPMode, at.Child("ipMode"), corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		if in.Hostname != "" {
			errs = append(errs, validate.Subdomain(in.Hostname, at.Child("hostname"))...)
			if _, err := netip.ParseAddr(in.Hostname); err == nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

func warnService(s, _ *corev1.Service) (out []string) {
	spec := &s.Spec
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		out = append(out, "annotation "+corev1.DeprecatedAnnotationTopologyAwareHints+" is deprecated, please use "+corev1.AnnotationTopologyMode+" instead")
	}
	if spec.Type == corev1.ServiceTypeClusterIP && spec.ClusterIP == corev1.ClusterIPNone {
		for _, f := range []struct {
			name string
			set  bool
		}{{"loadBalancerIP", spec.LoadBalancerIP != ""}, {"externalIPs", len(spec.ExternalIPs) > 0},
			{"SessionAffinity", spec.SessionAffinity != corev1.ServiceAffinityNone}} {
			if f.set {
				out = append(out, "spec."+f.name+" is ignored for headless services")
			}
		}
	}
	for i, ip := range spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			out = append(out, validation.GetWarningsForIP(specPath.Child("clusterIPs").Index(i), ip)...)
		}
	}
	for i, ip := range spec.ExternalIPs {
		out = append(out, validation.GetWarningsForIP(specPath.Child("externalIPs").Index(i), ip)...)
	}
	for i, r := range spec.LoadBalancerSourceRanges {
		out = append(out, validation.GetWarningsForCIDR(specPath.Child("loadBalancerSourceRanges").Index(i), r)...)
	}
	if spec.LoadBalancerIP != "" {
		out = append(out, validation.GetWarningsForIP(specPath.Child("loadBalancerIP"), spec.LoadBalancerIP)...)
	}
	named := spec.Type == corev1.ServiceTypeExternalName
	if named && len(spec.ExternalIPs) > 0 {
		out = append(out, `spec.externalIPs is ignored when spec.type is "ExternalName"`)
	}
	if !named && spec.ExternalName != "" {
		out = append(out, `spec.externalName is ignored when spec.type is not "ExternalName"`)
	}
	if d := spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		out = append(out, fmt.Sprintf("spec.trafficDistribution: %q is deprecated; use %q", corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return out
}
