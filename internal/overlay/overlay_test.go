package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"proa/internal/overlay/cniwire"
	"proa/internal/overlay/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

func testConfig(t testing.TB) Config {
	dir := t.TempDir()
	return Config{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Device: "tproa0",
		PodCIDR: netip.MustParsePrefix("10.42.0.0/24"), Dir: filepath.Join(dir, "leases"),
		Socket: filepath.Join(dir, "cni.sock"), ConfDir: filepath.Join(dir, "net.d"),
		Services: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		Local:    []netip.Addr{netip.MustParseAddr("10.43.0.10")},
	}
}

// start runs a network until the returned function is called.
func start(t testing.TB, c Config) (*Network, func()) {
	t.Helper()
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Serve(ctx) }()
	<-n.Ready()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		n.Close()
	}
	t.Cleanup(func() {
		stop()
		if err := Clean(c); err != nil {
			t.Errorf("Clean: %v", err)
		}
	})
	return n, stop
}

func call(c Config, cmd cniwire.Command, id, netns string) (result, error) {
	body, err := cniwire.Call(c.Socket, &cniwire.Request{
		Command: cmd, ContainerID: id, Netns: netns, IfName: "eth0", Args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + id,
		Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"proa","type":"proa-cni","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}`),
	}, 5*time.Second)
	var r result
	if err == nil && cmd == cniwire.Add {
		err = json.Unmarshal(body, &r)
	}
	return r, err
}

func mustAdd(t testing.TB, c Config, id string, ns *nettest.NS) netip.Addr {
	t.Helper()
	r, err := call(c, cniwire.Add, id, ns.Path())
	if err != nil {
		t.Fatalf("ADD %s: %v", id, err)
	}
	return netip.MustParsePrefix(r.IPs[0].Address).Addr()
}

func TestPodsReachEachOtherAndTheNode(t *testing.T) {
	nettest.Need(t)
	c := testConfig(t)
	n, _ := start(t, c)
	a, b := nettest.New(t), nettest.New(t)
	ipA, ipB := mustAdd(t, c, "sandbox-a", a), mustAdd(t, c, "sandbox-b", b)
	if ipA == ipB || !c.PodCIDR.Contains(ipA) || ipA == n.Gateway() {
		t.Fatalf("addresses %v and %v", ipA, ipB)
	}
	b.Echo(t, "tcp", ":80", "b")
	got, err := a.Ask("tcp", ipB.String()+":80", time.Second)
	if want := "b " + ipA.String(); err != nil || got != want {
		t.Errorf("pod to pod: %q, %v; want %q", got, err, want)
	}
	here := nettest.Here(t)
	got, err = here.Ask("tcp", ipB.String()+":80", time.Second)
	if want := "b " + n.Gateway().String(); err != nil || got != want {
		t.Errorf("node to pod: %q, %v; want %q", got, err, want)
	}
	here.Echo(t, "udp", "10.43.0.10:53", "dns")
	got, err = a.Ask("udp", "10.43.0.10:53", time.Second)
	if want := "dns " + ipA.String(); err != nil || got != want {
		t.Errorf("pod to the DNS address: %q, %v; want %q", got, err, want)
	}
	if _, err := call(c, cniwire.Check, "sandbox-a", a.Path()); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}

func TestPodCannotSpoof(t *testing.T) {
	nettest.Need(t)
	c := testConfig(t)
	start(t, c)
	a, b := nettest.New(t), nettest.New(t)
	mustAdd(t, c, "sandbox-a", a)
	ipB := mustAdd(t, c, "sandbox-b", b)
	b.Echo(t, "udp", ":80", "b")
	err := a.Do(func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		foreign, _ := netlink.ParseAddr("10.42.0.200/32")
		old, err := h.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		if err := h.AddrAdd(l, foreign); err != nil {
			return err
		}
		for _, a := range old {
			a := a
			if err := h.AddrDel(l, &a); err != nil {
				return err
			}
		}
		gw := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: single(netip.MustParseAddr("10.42.0.1")), Scope: netlink.SCOPE_LINK}
		return errors.Join(h.RouteReplace(gw), h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw.Dst.IP}))
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Ask("udp", ipB.String()+":80", 300*time.Millisecond)
	if err == nil {
		t.Errorf("a packet with another pod's address was answered: %q", got)
	}
}

func TestDelReleasesAndIsIdempotent(t *testing.T) {
	nettest.Need(t)
	c := testConfig(t)
	var told []string
	c.Ports = func(sandbox string, pod netip.Addr, ports []HostPort) error {
		told = append(told, fmt.Sprint(sandbox, pod, ports))
		return nil
	}
	n, _ := start(t, c)
	a := nettest.New(t)
	ip := mustAdd(t, c, "sandbox-a", a)
	if again := mustAdd(t, c, "sandbox-b", nettest.New(t)); again == ip {
		t.Fatal("an address was given twice")
	}
	for range 2 {
		if _, err := call(c, cniwire.Del, "sandbox-a", ""); err != nil {
			t.Fatalf("DEL: %v", err)
		}
	}
	if got := len(n.Leases()); got != 1 {
		t.Errorf("%d leases after DEL, want 1", got)
	}
	if _, err := call(c, cniwire.Check, "sandbox-a", a.Path()); err == nil {
		t.Error("CHECK after DEL succeeded")
	}
	if ip2 := mustAdd(t, c, "sandbox-c", nettest.New(t)); ip2 == ip {
		t.Error("the released address was given again at once")
	}
	if want := "sandbox-a" + ip.String() + "[]"; len(told) != 4 || strings.ReplaceAll(told[2], " ", "") != want {
		t.Errorf("host ports told: %q", told)
	}
}

func TestRestartKeepsPodsAndAddresses(t *testing.T) {
	nettest.Need(t)
	c := testConfig(t)
	_, stop := start(t, c)
	a, b := nettest.New(t), nettest.New(t)
	mustAdd(t, c, "sandbox-a", a)
	ipB := mustAdd(t, c, "sandbox-b", b)
	b.Echo(t, "tcp", ":80", "b")
	conn, err := a.Dial("tcp", ipB.String()+":80", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stop()
	if _, err := nettest.Say(conn, time.Second); err != nil {
		t.Errorf("with nobody serving: %v", err)
	}
	// Somebody flushes the routes meanwhile, as network managers do.
	delRoute(t, c, "sandbox-b", ipB)
	n, _ := start(t, c)
	if _, err := nettest.Say(conn, 3*time.Second); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	if err := n.Release(time.Now(), map[string]bool{"sandbox-b": true}); err != nil {
		t.Fatal(err)
	}
	if ls := n.Leases(); len(ls) != 1 || ls[0].Address != ipB {
		t.Errorf("leases after the release of dead sandboxes: %+v", ls)
	}
}

// delRoute takes the route to a pod away, as network managers do.
func delRoute(t *testing.T, c Config, sandbox string, ip netip.Addr) {
	t.Helper()
	l, err := netlink.LinkByName(hostLink(c.Device, sandbox, "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: single(ip), Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
}

func TestRoutesComeBack(t *testing.T) {
	nettest.Need(t)
	c := testConfig(t)
	start(t, c)
	a, b := nettest.New(t), nettest.New(t)
	mustAdd(t, c, "sandbox-a", a)
	ipB := mustAdd(t, c, "sandbox-b", b)
	b.Echo(t, "tcp", ":80", "b")
	reach := func(what string) {
		t.Helper()
		for end := time.Now().Add(3 * time.Second); ; {
			_, err := a.Ask("tcp", ipB.String()+":80", 100*time.Millisecond)
			if err == nil {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	delRoute(t, c, "sandbox-b", ipB)
	reach("after the route was taken away")
	nettest.Here(t).Echo(t, "udp", "10.43.0.10:5353", "dns")
	dev, err := netlink.LinkByName(c.Device)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(dev); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(3 * time.Second); ; {
		got, err := a.Ask("udp", "10.43.0.10:5353", 100*time.Millisecond)
		if err == nil && strings.HasPrefix(got, "dns") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after the node's interface was taken away: %q, %v", got, err)
		}
	}
	reach("after the node's interface was taken away")
}

func TestFailedAddLeavesNothing(t *testing.T) {
	nettest.Need(t)
	c := testConfig(t)
	n, _ := start(t, c)
	_, err := call(c, cniwire.Add, "sandbox-x", "/proc/self/no-such-namespace")
	var e *cniwire.Error
	if !errors.As(err, &e) || e.Code != cniwire.CodeUnknown {
		t.Errorf("ADD in a namespace that does not exist: %v", err)
	}
	if len(n.Leases()) != 0 {
		t.Errorf("leases left: %v", n.Leases())
	}
}

func TestCleanRemovesEverything(t *testing.T) {
	nettest.Need(t)
	before, _ := netlink.LinkList()
	routes, _ := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	c := testConfig(t)
	_, stop := start(t, c)
	mustAdd(t, c, "sandbox-a", nettest.New(t))
	stop()
	if err := Clean(c); err != nil {
		t.Fatal(err)
	}
	after, _ := netlink.LinkList()
	routesAfter, _ := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if len(before) != len(after) || len(routes) != len(routesAfter) {
		t.Errorf("links %d, then %d; routes %d, then %d", len(before), len(after), len(routes), len(routesAfter))
	}
	if _, err := os.Stat(c.Dir); !os.IsNotExist(err) {
		t.Errorf("lease folder: %v", err)
	}
}

// TestPlugin runs the real plugin against the real network.
func TestPlugin(t *testing.T) {
	nettest.Need(t)
	bin := filepath.Join(t.TempDir(), PluginName)
	if out, err := exec.Command("go", "build", "-o", bin, "proa/cmd/proa-cni").CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	c := testConfig(t)
	n, stop := start(t, c)
	ns := nettest.New(t)
	run := func(cmd, conf string) (string, error) {
		p := exec.Command(bin)
		p.Env = []string{"CNI_COMMAND=" + cmd, "CNI_CONTAINERID=sandbox-p", "CNI_NETNS=" + ns.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/"}
		p.Stdin = strings.NewReader(conf)
		out, err := p.Output()
		return string(out), err
	}
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"proa","type":"proa-cni","socket":%q}`, c.Socket)
	for _, cmd := range []string{"VERSION", "STATUS", "ADD", "CHECK"} {
		if out, err := run(cmd, conf); err != nil {
			t.Errorf("%s: %v: %s", cmd, err, out)
		}
	}
	gc := strings.TrimSuffix(conf, "}") + `,"cni.dev/valid-attachments":[{"containerID":"sandbox-p","ifname":"eth0"}]}`
	if out, err := run("GC", gc); err != nil || len(n.Leases()) != 1 {
		t.Errorf("GC: %v: %s: %v", err, out, n.Leases())
	}
	if out, err := run("DEL", conf); err != nil {
		t.Errorf("DEL: %v: %s", err, out)
	}
	lo := filepath.Join(filepath.Dir(bin), "loopback")
	if err := os.Symlink(bin, lo); err != nil {
		t.Fatal(err)
	}
	bare := nettest.New(t)
	p := exec.Command(lo)
	p.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=x", "CNI_NETNS=" + bare.Path(), "CNI_IFNAME=lo", "CNI_PATH=/"}
	p.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"cni-loopback","type":"loopback"}`)
	if out, err := p.Output(); err != nil || !json.Valid(out) {
		t.Errorf("loopback ADD: %v: %s", err, out)
	}
	bare.Echo(t, "tcp", "127.0.0.1:80", "lo")
	if got, err := bare.Ask("tcp", "127.0.0.1:80", time.Second); err != nil || got != "lo 127.0.0.1" {
		t.Errorf("after loopback ADD: %q, %v", got, err)
	}
	if out, err := run("ADD", `{"cniVersion":"0.3.0","socket":"`+c.Socket+`"}`); err == nil || !strings.Contains(out, `"code":1`) {
		t.Errorf("ADD with an old version: %v: %s", err, out)
	}
	stop()
	if out, err := run("STATUS", conf); err == nil || !strings.Contains(out, `"code":50`) {
		t.Errorf("STATUS with nobody there: %v: %s", err, out)
	}
}

func BenchmarkAddDel(b *testing.B) {
	nettest.Need(b)
	c := testConfig(b)
	c.Log = nil
	start(b, c)
	ns := nettest.New(b)
	for b.Loop() {
		mustAdd(b, c, "sandbox-a", ns)
		if _, err := call(c, cniwire.Del, "sandbox-a", ""); err != nil {
			b.Fatal(err)
		}
	}
}

// Leases returns the leases in force, in no order.
func (n *Network) Leases() []Lease {
	var out []Lease
	for _, l := range n.leases.all() {
		out = append(out, *l)
	}
	return out
}
