package dns

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
)

func manyNames(t testing.TB, s *Server, n int) {
	var all []*corev1.Service
	ip := netip.MustParseAddr("10.43.1.0")
	for i := range n {
		ip = ip.Next()
		all = append(all, clusterIP(fmt.Sprintf("svc-%d", i), ip.String(), corev1.ServicePort{Name: "http", Port: 80}))
	}
	s.zone.service(&api.Change[*corev1.Service]{Reset: true, All: all})
}

func packed(t testing.TB, name string, typ uint16) []byte {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// BenchmarkAnswer answers without the network, among 10k services.
func BenchmarkAnswer(b *testing.B) {
	s := newTest(b)
	manyNames(b, s, 10_000)
	for _, tc := range []struct {
		name, q string
		typ     uint16
	}{
		{"A", "svc-77.default.svc.cluster.local.", dns.TypeA},
		{"NXDOMAIN", "example.org.default.svc.cluster.local.", dns.TypeA},
		{"SRV", "_http._tcp.svc-77.default.svc.cluster.local.", dns.TypeSRV},
	} {
		b.Run(tc.name, func(b *testing.B) {
			packet, out := packed(b, tc.q, tc.typ), make([]byte, 0, maxUDP)
			var q query
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := s.here(&q, packet, out, false); !ok {
					b.Fatal("not answered here")
				}
			}
		})
	}
}

// BenchmarkUDP asks over loopback, from 16 clients that wait for each answer.
func BenchmarkUDP(b *testing.B) {
	s, _, addr := running(b, Config{})
	manyNames(b, s, 10_000)
	const clients = 16
	var all sync.WaitGroup
	b.ResetTimer()
	for c := range clients {
		all.Go(func() {
			conn, err := net.Dial("udp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			buf := make([]byte, 512)
			packet := packed(b, fmt.Sprintf("svc-%d.default.svc.cluster.local.", c*100), dns.TypeA)
			for range b.N / clients {
				if _, err := conn.Write(packet); err != nil {
					b.Error(err)
					return
				}
				if _, err := conn.Read(buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}

// BenchmarkUpdate changes one service among 10k.
func BenchmarkUpdate(b *testing.B) {
	s := newTest(b)
	manyNames(b, s, 10_000)
	for i := 0; b.Loop(); i++ {
		s.zone.service(&api.Change[*corev1.Service]{Type: "MODIFIED", Object: clusterIP("svc-9", fmt.Sprintf("10.43.0.%d", i%200))})
	}
}
