package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
