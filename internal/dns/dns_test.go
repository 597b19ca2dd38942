package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/store/memory"
)

func ptr[T any](v T) *T { return &v }

func meta(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

func clusterIP(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta("default", name),
		Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: strings.Split(ip, ","), Ports: ports, Type: corev1.ServiceTypeClusterIP}}
}

func headlessSlice(service, name string, ends ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta("default", name), AddressType: discoveryv1.AddressTypeIPv4, Endpoints: ends,
		Ports: []discoveryv1.EndpointPort{{Name: ptr("peer"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(6379))}}}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	return s
}

func end(ip, host string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if host != "" {
		e.Hostname = &host
	}
	return e
}

// newTest returns a server that knows a small cluster and does not listen.
func newTest(t testing.TB) *Server {
	t.Helper()
	s, err := New(Config{Listen: []netip.AddrPort{netip.MustParseAddrPort("10.43.0.10:53")}, Zone: "Cluster.Local."})
	if err != nil {
		t.Fatal(err)
	}
	http := corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}
	nameless := corev1.ServicePort{Port: 53, Protocol: corev1.ProtocolUDP}
	s.zone.service(&api.Change[*corev1.Service]{Reset: true, All: []*corev1.Service{
		clusterIP("kubernetes", "10.43.0.1", corev1.ServicePort{Name: "https", Port: 443}),
		clusterIP("web", "10.43.0.80,fd00::80", http, nameless),
		clusterIP("db", corev1.ClusterIPNone),
		{ObjectMeta: meta("default", "alias"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}},
		{ObjectMeta: meta("default", "outside"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "Example.org"}},
	}})
	s.zone.slice(&api.Change[*discoveryv1.EndpointSlice]{Reset: true, All: []*discoveryv1.EndpointSlice{
		headlessSlice("db", "db-1", end("10.42.0.2", "db-0", true), end("10.42.0.3", "", true), end("10.42.0.4", "db-2", false)),
		headlessSlice("web", "web-1", end("10.42.0.9", "", true)),
	}})
	s.zone.namespace(&api.Change[*corev1.Namespace]{Reset: true, All: []*corev1.Namespace{
		{ObjectMeta: meta("", "default")}, {ObjectMeta: meta("", "empty")},
	}})
	s.zone.open()
	return s
}

// ask packs a question, has it answered without the network, and unpacks the answer.
func ask(t testing.TB, s *Server, name string, typ uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	for _, f := range change {
		f(m)
	}
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	b, ok := s.here(&q, packet, make([]byte, 0, maxUDP), false)
	if !ok {
		b = s.outside(t.Context(), packet, false)
	}
	r := new(dns.Msg)
	if err := r.Unpack(b); err != nil {
		t.Fatalf("%s: the answer cannot be read: %v", name, err)
	}
	r.Compress = true // so that Len is that of the packet
	if r.Id != m.Id || !r.Response || len(r.Question) != 1 || r.Question[0] != m.Question[0] {
		t.Errorf("%s: header %+v, question %v", name, r.MsgHdr, r.Question)
	}
	return r
}

// show is an answer as text: code, and the records of each section without TTL and class.
func show(m *dns.Msg) string {
	out := dns.RcodeToString[m.Rcode]
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		var lines []string
		for _, rr := range section {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			f := strings.Fields(rr.String())
			line := strings.Join(append([]string{f[0], f[3]}, f[4:]...), " ")
			if rr.Header().Rrtype == dns.TypeSOA {
				line = f[0] + " SOA"
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		if len(lines) > 0 {
			out += [...]string{"", " ns", " extra"}[i] + " [" + strings.Join(lines, "; ") + "]"
		}
	}
	return out
}

const soa = " ns [cluster.local. SOA]"

func TestSpecification(t *testing.T) {
	s := newTest(t)
	for _, tc := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"kubernetes.default.svc.cluster.local.", dns.TypeA, "NOERROR [kubernetes.default.svc.cluster.local. A 10.43.0.1]"},
		{"web.default.svc.cluster.local.", dns.TypeAAAA, "NOERROR [web.default.svc.cluster.local. AAAA fd00::80]"},
		{"WEB.Default.svc.CLUSTER.local.", dns.TypeA, "NOERROR [WEB.Default.svc.CLUSTER.local. A 10.43.0.80]"},
		{"kubernetes.default.svc.cluster.local.", dns.TypeAAAA, "NOERROR" + soa},
		{"web.default.svc.cluster.local.", dns.TypeMX, "NOERROR" + soa},
		{"nobody.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN" + soa},
		{"web.empty.svc.cluster.local.", dns.TypeA, "NXDOMAIN" + soa},
		{"web.nowhere.svc.cluster.local.", dns.TypeA, "NXDOMAIN" + soa},
		{"x.web.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN" + soa},
		{"default.svc.cluster.local.", dns.TypeA, "NOERROR" + soa}, // others are below it
		{"empty.svc.cluster.local.", dns.TypeA, "NOERROR" + soa},   // a namespace
		{"nowhere.svc.cluster.local.", dns.TypeA, "NXDOMAIN" + soa},
		{"svc.cluster.local.", dns.TypeA, "NOERROR" + soa},
		{"_tcp.web.default.svc.cluster.local.", dns.TypeSRV, "NOERROR" + soa},
		{"example.org.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN" + soa}, // as search lists make them
		{"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV,
			"NOERROR [_http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local.] " +
				"extra [web.default.svc.cluster.local. A 10.43.0.80; web.default.svc.cluster.local. AAAA fd00::80]"},
		{"_http._udp.web.default.svc.cluster.local.", dns.TypeSRV, "NXDOMAIN" + soa},
		{"80.0.43.10.in-addr.arpa.", dns.TypePTR, "NOERROR [80.0.43.10.in-addr.arpa. PTR web.default.svc.cluster.local.]"},
		{"0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR,
			"NOERROR [0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR web.default.svc.cluster.local.]"},
		// Headless.
		{"db.default.svc.cluster.local.", dns.TypeA, "NOERROR [db.default.svc.cluster.local. A 10.42.0.2; db.default.svc.cluster.local. A 10.42.0.3]"},
		{"db-0.db.default.svc.cluster.local.", dns.TypeA, "NOERROR [db-0.db.default.svc.cluster.local. A 10.42.0.2]"},
		{"10-42-0-3.db.default.svc.cluster.local.", dns.TypeA, "NOERROR [10-42-0-3.db.default.svc.cluster.local. A 10.42.0.3]"},
		{"db-2.db.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN" + soa}, // not ready
		{"_peer._tcp.db.default.svc.cluster.local.", dns.TypeSRV,
			"NOERROR [_peer._tcp.db.default.svc.cluster.local. SRV 0 100 6379 10-42-0-3.db.default.svc.cluster.local.; " +
				"_peer._tcp.db.default.svc.cluster.local. SRV 0 100 6379 db-0.db.default.svc.cluster.local.] " +
				"extra [10-42-0-3.db.default.svc.cluster.local. A 10.42.0.3; db-0.db.default.svc.cluster.local. A 10.42.0.2]"},
		{"2.0.42.10.in-addr.arpa.", dns.TypePTR, "NOERROR [2.0.42.10.in-addr.arpa. PTR db-0.db.default.svc.cluster.local.]"},
		{"10-42-0-9.web.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN" + soa}, // not headless
		// Pods.
		{"10-42-0-7.default.pod.cluster.local.", dns.TypeA, "NOERROR [10-42-0-7.default.pod.cluster.local. A 10.42.0.7]"},
		{"fd00--7.default.pod.cluster.local.", dns.TypeAAAA, "NOERROR [fd00--7.default.pod.cluster.local. AAAA fd00::7]"},
		{"10-42-0-7.nowhere.pod.cluster.local.", dns.TypeA, "NXDOMAIN" + soa},
		{"ten.default.pod.cluster.local.", dns.TypeA, "NXDOMAIN" + soa},
		// ExternalName.
		{"alias.default.svc.cluster.local.", dns.TypeA,
			"NOERROR [alias.default.svc.cluster.local. CNAME web.default.svc.cluster.local.; web.default.svc.cluster.local. A 10.43.0.80]"},
		{"outside.default.svc.cluster.local.", dns.TypeCNAME, "NOERROR [outside.default.svc.cluster.local. CNAME example.org.]"},
		{"outside.default.svc.cluster.local.", dns.TypeA, "NOERROR [outside.default.svc.cluster.local. CNAME example.org.]"}, // nobody to ask
		// The zone itself.
		{"dns-version.cluster.local.", dns.TypeTXT, "NOERROR [dns-version.cluster.local. TXT \"1.1.0\"]"},
		{"cluster.local.", dns.TypeSOA, "NOERROR [cluster.local. SOA]"},
		{"cluster.local.", dns.TypeNS, "NOERROR [cluster.local. NS ns.dns.cluster.local.]"},
		{"ns.dns.cluster.local.", dns.TypeA, "NOERROR [ns.dns.cluster.local. A 10.43.0.10]"},
		{"cluster.local.", dns.TypeAXFR, "REFUSED"},
		// Others, with nobody to ask.
		{"example.org.", dns.TypeA, "SERVFAIL"},
		{"notcluster.local.", dns.TypeA, "SERVFAIL"},
		{"9.9.9.9.in-addr.arpa.", dns.TypePTR, "SERVFAIL"},
	} {
		r := ask(t, s, tc.name, tc.typ)
		if got := show(r); got != tc.want {
			t.Errorf("%s %s:\n got %s\nwant %s", tc.name, dns.TypeToString[tc.typ], got, tc.want)
		}
		if in := dns.IsSubDomain("cluster.local.", tc.name); in != r.Authoritative && r.Rcode != dns.RcodeRefused && !strings.HasSuffix(tc.name, "arpa.") {
			t.Errorf("%s: authoritative %v", tc.name, r.Authoritative)
		}
		for _, rr := range slices.Concat(r.Answer, r.Ns) {
			if rr.Header().Ttl != ttl {
				t.Errorf("%s: TTL %d", tc.name, rr.Header().Ttl)
			}
			if s, ok := rr.(*dns.SOA); ok && (s.Minttl != ttl || s.Ns != "ns.dns.cluster.local.") {
				t.Errorf("%s: %v", tc.name, s)
			}
		}
	}
}

func TestChanges(t *testing.T) {
	s := newTest(t)
	check := func(name, want string) {
		t.Helper()
		if got := show(ask(t, s, name, dns.TypeA)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	// A slice goes to another service.
	s.zone.service(&api.Change[*corev1.Service]{Type: "ADDED", Object: clusterIP("cache", corev1.ClusterIPNone)})
	check("cache.default.svc.cluster.local.", "NOERROR"+soa)
	s.zone.slice(&api.Change[*discoveryv1.EndpointSlice]{Type: "MODIFIED", Object: headlessSlice("cache", "db-1", end("10.42.0.2", "x", true))})
	check("cache.default.svc.cluster.local.", "NOERROR [cache.default.svc.cluster.local. A 10.42.0.2]")
	check("x.cache.default.svc.cluster.local.", "NOERROR [x.cache.default.svc.cluster.local. A 10.42.0.2]")
	check("db-0.db.default.svc.cluster.local.", "NXDOMAIN"+soa)
	check("db.default.svc.cluster.local.", "NOERROR"+soa)
	if got := show(ask(t, s, "2.0.42.10.in-addr.arpa.", dns.TypePTR)); got != "NOERROR [2.0.42.10.in-addr.arpa. PTR x.cache.default.svc.cluster.local.]" {
		t.Error(got)
	}
	s.zone.slice(&api.Change[*discoveryv1.EndpointSlice]{Type: "DELETED", Object: headlessSlice("cache", "db-1")})
	check("x.cache.default.svc.cluster.local.", "NXDOMAIN"+soa)
	s.zone.service(&api.Change[*corev1.Service]{Type: "DELETED", Object: clusterIP("cache", corev1.ClusterIPNone)})
	check("cache.default.svc.cluster.local.", "NXDOMAIN"+soa)
	// A service becomes another kind of service.
	s.zone.service(&api.Change[*corev1.Service]{Type: "MODIFIED", Object: clusterIP("db", "10.43.0.7")})
	check("db.default.svc.cluster.local.", "NOERROR [db.default.svc.cluster.local. A 10.43.0.7]")
	// A new complete state leaves nothing of the old.
	s.zone.service(&api.Change[*corev1.Service]{Reset: true, All: []*corev1.Service{clusterIP("db", "10.43.0.8")}})
	s.zone.slice(&api.Change[*discoveryv1.EndpointSlice]{Reset: true})
	s.zone.namespace(&api.Change[*corev1.Namespace]{Type: "DELETED", Object: &corev1.Namespace{ObjectMeta: meta("", "empty")}})
	check("web.default.svc.cluster.local.", "NXDOMAIN"+soa)
	check("empty.svc.cluster.local.", "NXDOMAIN"+soa)
	check("db.default.svc.cluster.local.", "NOERROR [db.default.svc.cluster.local. A 10.43.0.8]")
	s.zone.service(&api.Change[*corev1.Service]{Reset: true})
	if n := len(s.zone.names); n != 2 || len(s.zone.owned) != 0 || len(s.zone.reverse) != 0 || len(s.zone.inner) != 3 {
		t.Errorf("an empty cluster has %d names, %v, %v, %v", n, s.zone.owned, s.zone.reverse, s.zone.inner)
	}
}

func TestIncompleteZoneDeniesNothing(t *testing.T) {
	s, err := New(Config{Listen: []netip.AddrPort{netip.MustParseAddrPort("10.43.0.10:53")}})
	if err != nil {
		t.Fatal(err)
	}
	if r := ask(t, s, "web.default.svc.cluster.local.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("before the first state: %s", show(r))
	}
}

func TestSizes(t *testing.T) {
	s := newTest(t)
	var ends []discoveryv1.Endpoint
	for i := range 100 {
		ends = append(ends, end(fmt.Sprintf("10.42.9.%d", i), "", true))
	}
	s.zone.slice(&api.Change[*discoveryv1.EndpointSlice]{Type: "ADDED", Object: headlessSlice("db", "db-2", ends...)})
	const name = "db.default.svc.cluster.local."
	edns := func(size uint16) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, true) } }
	if r := ask(t, s, name, dns.TypeA); !r.Truncated || r.IsEdns0() != nil {
		t.Errorf("without EDNS: %d records, truncated %v", len(r.Answer), r.Truncated)
	}
	if r := ask(t, s, name, dns.TypeA, edns(1232)); !r.Truncated || r.IsEdns0() == nil || r.Len() > 1232 {
		t.Errorf("1232 bytes: %d records, truncated %v", len(r.Answer), r.Truncated)
	}
	r := ask(t, s, name, dns.TypeA, edns(4096))
	if r.Truncated || len(r.Answer) != 102 || r.IsEdns0() == nil || !r.IsEdns0().Do() {
		t.Errorf("4096 bytes: %d records, truncated %v", len(r.Answer), r.Truncated)
	}
	if r := ask(t, s, "_peer._tcp."+name, dns.TypeSRV, edns(512)); !r.Truncated || r.Len() > 512 {
		t.Errorf("SRV in 512 bytes: %d bytes, truncated %v", r.Len(), r.Truncated)
	}
	first := map[string]bool{}
	for range 50 {
		first[ask(t, s, name, dns.TypeA, edns(4096)).Answer[0].String()] = true
	}
	if len(first) < 10 {
		t.Errorf("the first address is one of only %d", len(first))
	}
	r = ask(t, s, name, dns.TypeA, func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().SetVersion(1)
	})
	if r.Rcode != dns.RcodeBadVers || len(r.Answer) != 0 {
		t.Errorf("EDNS version 1: %s", show(r))
	}
}

func TestBadPackets(t *testing.T) {
	s := newTest(t)
	m := new(dns.Msg)
	m.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	good, _ := m.Pack()
	change := func(f func(b []byte) []byte) []byte { return f(slices.Clone(good)) }
	for _, tc := range []struct {
		name   string
		packet []byte
		rcode  int // -1: no answer
	}{
		{"empty", nil, -1},
		{"short", good[:11], -1},
		{"a response", change(func(b []byte) []byte { b[2] |= 0x80; return b }), -1},
		{"notify", change(func(b []byte) []byte { b[2] |= 4 << 3; return b }), dns.RcodeNotImplemented},
		{"two questions", change(func(b []byte) []byte { b[5] = 2; return b }), dns.RcodeFormatError},
		{"cut", good[:20], dns.RcodeFormatError},
		{"a pointer in the question", change(func(b []byte) []byte { b[12] = 0xc0; return b }), dns.RcodeFormatError},
		{"a missing OPT", change(func(b []byte) []byte { b[11] = 1; return b }), dns.RcodeFormatError},
		{"class CHAOS", change(func(b []byte) []byte { b[len(b)-1] = 3; return b }), dns.RcodeRefused},
	} {
		var q query
		b, ok := s.here(&q, tc.packet, make([]byte, 0, 512), false)
		if tc.rcode < 0 {
			if !ok || b != nil {
				t.Errorf("%s is answered: %x", tc.name, b)
			}
			continue
		}
		if !ok || len(b) < headerLen || int(b[3]&15) != tc.rcode {
			t.Errorf("%s: %x, want code %d", tc.name, b, tc.rcode)
		}
	}
}

func FuzzPacket(f *testing.F) {
	s := newTest(f)
	m := new(dns.Msg)
	m.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	m.SetEdns0(1232, true)
	b, _ := m.Pack()
	f.Add(b)
	m.SetQuestion("_peer._tcp.db.default.svc.cluster.local.", dns.TypeSRV)
	b, _ = m.Pack()
	f.Add(b)
	f.Fuzz(func(t *testing.T, packet []byte) {
		var q query
		b, ok := s.here(&q, packet, make([]byte, 0, 512), false)
		if !ok || b == nil {
			return
		}
		r := new(dns.Msg)
		if err := r.Unpack(b); err != nil && b[3]&15 == 0 {
			t.Errorf("%x is answered with %x, which cannot be read: %v", packet, b, err)
		}
	})
}

// upstreamServer answers A questions with ip, big.test. with more than fits, and counts.
func upstreamServer(t testing.TB, ip string, asked *atomic.Int32) netip.AddrPort {
	t.Helper()
	p, l := bothPorts(t)
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg)
		m.SetReply(q)
		n := 1
		switch strings.ToLower(q.Question[0].Name) {
		case "big.test.":
			n = 100
		case "no.test.":
			m.Rcode = dns.RcodeNameError
			m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: 1, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 20}}
			n = 0
		}
		for i := range n {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: 1, Ttl: 60}, A: net.ParseIP(ip).To4().Mask(net.CIDRMask(24, 32))})
			m.Answer[i].(*dns.A).A[3] = byte(i + 1)
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(512)
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: p, Handler: h}, {Listener: l, Handler: h}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return netip.MustParseAddrPort(p.LocalAddr().String())
}

// bothPorts opens a port for UDP, and the same one for TCP. One that another
// program has for TCP already is given back, and another tried.
func bothPorts(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for try := 1; ; try++ {
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", p.LocalAddr().String())
		if err == nil {
			return p, l
		}
		p.Close()
		if try == 20 || !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

func setUpstreams(s *Server, list ...netip.AddrPort) {
	ups := []*upstream{}
	for _, a := range list {
		ups = append(ups, &upstream{addr: a})
	}
	s.fwd.ups.Store(&ups)
}

func TestForwarding(t *testing.T) {
	s := newTest(t)
	var asked atomic.Int32
	up := upstreamServer(t, "192.0.2.0", &asked)
	dead, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := netip.MustParseAddrPort(dead.LocalAddr().String())
	dead.Close()
	setUpstreams(s, gone, up)
	for range 2 {
		if got := show(ask(t, s, "Web.Test.", dns.TypeA)); got != "NOERROR [Web.Test. A 192.0.2.1]" && got != "NOERROR [web.test. A 192.0.2.1]" {
			t.Errorf("forwarded: %s", got)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the second time was not from the cache: asked %d times", n)
	}
	for range 2 {
		if got := show(ask(t, s, "no.test.", dns.TypeA)); got != "NXDOMAIN ns [test. SOA]" {
			t.Errorf("denied: %s", got)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("a denial was not kept: asked %d times", n)
	}
	if got := show(ask(t, s, "outside.default.svc.cluster.local.", dns.TypeA)); got != "NOERROR [example.org. A 192.0.2.1; outside.default.svc.cluster.local. CNAME example.org.]" {
		t.Errorf("alias: %s", got)
	}
	if r := ask(t, s, "big.test.", dns.TypeA); !r.Truncated {
		t.Errorf("over UDP: %d records, not truncated", len(r.Answer))
	}
	m := new(dns.Msg)
	m.SetQuestion("big.test.", dns.TypeA)
	packet, _ := m.Pack()
	if err := m.Unpack(s.outside(t.Context(), packet, true)); err != nil || len(m.Answer) != 100 {
		t.Errorf("over TCP: %d records, %v", len(m.Answer), err)
	}
	// A cached answer that a client over UDP cannot take.
	if r := ask(t, s, "big.test.", dns.TypeA); !r.Truncated {
		t.Error("a big cached answer was sent over UDP")
	}
}

func TestCachedTTLsCountDown(t *testing.T) {
	s := newTest(t)
	var asked atomic.Int32
	setUpstreams(s, upstreamServer(t, "192.0.2.0", &asked))
	ask(t, s, "web.test.", dns.TypeA)
	for _, e := range s.fwd.cache.entries {
		e.at = e.at.Add(-7 * time.Second)
	}
	if r := ask(t, s, "WEB.test.", dns.TypeA); r.Answer[0].Header().Ttl != 53 {
		t.Errorf("after 7 of 60 seconds: %v", r.Answer)
	}
	for _, e := range s.fwd.cache.entries {
		e.at = e.at.Add(-maxCachedTTL * time.Second)
	}
	if ask(t, s, "web.test.", dns.TypeA); asked.Load() != 2 {
		t.Errorf("after its time: asked %d times", asked.Load())
	}
}

func TestResolvers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	c := Config{Listen: []netip.AddrPort{netip.MustParseAddrPort("10.43.0.10:53")}}
	for _, tc := range []struct{ name, conf, stub, want string }{
		{"plain", "search x\nnameserver 192.0.2.1\nnameserver 192.0.2.2 # second\nnameserver 192.0.2.1\n", "", "[192.0.2.1:53 192.0.2.2:53]"},
		{"systemd-resolved", "nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.9\n", "[192.0.2.9:53]"},
		{"systemd-resolved without upstream", "nameserver 127.0.0.53\n", "", "[]"},
		{"ourselves", "nameserver 10.43.0.10\nnameserver 192.0.2.1\n", "", "[192.0.2.1:53]"},
		{"resolved asks us", "nameserver 127.0.0.53\n", "nameserver 10.43.0.10\n", "[]"},
		{"nonsense", "nameserver\nnameserver x\n; nameserver 192.0.2.7\n", "", "[]"},
	} {
		c.ResolvConf, c.StubConf = write("resolv.conf", tc.conf), write("stub.conf", tc.stub)
		got, err := c.resolvers()
		if err != nil || fmt.Sprint(got) != tc.want {
			t.Errorf("%s: %v, %v; want %s", tc.name, got, err, tc.want)
		}
	}
	c.ResolvConf = filepath.Join(dir, "missing")
	if got, err := c.resolvers(); err != nil || len(got) != 0 {
		t.Errorf("no file: %v, %v", got, err)
	}
}

// running is a server on a free port of 127.0.0.1 beside a real API server.
func running(t testing.TB, c Config) (*Server, *apiserver.Server, string) {
	t.Helper()
	h, err := apiserver.New(t.Context(), apiserver.Config{Engine: memory.New(nil), Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c.Listen = []netip.AddrPort{netip.MustParseAddrPort(addr)}
	if c.ResolvConf == "" {
		c.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	}
	c.StubConf = c.ResolvConf + ".stub"
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, h, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
	return s, h, addr
}

func exchange(t testing.TB, network, addr, name string, typ uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	c := dns.Client{Net: network, Timeout: 2 * time.Second}
	r, _, err := c.Exchange(m, addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return r
}

func TestVisibleSoonAfterTheWrite(t *testing.T) {
	_, h, addr := running(t, Config{})
	ctx := t.Context()
	ns := &corev1.Namespace{ObjectMeta: meta("", "shop")}
	if _, err := core.Namespace.Create(ctx, h, ns); err != nil {
		t.Fatal(err)
	}
	svc := clusterIP("web", "10.43.0.80", corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP})
	svc.Namespace = "shop"
	start := time.Now()
	if _, err := core.Service.Create(ctx, h, svc); err != nil {
		t.Fatal(err)
	}
	const name = "web.shop.svc.cluster.local."
	for exchange(t, "udp", addr, name, dns.TypeA).Rcode != dns.RcodeSuccess {
		if time.Since(start) > 5*time.Second {
			t.Fatal("the service is not found")
		}
	}
	t.Logf("answered %v after the write", time.Since(start))
	if got := show(exchange(t, "tcp", addr, name, dns.TypeA)); got != "NOERROR ["+name+" A 10.43.0.80]" {
		t.Error(got)
	}
	db := clusterIP("db", corev1.ClusterIPNone, corev1.ServicePort{Name: "peer", Port: 6379, Protocol: corev1.ProtocolTCP})
	db.Namespace = "shop"
	if _, err := core.Service.Create(ctx, h, db); err != nil {
		t.Fatal(err)
	}
	sl := headlessSlice("db", "db-1", end("10.42.0.2", "db-0", true))
	sl.Namespace = "shop"
	if _, err := discovery.EndpointSlice.Create(ctx, h, sl); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); exchange(t, "udp", addr, "db-0.db.shop.svc.cluster.local.", dns.TypeA).Rcode != dns.RcodeSuccess; {
		if time.Since(start) > 5*time.Second {
			t.Fatal("the endpoint is not found")
		}
	}
}

func TestResolvConfIsFollowed(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	s, _, _ := running(t, Config{ResolvConf: conf})
	wait := func(want string) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			var got []string
			for _, u := range *s.fwd.ups.Load() {
				got = append(got, u.addr.String())
			}
			if fmt.Sprint(got) == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("resolvers %v, want %s", got, want)
			}
		}
	}
	wait("[]")
	if err := os.WriteFile(conf, []byte("nameserver 127.9.9.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wait("[127.9.9.1:53]")
	if err := os.WriteFile(conf+".new", []byte("nameserver 127.9.9.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(conf+".new", conf); err != nil {
		t.Fatal(err)
	}
	wait("[127.9.9.2:53]")
}

func TestCircleIsNoticed(t *testing.T) {
	s, _, addr := running(t, Config{})
	// An upstream that passes every question back to us, as a resolver that is set to use the cluster's does.
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	relay := &dns.Server{PacketConn: p, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		if r, _, err := new(dns.Client).Exchange(q, addr); err == nil {
			_ = w.WriteMsg(r)
		}
	})}
	go func() { _ = relay.ActivateAndServe() }()
	t.Cleanup(func() { _ = relay.Shutdown() })
	u := &upstream{addr: netip.MustParseAddrPort(p.LocalAddr().String())}
	s.fwd.ups.Store(&[]*upstream{u})
	s.fwd.probe(t.Context(), u)
	if !u.circle.Load() {
		t.Fatal("the circle was not noticed")
	}
	before := asked.Load()
	if r := exchange(t, "udp", addr, "example.org.", dns.TypeA); r.Rcode != dns.RcodeServerFailure || asked.Load() != before {
		t.Errorf("asked round in a circle: %s", show(r))
	}
}

func TestAddressTaken(t *testing.T) {
	s, h, _ := running(t, Config{})
	second, err := New(Config{Listen: s.c.Listen, ResolvConf: s.c.ResolvConf, StubConf: s.c.StubConf})
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), h, second); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("two servers on one address: %v", err)
	}
}

func FuzzForeignAnswer(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("web.test.", dns.TypeA)
	question, _ := m.Pack()
	m.Response = true
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "web.test.", Rrtype: dns.TypeA, Class: 1, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
	b, _ := m.Pack()
	f.Add(b)
	m.Answer, m.Rcode = nil, dns.RcodeNameError
	m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: 1, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 20}}
	b, _ = m.Pack()
	f.Add(b)
	f.Fuzz(func(t *testing.T, answer []byte) {
		if len(answer) < headerLen || !sameQuestion(answer, question) {
			return
		}
		var q query
		q.parse(question, false)
		c := cache{entries: map[string]*cached{}}
		c.put("k", &q, answer)
		if b := c.get("k", &q); b != nil && string(b[headerLen:q.end]) != string(question[headerLen:q.end]) {
			t.Errorf("%x became %x", answer, b)
		}
	})
}
