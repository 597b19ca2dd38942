package admit

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// serviceAddresses gives services their cluster addresses and node ports. What
// is taken is what the services in the state have, and what writes under way
// have reserved; so nothing is lost in a crash and nothing has to be repaired.
func serviceAddresses(c Settings) *Step {
	s := &services{addresses: newAddresses(c.Services, c.Chance), ports: newPorts(c.NodePorts, c.Chance)}
	return &Step{
		Name: "ServiceAddresses", For: []string{"services"}, Verbs: []api.Verb{api.Create, api.Update},
		Reserve: s.reserve,
		Follow:  map[schema.GroupResource]func(old, new api.Object){corev1.Resource("services"): s.follow},
	}
}

type services struct {
	addresses *pool[netip.Addr]
	ports     *pool[int32]
}

func (s *services) follow(old, new api.Object) {
	if o, ok := old.(*corev1.Service); ok {
		s.addresses.put(addressesOf(o))
		s.ports.put(portsOf(o))
	}
	if n, ok := new.(*corev1.Service); ok {
		s.addresses.took(addressesOf(n))
		s.ports.took(portsOf(n))
	}
}

// addressesOf is every cluster address that a service has.
func addressesOf(s *corev1.Service) (out []netip.Addr) {
	if s == nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// portsOf is every node port that a service has, each once.
func portsOf(s *corev1.Service) (out []int32) {
	if s == nil {
		return nil
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, p.NodePort)
		}
	}
	if s.Spec.HealthCheckNodePort != 0 {
		out = append(out, s.Spec.HealthCheckNodePort)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// reserve fills in the addresses and ports that a service lacks and checks
// those that it asks for.
func (s *services) reserve(_ context.Context, a *Attributes) (func(bool), error) {
	svc := a.New.(*corev1.Service)
	old, _ := a.Old.(*corev1.Service)
	r := &reservation{s: s, svc: svc, old: old}
	errs := r.families()
	if len(errs) == 0 {
		errs = append(r.clusterIPs(), r.nodePorts()...)
	}
	if r.full != nil {
		return r.release, apierrors.NewInternalError(r.full)
	}
	if len(errs) > 0 {
		return r.release, apierrors.NewInvalid(a.Resource.GroupKind(), a.Name, errs)
	}
	return r.release, nil
}

// A reservation is what one write has taken beyond what its service had.
type reservation struct {
	s         *services
	svc, old  *corev1.Service
	addresses []netip.Addr
	ports     []int32
	full      error // there is nothing left to give: no fault of the service
}

func (r *reservation) release(bool) {
	r.s.addresses.release(r.addresses)
	r.s.ports.release(r.ports)
}

var spec = field.NewPath("spec")

// families fills in ipFamilies and ipFamilyPolicy for a cluster with IPv4 addresses.
func (r *reservation) families() (errs field.ErrorList) {
	s := &r.svc.Spec
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	own, other := corev1.IPv4Protocol, corev1.IPv6Protocol
	if r.s.addresses.v6 {
		own, other = other, own
	}
	free := s.ClusterIP == corev1.ClusterIPNone && len(s.Selector) == 0 // its addresses are its owner's affair
	if s.IPFamilyPolicy == nil {
		s.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
		if free && len(s.IPFamilies) != 1 || len(s.IPFamilies) > 1 {
			s.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
		}
	}
	if len(s.IPFamilies) == 0 {
		s.IPFamilies = []corev1.IPFamily{own}
	}
	if free {
		if *s.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(s.IPFamilies) == 1 {
			second := other
			if s.IPFamilies[0] == other {
				second = own
			}
			s.IPFamilies = append(s.IPFamilies, second)
		}
		return nil
	}
	if *s.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), *s.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.IPFamilies {
		if f == other {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return errs
}

func (r *reservation) clusterIPs() field.ErrorList {
	s := &r.svc.Spec
	if s.Type == corev1.ServiceTypeExternalName || s.ClusterIP == corev1.ClusterIPNone {
		if s.ClusterIP == corev1.ClusterIPNone && len(s.ClusterIPs) == 0 {
			s.ClusterIPs = []string{corev1.ClusterIPNone}
		}
		return nil
	}
	if s.ClusterIP == "" && len(s.ClusterIPs) == 0 {
		ip, err := r.s.addresses.any()
		if err != nil {
			r.full = fmt.Errorf("failed to allocate a serviceIP: %w", err)
			return nil
		}
		r.addresses = append(r.addresses, ip)
		s.ClusterIP, s.ClusterIPs = ip.String(), []string{ip.String()}
		return nil
	}
	if len(s.ClusterIPs) == 0 {
		s.ClusterIPs = []string{s.ClusterIP}
	}
	had := addressesOf(r.old)
	for _, v := range s.ClusterIPs {
		ip, err := netip.ParseAddr(v)
		if err != nil {
			return nil // the kind's validation says so
		}
		if slices.Contains(had, ip) {
			continue
		}
		if err := r.s.addresses.take(ip); err != nil {
			return field.ErrorList{field.Invalid(spec.Child("clusterIPs"), s.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", v, err))}
		}
		r.addresses = append(r.addresses, ip)
	}
	return nil
}

// wantsNodePorts says whether a service without node ports is to get some.
func wantsNodePorts(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort ||
		s.Type == corev1.ServiceTypeLoadBalancer && (s.AllocateLoadBalancerNodePorts == nil || *s.AllocateLoadBalancerNodePorts)
}

func (r *reservation) nodePorts() (errs field.ErrorList) {
	s := &r.svc.Spec
	if s.Type != corev1.ServiceTypeNodePort && s.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	have := portsOf(r.old)
	take := func(port int32, at *field.Path) {
		if slices.Contains(have, port) {
			return
		}
		if err := r.s.ports.take(port); err != nil {
			errs = append(errs, field.Invalid(at, port, err.Error()))
			return
		}
		r.ports, have = append(r.ports, port), append(have, port)
	}
	for i, p := range s.Ports {
		if p.NodePort != 0 {
			take(p.NodePort, spec.Child("ports").Index(i).Child("nodePort"))
		}
	}
	if s.HealthCheckNodePort != 0 {
		take(s.HealthCheckNodePort, spec.Child("healthCheckNodePort"))
	}
	if len(errs) > 0 {
		return errs
	}
	for i := range s.Ports {
		if p := &s.Ports[i]; p.NodePort == 0 && wantsNodePorts(s) {
			if p.NodePort = sharedPort(s.Ports, p); p.NodePort == 0 {
				p.NodePort = r.anyPort()
			}
		}
	}
	if s.HealthCheckNodePort == 0 && s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		s.HealthCheckNodePort = r.anyPort()
	}
	return errs
}

func (r *reservation) anyPort() int32 {
	port, err := r.s.ports.any()
	if err != nil {
		r.full = fmt.Errorf("failed to allocate a nodePort: %w", err)
		return 0
	}
	r.ports = append(r.ports, port)
	return port
}

// sharedPort is the node port that the same port has for another protocol, if
// it is not taken for this one.
func sharedPort(ports []corev1.ServicePort, p *corev1.ServicePort) int32 {
	for _, q := range ports {
		if q.Port != p.Port || q.Protocol == p.Protocol || q.NodePort == 0 {
			continue
		}
		taken := slices.ContainsFunc(ports, func(o corev1.ServicePort) bool { return o.NodePort == q.NodePort && o.Protocol == p.Protocol })
		if !taken {
			return q.NodePort
		}
	}
	return 0
}
