package system

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/kinds/core"
	"proa/internal/kinds/flowcontrol"
)

// bootstrap creates what every cluster starts with.
func (s *system) bootstrap(ctx context.Context, p *plane) error {
	return p.EnsureDefaults(ctx, apiserver.Defaults{
		API:         netip.AddrPortFrom(s.address, uint16(s.Ports.API)),
		ServiceIP:   nth(s.id.ServiceCIDR, 1),
		ServiceCIDR: s.id.ServiceCIDR,
		Objects:     slices.Concat(access.Defaults(), flowcontrol.Defaults(), []api.Object{s.dnsService()}),
	})
}

// dnsService is the cluster's name server as a Service, which tools look for
// under this name. It has no endpoints: every node answers at the address itself.
func (s *system) dnsService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Namespace: metav1.NamespaceSystem,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "kube-dns"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: s.dnsAddress().String(),
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP},
			},
		},
	}
}

// undisturbed is for how long a script must leave a node alone to be waited for.
const undisturbed = time.Minute

// awaitNodes returns when every node of this process is Ready, but for those
// pretend ones that the script lets come later, or disturbs soon.
func (s *system) awaitNodes(ctx context.Context, p *plane) error {
	waiting := map[string]bool{}
	prompt := s.script.Prompt(undisturbed)
	for i, name := range s.nodeNames() {
		if prompt[i] {
			waiting[name] = true
		}
	}
	total := len(waiting)
	see := func(n *corev1.Node) {
		if waiting[n.Name] && core.NodeReady(n) {
			delete(waiting, n.Name)
			if total <= 10 {
				s.Say("Node %s is Ready", n.Name)
			}
		}
	}
	for c := range core.Node.Follow(ctx, p.Server, "", api.Selectors{}, func(err error) { s.Log.Warn("Nodes cannot be followed", "err", err) }) {
		for _, n := range c.All {
			see(n)
		}
		if c.Object != nil {
			see(c.Object)
		}
		if len(waiting) == 0 {
			return nil
		}
	}
	return ctx.Err()
}

func (s *system) nodeNames() []string {
	if s.Nodes <= 1 {
		return []string{s.id.NodeName}
	}
	names := make([]string, s.Nodes)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", s.id.NodeName, i+1)
	}
	return names
}
