package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/kinds/fill"
)

// sameClusterIP keeps clusterIP and clusterIPs[0] the same when only one is given.
func sameClusterIP(s *corev1.ServiceSpec) {
	switch {
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		s.ClusterIPs = []string{s.ClusterIP}
	case s.ClusterIP == "" && len(s.ClusterIPs) > 0:
		s.ClusterIP = s.ClusterIPs[0]
	}
}

// prepareService keeps what an update leaves out because it cannot know it (the
// addresses and node ports that the server gave), and drops what the new type
// no longer has.
func prepareService(s, old *corev1.Service) {
	if old == nil {
		s.Status = corev1.ServiceStatus{}
	} else {
		s.Status = old.Status
		keepClusterIPs(&s.Spec, &old.Spec)
		keepNodePorts(&s.Spec, &old.Spec)
		dropOldType(&s.Spec, &old.Spec)
	}
	defaultFamilies(&s.Spec)
}

// defaultFamilies gives a service that does not say otherwise one address, of
// the family of the one it names, or else IPv4.
func defaultFamilies(s *corev1.ServiceSpec) {
	if !hasClusterIP(s) {
		return
	}
	fill.Nil(&s.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	if len(s.IPFamilies) > 0 {
		return
	}
	s.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	if s.ClusterIP != corev1.ClusterIPNone && s.ClusterIP != "" {
		s.IPFamilies[0] = familyOf(s.ClusterIP)
	}
}

func hasClusterIP(s *corev1.ServiceSpec) bool { return s.Type != corev1.ServiceTypeExternalName }

func hasNodePorts(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer
}

func keepClusterIPs(s, old *corev1.ServiceSpec) {
	if !hasClusterIP(s) || !hasClusterIP(old) {
		return
	}
	// A caller that clears or sets only one of the two means both.
	if s.ClusterIP != old.ClusterIP && slices.Equal(s.ClusterIPs, old.ClusterIPs) {
		s.ClusterIPs = nil
		sameClusterIP(s)
	}
	if s.ClusterIP == "" {
		s.ClusterIP = old.ClusterIP
	}
	if len(s.ClusterIPs) == 0 && s.ClusterIP == old.ClusterIP {
		s.ClusterIPs = old.ClusterIPs
	}
	if len(s.IPFamilies) == 0 {
		s.IPFamilies = old.IPFamilies
	}
	if s.IPFamilyPolicy == nil {
		s.IPFamilyPolicy = old.IPFamilyPolicy
	}
}

func keepNodePorts(s, old *corev1.ServiceSpec) {
	if !hasNodePorts(s) || !hasNodePorts(old) {
		return
	}
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	used, had := map[key]bool{}, map[key]int32{}
	for _, p := range s.Ports {
		used[key{p.Protocol, p.NodePort}] = true
	}
	for _, p := range old.Ports {
		had[key{p.Protocol, p.Port}] = p.NodePort
	}
	if len(s.Ports) == 1 && len(old.Ports) == 1 && s.Ports[0].Protocol == old.Ports[0].Protocol && s.Ports[0].NodePort == 0 {
		s.Ports[0].NodePort = old.Ports[0].NodePort
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if n := had[key{p.Protocol, p.Port}]; p.NodePort == 0 && n != 0 && !used[key{p.Protocol, n}] {
			p.NodePort = n
			used[key{p.Protocol, n}] = true
		}
	}
	if s.HealthCheckNodePort == 0 && wantsHealthCheck(s) && wantsHealthCheck(old) {
		s.HealthCheckNodePort = old.HealthCheckNodePort
	}
}

func wantsHealthCheck(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// dropOldType clears the fields that only the old type had, where the caller
// left them as they were.
func dropOldType(s, old *corev1.ServiceSpec) {
	if hasClusterIP(old) && !hasClusterIP(s) {
		if s.ClusterIP == old.ClusterIP {
			s.ClusterIP, s.ClusterIPs = "", nil
		}
		if slices.Equal(s.IPFamilies, old.IPFamilies) {
			s.IPFamilies = nil
		}
		if s.IPFamilyPolicy != nil && old.IPFamilyPolicy != nil && *s.IPFamilyPolicy == *old.IPFamilyPolicy {
			s.IPFamilyPolicy = nil
		}
		if s.InternalTrafficPolicy != nil && old.InternalTrafficPolicy != nil && *s.InternalTrafficPolicy == *old.InternalTrafficPolicy {
			s.InternalTrafficPolicy = nil
		}
	}
	if hasNodePorts(old) && !hasNodePorts(s) {
		had := map[int32]bool{}
		for _, p := range old.Ports {
			had[p.NodePort] = true
		}
		for i := range s.Ports {
			if had[s.Ports[i].NodePort] {
				s.Ports[i].NodePort = 0
			}
		}
		if len(s.ExternalIPs) == 0 && s.ExternalTrafficPolicy == old.ExternalTrafficPolicy {
			s.ExternalTrafficPolicy = ""
		}
	}
	if wantsHealthCheck(old) && !wantsHealthCheck(s) && s.HealthCheckNodePort == old.HealthCheckNodePort {
		s.HealthCheckNodePort = 0
	}
	if old.Type == corev1.ServiceTypeLoadBalancer && s.Type != corev1.ServiceTypeLoadBalancer {
		s.AllocateLoadBalancerNodePorts, s.LoadBalancerClass = nil, nil
		if s.LoadBalancerIP == old.LoadBalancerIP {
			s.LoadBalancerIP = ""
		}
	}
	if old.Type == corev1.ServiceTypeExternalName && s.Type != corev1.ServiceTypeExternalName && s.ExternalName == old.ExternalName {
		s.ExternalName = ""
	}
}
