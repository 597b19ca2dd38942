package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

var modeNames = map[Mode]string{Plain: "plain", MasqOutside: "masq-outside", MasqAlways: "masq", Reject: "reject", Drop: "drop"}

// text shows a part: one line for each frontend, with the endpoints it leads to.
func (p *Part) text() string {
	if p == nil {
		return "nothing"
	}
	var lines []string
	for _, f := range p.Frontends {
		var ends []string
		for _, g := range p.Groups {
			if g.ID != f.Group {
				continue
			}
			for _, e := range g.Slots {
				ends = append(ends, netip.AddrPortFrom(e.Addr, e.Port).String())
			}
			if g.Affinity > 0 {
				ends = append(ends, fmt.Sprintf("for %ds", g.Affinity))
			}
		}
		line := fmt.Sprintf("%s:%d/%d %s -> %s", f.Addr, f.Port, f.Protocol, modeNames[f.Mode], strings.Join(ends, " "))
		if f.Internal {
			line = "inside " + line
		}
		lines = append(lines, strings.TrimSuffix(line, " -> "))
	}
	return strings.Join(append(lines, p.Problems...), "\n")
}

func TestBuild(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spec  func(*corev1.ServiceSpec)
		ports []corev1.ServicePort
		ends  []string
		want  string
	}{
		{name: "cluster IP", ports: []corev1.ServicePort{port("http", 80, 0)}, ends: []string{"10.42.0.3", "10.42.0.2"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.2:80 10.42.0.3:80"},
		{name: "two ports", ports: []corev1.ServicePort{port("http", 80, 0), udp(port("dns", 53, 0))}, ends: []string{"10.42.0.2"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.2:80\n10.43.0.80:53/17 masq-outside -> 10.42.0.2:80"},
		{name: "no endpoints", ports: []corev1.ServicePort{port("", 80, 0)}, want: "10.43.0.80:80/6 reject"},
		{name: "headless", spec: func(s *corev1.ServiceSpec) { s.ClusterIP = "None" }, ports: []corev1.ServicePort{port("", 80, 0)}, ends: []string{"10.42.0.2"}, want: "nothing"},
		{name: "a name", spec: func(s *corev1.ServiceSpec) { s.Type, s.ClusterIP = "ExternalName", "" }, want: "nothing"},
		{name: "answered by the node", spec: func(s *corev1.ServiceSpec) { s.ClusterIP = "10.43.0.10" }, ports: []corev1.ServicePort{port("", 53, 0)}, ends: []string{"10.42.0.2"}, want: ""},
		{name: "node port", ports: []corev1.ServicePort{port("", 80, 30080)}, ends: []string{"10.42.0.2"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.2:80\n0.0.0.0:30080/6 masq -> 10.42.0.2:80"},
		{name: "load balancer", spec: func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{"198.51.100.1", "fd00::1", "x"} },
			ports: []corev1.ServicePort{port("", 80, 0)}, ends: []string{"10.42.0.2"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.2:80\n198.51.100.1:80/6 masq -> 10.42.0.2:80\n\"x\" is no address"},
		{name: "external policy", spec: func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = "Local" },
			ports: []corev1.ServicePort{port("", 80, 30080)}, ends: []string{"10.42.0.2", "10.42.1.2 elsewhere"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.2:80 10.42.1.2:80\n0.0.0.0:30080/6 plain -> 10.42.0.2:80\n" +
				"inside 0.0.0.0:30080/6 plain -> 10.42.0.2:80 10.42.1.2:80"},
		{name: "external policy, nobody here", spec: func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = "Local" },
			ports: []corev1.ServicePort{port("", 80, 30080)}, ends: []string{"10.42.1.2 elsewhere"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.1.2:80\n0.0.0.0:30080/6 drop\ninside 0.0.0.0:30080/6 plain -> 10.42.1.2:80"},
		{name: "internal policy, nobody here", spec: func(s *corev1.ServiceSpec) { s.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal) },
			ports: []corev1.ServicePort{port("", 80, 0)}, ends: []string{"10.42.1.2 elsewhere"}, want: "10.43.0.80:80/6 drop"},
		{name: "internal policy, nobody", spec: func(s *corev1.ServiceSpec) { s.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal) },
			ports: []corev1.ServicePort{port("", 80, 0)}, want: "10.43.0.80:80/6 reject"},
		{name: "terminating besides ready", ports: []corev1.ServicePort{port("", 80, 0)}, ends: []string{"10.42.0.2 terminating", "10.42.0.3"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.3:80"},
		{name: "terminating only", ports: []corev1.ServicePort{port("", 80, 0)}, ends: []string{"10.42.0.2 terminating", "10.42.0.3 unready"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.2:80"},
		{name: "terminating here, ready elsewhere", spec: func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = "Local" },
			ports: []corev1.ServicePort{port("", 80, 30080)}, ends: []string{"10.42.0.2 terminating", "10.42.1.2 elsewhere"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.1.2:80\n0.0.0.0:30080/6 plain -> 10.42.0.2:80\ninside 0.0.0.0:30080/6 plain -> 10.42.1.2:80"},
		{name: "affinity", spec: func(s *corev1.ServiceSpec) { s.SessionAffinity = "ClientIP" }, ports: []corev1.ServicePort{port("", 80, 0)}, ends: []string{"10.42.0.2"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.2:80 for 10800s"},
		{name: "twice the same endpoint", ports: []corev1.ServicePort{port("", 80, 0)}, ends: []string{"10.42.0.2", "10.42.0.2"},
			want: "10.43.0.80:80/6 masq-outside -> 10.42.0.2:80"},
	} {
		s := service("web", "10.43.0.80", tc.ports...)
		if tc.spec != nil {
			tc.spec(&s.Spec)
		}
		c := testConfig(t)
		p := Build(s, map[string]*discoveryv1.EndpointSlice{"a": slice(s, tc.ends...)}, &c, func(Group) []Endpoint { return nil })
		if got := p.text(); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, strings.ReplaceAll(got, "\n", "\n     "), strings.ReplaceAll(tc.want, "\n", "\n     "))
		}
	}
}

func TestAssignMovesFew(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	e := func(i int) Endpoint { return Endpoint{netip.AddrFrom4([4]byte{10, 42, 0, byte(i)}), 80} }
	var had []Endpoint
	for round := range 2000 {
		var want []Endpoint
		for i := range 20 {
			if r.IntN(2) == 0 {
				want = append(want, e(i))
			}
		}
		got := assign(had, want)
		sorted := slices.Clone(got)
		slices.SortFunc(sorted, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
		if !slices.Equal(sorted, want) {
			t.Fatalf("seed %d round %d: %v became %v", seed, round, want, got)
		}
		for i, x := range had {
			if i < len(got) && slices.Contains(want, x) && got[i] != x {
				t.Fatalf("seed %d round %d: %v was moved from slot %d", seed, round, x, i)
			}
		}
		had = got
	}
}

// TestClaims gives and takes parts at random, and compares with the plain
// union, in which the lowest owner wins.
func TestClaims(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	c := newClaims()
	kernel := [maps]map[string]string{}
	for m := range kernel {
		kernel[m] = map[string]string{}
	}
	parts := map[string]*Part{}
	for round := range 3000 {
		owner := string(rune('a' + r.IntN(5)))
		var next *Part
		if r.IntN(4) > 0 {
			next = &Part{}
			for range r.IntN(4) {
				next.Frontends = append(next.Frontends, Frontend{Key: Key{netip.IPv4Unspecified(), 6, uint16(r.IntN(4))}, Class: uint32(r.IntN(3)), Internal: r.IntN(2) == 0})
				next.Hairpin = append(next.Hairpin, netip.AddrFrom4([4]byte{10, 42, 0, byte(r.IntN(3))}))
			}
		}
		c.replace(owner, parts[owner], next)
		parts[owner] = next
		for m := range kernel {
			for key := range c.changed[m] {
				if w, ok := c.by[m][key]; ok {
					kernel[m][key] = w.value
				} else {
					delete(kernel[m], key)
				}
			}
			clear(c.changed[m])
		}
		var want [maps]map[string]string
		for m := range want {
			want[m] = map[string]string{}
		}
		for _, o := range []string{"e", "d", "c", "b", "a"} {
			parts[o].each(func(m int, key, value string) { want[m][key] = value })
		}
		if fmt.Sprint(kernel) != fmt.Sprint(want) {
			t.Fatalf("seed %d round %d: the maps hold\n%q\nwant\n%q", seed, round, kernel, want)
		}
	}
}
