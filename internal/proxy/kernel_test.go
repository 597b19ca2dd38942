package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/overlay"
	"proa/internal/overlay/cniwire"
	"proa/internal/overlay/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

const (
	second = time.Second
	soon   = 400 * time.Millisecond // how long a test waits for what must not come
	nodeIP = "192.0.2.1"
)

// rig is a node with a proxy, pods, and a client outside of the cluster.
type rig struct {
	t       testing.TB
	c       Config
	p       *Proxy
	node    *nettest.NS
	outside *nettest.NS // 192.0.2.9, its default route is the node
	pods    map[string]*nettest.NS
	addrs   map[string]string
	overlay overlay.Config
	stop    func()
	rounds  int
}

func testConfig(t testing.TB) Config {
	return Config{
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})), Table: "tproa", Node: "here",
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		Services: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		PodLinks: "tproa0-",
		Local:    []netip.Addr{netip.MustParseAddr("10.43.0.10")},
	}
}

func newRig(t testing.TB) *rig {
	nettest.Need(t)
	r := &rig{t: t, c: testConfig(t), node: nettest.Here(t), pods: map[string]*nettest.NS{}, addrs: map[string]string{}}
	lo, err := netlink.LinkByName("lo")
	r.must(err)
	r.must(netlink.LinkSetUp(lo))
	r.startOverlay()
	r.startOutside()
	r.startProxy()
	t.Cleanup(func() {
		r.stop()
		r.must(Clean(r.c.Table))
		r.must(overlay.Clean(r.overlay))
	})
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) startOverlay() {
	dir := r.t.TempDir()
	r.overlay = overlay.Config{
		Device: "tproa0", PodCIDR: netip.MustParsePrefix("10.42.0.0/24"), Dir: filepath.Join(dir, "leases"),
		Socket: filepath.Join(dir, "cni.sock"), Services: r.c.Services, Local: r.c.Local,
	}
	n, err := overlay.New(r.overlay)
	r.must(err)
	r.must(n.Start())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Serve(ctx) }()
	<-n.Ready()
	r.t.Cleanup(func() {
		cancel()
		<-done
		n.Close()
	})
}

// startOutside makes a host on the node's network.
func (r *rig) startOutside() {
	r.outside = nettest.New(r.t)
	a := netlink.NewLinkAttrs()
	a.Name = "teth0"
	v := &netlink.Veth{LinkAttrs: a, PeerName: "eth0", PeerNamespace: netlink.NsFd(r.outside.Fd())}
	r.must(netlink.LinkAdd(v))
	r.t.Cleanup(func() { _ = netlink.LinkDel(v) })
	l, err := netlink.LinkByName("teth0")
	r.must(err)
	addr, _ := netlink.ParseAddr(nodeIP + "/24")
	r.must(netlink.AddrAdd(l, addr))
	r.must(netlink.LinkSetUp(l))
	r.must(r.outside.Do(func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("192.0.2.9/24")
		if err := h.AddrAdd(l, addr); err != nil {
			return err
		}
		if err := h.LinkSetUp(l); err != nil {
			return err
		}
		gw := netip.MustParseAddr(nodeIP)
		return h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw.AsSlice()})
	}))
}

// startProxy runs a proxy on what an earlier one left.
func (r *rig) startProxy() {
	p, err := New(r.c)
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	r.p = p
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			r.must(<-done)
		}
	}
}

// pod connects a pod that answers on TCP and UDP port 80 with its name.
func (r *rig) pod(name string) string {
	r.t.Helper()
	ns := nettest.New(r.t)
	body, err := cniwire.Call(r.overlay.Socket, &cniwire.Request{Command: cniwire.Add, ContainerID: name, Netns: ns.Path(), IfName: "eth0",
		Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"proa","type":"proa-cni"}`)}, 5*second)
	r.must(err)
	var res struct {
		IPs []struct{ Address string } `json:"ips"`
	}
	r.must(json.Unmarshal(body, &res))
	ip := strings.TrimSuffix(res.IPs[0].Address, "/32")
	ns.Echo(r.t, "tcp", ":80", name)
	ns.Echo(r.t, "udp", ":80", name)
	r.pods[name], r.addrs[name] = ns, ip
	return ip
}

// sync waits until the kernel has everything that was set so far.
func (r *rig) sync() {
	r.t.Helper()
	r.rounds++
	name := fmt.Sprintf("sync-%d", r.rounds)
	key := ipv4.keyBytes(Key{netip.MustParseAddr("203.0.113.1"), 132, uint16(r.rounds)})
	s := service(name, "203.0.113.1", port("", r.rounds, 0))
	s.Spec.Ports[0].Protocol = corev1.ProtocolSCTP
	r.p.SetService(s)
	t, err := openTable(r.c)
	r.must(err)
	defer t.close()
	for end := time.Now().Add(10 * second); time.Now().Before(end); {
		if t.intact() {
			elems, err := t.conn.GetSetElements(t.set(setFrontends, 0, 0))
			r.must(err)
			for _, e := range elems {
				if string(e.Key) == key {
					return
				}
			}
		}
		time.Sleep(time.Millisecond)
	}
	r.t.Fatal("the proxy does not apply what it was given")
}

func (r *rig) ask(from *nettest.NS, network, addr string) string {
	r.t.Helper()
	got, err := from.Ask(network, addr, 2*second)
	if err != nil {
		r.t.Errorf("%s %s: %v", network, addr, err)
	}
	return got
}

func (r *rig) want(from *nettest.NS, network, addr, want string) {
	r.t.Helper()
	if got := r.ask(from, network, addr); got != want {
		r.t.Errorf("%s %s answered %q, want %q", network, addr, got, want)
	}
}

func (r *rig) refused(from *nettest.NS, network, addr string) {
	r.t.Helper()
	start := time.Now()
	got, err := from.Ask(network, addr, second)
	if err == nil || !strings.Contains(err.Error(), "refused") {
		r.t.Errorf("%s %s: %q, %v after %v; want a refusal", network, addr, got, err, time.Since(start))
	}
}

func service(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.ClusterIP, s.Spec.Ports = ip, ports
	s.Spec.Type = corev1.ServiceTypeClusterIP
	return s
}

func port(name string, number, node int) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: corev1.ProtocolTCP, Port: int32(number), NodePort: int32(node)}
}

func udp(p corev1.ServicePort) corev1.ServicePort {
	p.Protocol = corev1.ProtocolUDP
	return p
}

func ptr[T any](v T) *T { return &v }

// slice makes the slice of a service for the port 80 of each address. An
// address may be followed by marks: "10.42.0.2 elsewhere unready terminating dead".
func slice(s *corev1.Service, addrs ...string) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	out.Namespace, out.Name = s.Namespace, s.Name+"-1"
	out.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
	for _, p := range s.Spec.Ports {
		out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: ptr(p.Name), Protocol: ptr(p.Protocol), Port: ptr(int32(80))})
	}
	for _, a := range addrs {
		marks := strings.Fields(a)
		e := discoveryv1.Endpoint{Addresses: marks[:1], NodeName: ptr("here")}
		e.Conditions = discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)}
		for _, m := range marks[1:] {
			switch m {
			case "elsewhere":
				e.NodeName = ptr("there")
			case "unready":
				e.Conditions.Ready, e.Conditions.Serving = ptr(false), ptr(false)
			case "terminating":
				e.Conditions.Ready, e.Conditions.Terminating = ptr(false), ptr(true)
			default:
				panic(m)
			}
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}

// start gives the proxy its first complete state.
func (r *rig) start(s *corev1.Service, addrs ...string) {
	r.t.Helper()
	r.p.SetServices([]*corev1.Service{s})
	r.p.SetSlices([]*discoveryv1.EndpointSlice{slice(s, addrs...)})
	r.sync()
}

func (r *rig) set(s *corev1.Service, addrs ...string) {
	r.t.Helper()
	r.p.SetService(s)
	r.p.SetSlice(slice(s, addrs...), nil)
	r.sync()
}

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
		{HostIP: netip.MustParseAddr(nodeIP), HostPort: 8889, PodPort: 80, Protocol: corev1.ProtocolUDP}})
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

func TestRestart(t *testing.T) {
	r := newRig(t)
	a, b := r.pod("a"), r.pod("b")
	r.pod("client")
	client := r.pods["client"]
	s := service("web", "10.43.0.80", port("", 80, 0))
	gone := service("gone", "10.43.0.81", port("", 80, 0))
	r.start(s, a)
	r.set(gone, a)
	c, err := client.Dial("tcp", "10.43.0.80:80", second)
	r.must(err)
	defer c.Close()
	r.stop() // the kernel sees no difference to a kill

	ctx, cancel := context.WithCancel(context.Background())
	var asked int
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := client.Ask("tcp", "10.43.0.80:80", second); err != nil {
				failed = err
				return
			}
			asked++
		}
	}()
	r.startProxy()
	time.Sleep(50 * time.Millisecond) // it knows nothing yet and must take nothing away
	r.start(s, a, b)
	cancel()
	<-done
	if failed != nil || asked < 5 {
		t.Errorf("during the restart, after %d connections: %v", asked, failed)
	}
	if _, err := nettest.Say(c, second); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	r.refused(client, "tcp", "10.43.0.81:80") // removed meanwhile
}

func TestRulesComeBack(t *testing.T) {
	r := newRig(t)
	a := r.pod("a")
	r.start(service("web", "10.43.0.80", port("", 80, 0)), a)
	r.want(r.node, "tcp", "10.43.0.80:80", "a 10.42.0.1")
	n, err := nftables.New()
	r.must(err)
	n.FlushRuleset() // as "systemctl restart nftables" does
	r.must(n.Flush())
	for end := time.Now().Add(3 * second); ; {
		got, err := r.node.Ask("tcp", "10.43.0.80:80", 200*time.Millisecond)
		if err == nil && got == "a 10.42.0.1" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after somebody flushed all rules: %q, %v", got, err)
		}
	}
}

// dropTable makes a firewall as another program would: a chain that drops.
func dropTable(t *testing.T, family nftables.TableFamily, name, chain string, hook *nftables.ChainHook, byRule bool) {
	n, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tab := n.AddTable(&nftables.Table{Name: name, Family: family})
	policy := nftables.ChainPolicyDrop
	if byRule {
		policy = nftables.ChainPolicyAccept
	}
	c := n.AddChain(&nftables.Chain{Name: chain, Table: tab, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	n.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: append(ctHas(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), &expr.Verdict{Kind: expr.VerdictAccept})})
	n.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: append(append(exprs{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}}, &expr.Cmp{Register: 1, Data: []byte("lo\x00")}), &expr.Verdict{Kind: expr.VerdictAccept})})
	if byRule {
		n.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: exprs{&expr.Counter{}, &expr.Reject{Type: 0, Code: 13}}})
	}
	if err := n.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.DelTable(tab)
		_ = n.Flush()
	})
}

func TestOthersDropForwarding(t *testing.T) {
	for _, tc := range []struct {
		name    string
		family  nftables.TableFamily
		table   string
		chain   string
		byRule  bool
		already bool // there before the proxy starts
	}{
		{"docker", nftables.TableFamilyIPv4, "filter", "FORWARD", false, true},
		{"ufw enabled later", nftables.TableFamilyIPv4, "filter", "FORWARD", false, false},
		{"firewalld", nftables.TableFamilyINet, "firewalld", "filter_FORWARD", true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.already {
				dropTable(t, tc.family, tc.table, tc.chain, nftables.ChainHookForward, tc.byRule)
			}
			r := newRig(t)
			a, b := r.pod("a"), r.pod("b")
			r.start(service("web", "10.43.0.80", port("", 80, 30080)), a)
			r.outside.Echo(t, "tcp", ":80", "outside")
			if !tc.already {
				dropTable(t, tc.family, tc.table, tc.chain, nftables.ChainHookForward, tc.byRule)
			}
			for end := time.Now().Add(3 * second); ; {
				if _, err := r.pods["a"].Ask("tcp", b+":80", 200*time.Millisecond); err == nil {
					break
				} else if time.Now().After(end) {
					t.Fatalf("pod to pod: %v", err)
				}
			}
			r.want(r.pods["b"], "tcp", "10.43.0.80:80", "a "+b)
			r.want(r.pods["b"], "tcp", "192.0.2.9:80", "outside "+nodeIP)
			r.want(r.outside, "tcp", nodeIP+":30080", "a 10.42.0.1")
			r.stop()
			r.must(Clean(r.c.Table))
			if got, err := r.pods["a"].Ask("tcp", b+":80", soon); err == nil {
				t.Errorf("after Clean the other firewall does not drop: %q", got)
			}
		})
	}
}

func TestOthersDropInput(t *testing.T) {
	dropped := func(t *testing.T, table, chain string) {
		r := newRig(t)
		a := r.pod("a")
		r.node.Echo(t, "tcp", ":9000", "node")
		r.node.Echo(t, "udp", "10.43.0.10:53", "dns")
		host := service("api", "10.43.0.1", port("", 443, 0))
		sl := slice(host, nodeIP)
		sl.Ports[0].Port = ptr(int32(9000))
		r.p.SetServices([]*corev1.Service{host})
		r.p.SetSlices([]*discoveryv1.EndpointSlice{sl})
		r.sync()
		dropTable(t, nftables.TableFamilyIPv4, table, chain, nftables.ChainHookInput, false)
		for end := time.Now().Add(3 * second); ; {
			got, err := r.pods["a"].Ask("tcp", "10.43.0.1:443", 200*time.Millisecond)
			if err == nil && got == "node "+a {
				break
			} else if time.Now().After(end) {
				t.Fatalf("pod to a service on the node: %q, %v", got, err)
			}
		}
		r.want(r.pods["a"], "udp", "10.43.0.10:53", "dns "+a)
		if got, err := r.pods["a"].Ask("tcp", nodeIP+":9000", soon); err == nil {
			t.Errorf("the firewall lets pods reach ports of the node: %q", got)
		}
	}
	t.Run("iptables", func(t *testing.T) { dropped(t, "filter", "INPUT") })
	t.Run("nftables", func(t *testing.T) { dropped(t, "mine", "input") })
}

func TestCleanLeavesNothing(t *testing.T) {
	nettest.Need(t)
	n, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := Clean("tproa"); err != nil {
		t.Fatalf("with nothing there: %v", err)
	}
	tables, err := n.ListTables()
	if err != nil || len(tables) != 0 {
		t.Errorf("tables: %v, %v", tables, err)
	}
}
