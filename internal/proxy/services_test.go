package proxy

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/internal/overlay/nettest"
)

func TestClusterIP(t *testing.T) {
	r := newRig(t)
	a, b := r.pod("a"), r.pod("b")
	r.pod("client")
	s := service("web", "10.43.0.80", port("http", 8080, 0), udp(port("dns", 53, 0)))
	r.start(s, b)
	client := r.pods["client"]
	r.want(client, "tcp", "10.43.0.80:8080", "b "+r.addrs["client"])
	r.want(client, "udp", "10.43.0.80:53", "b "+r.addrs["client"])
	r.want(r.node, "tcp", "10.43.0.80:8080", "b 10.42.0.1")
	r.want(r.outside, "tcp", "10.43.0.80:8080", "b 10.42.0.1")   // masqueraded by the node
	r.want(r.pods["b"], "tcp", "10.43.0.80:8080", "b 10.42.0.1") // hairpin: not its own address
	r.refused(client, "tcp", "10.43.0.80:81")                    // a port that is not the service's
	r.refused(client, "tcp", "10.43.7.7:80")                     // nobody's address
	r.refused(r.node, "tcp", "10.43.7.7:80")

	r.set(s, a, b)
	seen := map[string]int{}
	for range 60 {
		seen[r.ask(client, "tcp", "10.43.0.80:8080")]++
	}
	if len(seen) != 2 || seen["a "+r.addrs["client"]] < 10 || seen["b "+r.addrs["client"]] < 10 {
		t.Errorf("60 connections went to %v", seen)
	}
	r.set(s, a)
	for range 10 {
		r.want(client, "tcp", "10.43.0.80:8080", "a "+r.addrs["client"])
	}
	r.set(s)
	r.refused(client, "tcp", "10.43.0.80:8080")
	r.refused(client, "udp", "10.43.0.80:53")
	r.refused(r.node, "tcp", "10.43.0.80:8080")
	r.set(s, b)
	r.want(client, "tcp", "10.43.0.80:8080", "b "+r.addrs["client"])
	r.p.DeleteService("default", "web")
	r.sync()
	r.refused(client, "tcp", "10.43.0.80:8080")
}

func TestNodePort(t *testing.T) {
	r := newRig(t)
	a := r.pod("a")
	r.pod("client")
	s := service("web", "10.43.0.80", port("", 80, 30080), udp(port("u", 80, 30081)))
	s.Spec.Type = corev1.ServiceTypeNodePort
	s.Spec.ExternalIPs = []string{"198.51.100.7"}
	r.start(s, a)
	client := r.pods["client"]
	r.want(r.outside, "tcp", nodeIP+":30080", "a 10.42.0.1") // masqueraded
	r.want(r.outside, "udp", nodeIP+":30081", "a 10.42.0.1")
	r.want(r.outside, "tcp", "198.51.100.7:80", "a 10.42.0.1")
	r.want(client, "tcp", nodeIP+":30080", "a 10.42.0.1")
	r.want(r.pods["a"], "tcp", nodeIP+":30080", "a 10.42.0.1")
	if got := r.ask(r.node, "tcp", nodeIP+":30080"); !strings.HasPrefix(got, "a ") {
		t.Errorf("from the node itself: %q", got)
	}
	if got := r.ask(r.node, "tcp", "127.0.0.1:30080"); !strings.HasPrefix(got, "a ") {
		t.Errorf("from the node by 127.0.0.1: %q", got)
	}
	if got := r.ask(r.node, "udp", "127.0.0.1:30081"); !strings.HasPrefix(got, "a ") {
		t.Errorf("from the node by 127.0.0.1, UDP: %q", got)
	}
	r.set(s)
	r.refused(r.outside, "tcp", nodeIP+":30080")
	r.refused(r.outside, "udp", nodeIP+":30081")
	if _, err := r.outside.Ask("tcp", "198.51.100.7:80", second); err == nil { // refused, or unreachable: the node has no route
		t.Error("an external address without endpoints answers")
	}
	r.refused(r.node, "tcp", "127.0.0.1:30080")
}

func TestPodCannotReachTheNodesLoopback(t *testing.T) {
	r := newRig(t)
	r.pod("a")
	r.start(service("web", "10.43.0.80", port("", 80, 0)))
	r.node.Echo(t, "udp", "127.0.0.1:7777", "secret")
	err := r.pods["a"].Do(func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		eth, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0); err != nil {
			return err
		}
		one, _ := netlink.ParseAddr("127.0.0.1/8")
		if err := h.AddrDel(lo, one); err != nil {
			return err
		}
		_, dst, _ := net.ParseCIDR("127.0.0.0/8")
		_ = h.RouteDel(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: 255, Type: 2})
		return h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: dst, Gw: netip.MustParseAddr("10.42.0.1").AsSlice()})
	})
	r.must(err)
	if got, err := r.pods["a"].Ask("udp", "127.0.0.1:7777", soon); err == nil {
		t.Errorf("a pod reached 127.0.0.1 of the node: %q", got)
	}
}

func TestExternalTrafficPolicyLocal(t *testing.T) {
	r := newRig(t)
	a, b := r.pod("a"), r.pod("b")
	r.pod("client")
	s := service("web", "10.43.0.80", port("", 80, 30080))
	s.Spec.Type = corev1.ServiceTypeNodePort
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	r.start(s, a, b+" elsewhere")
	for range 8 {
		r.want(r.outside, "tcp", nodeIP+":30080", "a 192.0.2.9") // the client's own address
	}
	seen := map[string]bool{}
	for range 40 { // from inside it is as if the policy were Cluster
		seen[r.ask(r.pods["client"], "tcp", nodeIP+":30080")[:1]] = true
	}
	if len(seen) != 2 {
		t.Errorf("a pod reaches only %v", seen)
	}
	r.set(s, b+" elsewhere")
	if got, err := r.outside.Ask("tcp", nodeIP+":30080", soon); err == nil || strings.Contains(err.Error(), "refused") {
		t.Errorf("with no endpoint here: %q, %v; want silence", got, err)
	}
	r.want(r.pods["client"], "tcp", nodeIP+":30080", "b "+r.addrs["client"])
	if got := r.ask(r.node, "tcp", nodeIP+":30080"); !strings.HasPrefix(got, "b ") {
		t.Errorf("from the node: %q", got)
	}
	r.set(s)
	r.refused(r.outside, "tcp", nodeIP+":30080")
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	r := newRig(t)
	a, b := r.pod("a"), r.pod("b")
	r.pod("client")
	s := service("web", "10.43.0.80", port("", 80, 0))
	s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	r.start(s, a, b+" elsewhere")
	for range 8 {
		r.want(r.pods["client"], "tcp", "10.43.0.80:80", "a "+r.addrs["client"])
	}
	r.set(s, b+" elsewhere")
	if got, err := r.pods["client"].Ask("tcp", "10.43.0.80:80", soon); err == nil || strings.Contains(err.Error(), "refused") {
		t.Errorf("with no endpoint here: %q, %v; want silence", got, err)
	}
}

func TestTerminatingEndpoints(t *testing.T) {
	r := newRig(t)
	a, b := r.pod("a"), r.pod("b")
	r.pod("client")
	s := service("web", "10.43.0.80", port("", 80, 0))
	r.start(s, a+" terminating", b)
	for range 8 {
		r.want(r.pods["client"], "tcp", "10.43.0.80:80", "b "+r.addrs["client"])
	}
	r.set(s, a+" terminating", b+" unready")
	for range 8 {
		r.want(r.pods["client"], "tcp", "10.43.0.80:80", "a "+r.addrs["client"])
	}
}

func TestAffinity(t *testing.T) {
	r := newRig(t)
	ips := []string{r.pod("a"), r.pod("b"), r.pod("c")}
	r.pod("client")
	s := service("web", "10.43.0.80", port("", 80, 30080))
	s.Spec.Type = corev1.ServiceTypeNodePort
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(2))}}
	r.start(s, ips...)
	client := r.pods["client"]
	first := r.ask(client, "tcp", "10.43.0.80:80")[:1]
	for range 20 {
		r.want(client, "tcp", "10.43.0.80:80", first+" "+r.addrs["client"])
	}
	if got := r.ask(client, "tcp", nodeIP+":30080"); got[:1] != first {
		t.Errorf("by the node port the client got %q, not %q", got, first)
	}
	var rest []string
	for _, ip := range ips {
		if ip != r.addrs[first] {
			rest = append(rest, ip)
		}
	}
	r.set(s, rest...) // its endpoint goes: it gets another and stays there
	second := r.ask(client, "tcp", "10.43.0.80:80")[:1]
	if second == first {
		t.Fatalf("sent to %q, which is gone", first)
	}
	r.set(s, ips...)
	for range 20 {
		r.want(client, "tcp", "10.43.0.80:80", second+" "+r.addrs["client"])
	}
	seen := map[string]bool{}
	for range 12 { // past the timeout it is drawn anew
		time.Sleep(2100 * time.Millisecond)
		if seen[r.ask(client, "tcp", "10.43.0.80:80")[:1]] = true; len(seen) > 1 {
			return
		}
	}
	t.Errorf("after the timeout the client still always gets %v", seen)
}

func TestHostPort(t *testing.T) {
	r := newRig(t)
	a := netip.MustParseAddr(r.pod("a"))
	r.start(service("web", "10.43.0.80", port("", 80, 0)))
	r.p.SetHostPorts("a", a, []HostPort{{HostPort: 8888, PodPort: 80, Protocol: corev1.ProtocolTCP},
		{HostIP: netip.MustParseAddr(nodeIP), HostPort: 8889, PodPort: 80, Protocol: "udp"}})
	r.sync()
	r.want(r.outside, "tcp", nodeIP+":8888", "a 192.0.2.9")
	r.want(r.outside, "udp", nodeIP+":8889", "a 192.0.2.9")
	if got := r.ask(r.node, "tcp", "127.0.0.1:8888"); !strings.HasPrefix(got, "a ") {
		t.Errorf("from the node: %q", got)
	}
	r.want(r.pods["a"], "tcp", nodeIP+":8888", "a 10.42.0.1")
	r.p.SetHostPorts("a", a, nil)
	r.sync()
	r.refused(r.outside, "tcp", nodeIP+":8888")
}

func TestStaleUDPFlow(t *testing.T) {
	r := newRig(t)
	a, b := r.pod("a"), r.pod("b")
	r.pod("client")
	s := service("web", "10.43.0.80", udp(port("", 80, 0)))
	r.start(s, a)
	c, err := r.pods["client"].Dial("udp", "10.43.0.80:80", second)
	r.must(err)
	defer c.Close()
	if got, err := nettest.Say(c, second); err != nil || got[:1] != "a" {
		t.Fatalf("%q, %v", got, err)
	}
	r.set(s, b)
	for end := time.Now().Add(3 * second); ; { // the same port all the time
		got, err := nettest.Say(c, 100*time.Millisecond)
		if err == nil && got[:1] == "b" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the flow still leads to the old endpoint: %q, %v", got, err)
		}
	}
}

func TestEgressIsMasqueraded(t *testing.T) {
	r := newRig(t)
	r.pod("a")
	r.pod("b")
	r.start(service("web", "10.43.0.80", port("", 80, 0)))
	r.outside.Echo(t, "tcp", ":80", "outside")
	r.want(r.pods["a"], "tcp", "192.0.2.9:80", "outside "+nodeIP)
	r.want(r.pods["a"], "tcp", r.addrs["b"]+":80", "b "+r.addrs["a"])
}

// TestEndpointOnLoopback has the API server of a machine without any network:
// its only address is 127.0.0.1, and pods reach it through its Service alone.
func TestEndpointOnLoopback(t *testing.T) {
	r := newRig(t)
	a := r.pod("a")
	r.node.Echo(t, "tcp", "127.0.0.1:9000", "api")
	s := service("kubernetes", "10.43.0.1", port("https", 443, 0))
	sl := slice(s, "127.0.0.1")
	sl.Ports[0].Port = ptr(int32(9000))
	r.p.SetServices([]*corev1.Service{s})
	r.p.SetSlices([]*discoveryv1.EndpointSlice{sl})
	r.sync()
	r.want(r.pods["a"], "tcp", "10.43.0.1:443", "api "+a)
	if got := r.ask(r.node, "tcp", "10.43.0.1:443"); !strings.HasPrefix(got, "api ") {
		t.Errorf("from the node: %q", got)
	}
}
