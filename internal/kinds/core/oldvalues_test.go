package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestOldValues checks that objects with addresses that are not allowed any more,
// which a store may hold from earlier times, can still be written as long as the
// addresses stay.
func TestOldValues(t *testing.T) {
	const bad, other = "010.0.0.1", "010.0.0.2"
	service := func(ip string) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: []string{ip}, Type: corev1.ServiceTypeLoadBalancer,
			LoadBalancerSourceRanges: []string{ip + "/8"}, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
		defaultService(s)
		return s
	}
	old := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: bad}}}}}
	changed := old.DeepCopy()
	changed.Subsets[0].Addresses[0].IP = other
	node, moved := &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: bad + "/8", PodCIDRs: []string{bad + "/8"}}}, &corev1.Node{}
	moved.Spec = corev1.NodeSpec{PodCIDR: other + "/8", PodCIDRs: []string{other + "/8"}}
	balanced := func(ip string) *corev1.Service {
		s := service(bad)
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
		return s
	}
	for name, errs := range map[string][2]field.ErrorList{
		"service":   {validateService(service(bad), service(bad)), validateService(service(other), service(bad))},
		"status":    {validateServiceStatus(balanced(bad), balanced(bad)), validateServiceStatus(balanced(other), balanced(bad))},
		"endpoints": {validateEndpoints(old, old), validateEndpoints(changed, old)},
		"node":      {validateNode(node, node), validateNode(moved, node)},
	} {
		if len(errs[0]) > 0 {
			t.Errorf("%s as it was: %v", name, errs[0].ToAggregate())
		}
		if len(errs[1]) == 0 {
			t.Errorf("%s: another bad address is allowed", name)
		}
	}
}
