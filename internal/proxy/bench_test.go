package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/internal/overlay/nettest"
)

func manyServices(n, ends int) (svcs []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	ip := netip.MustParseAddr("10.43.1.0")
	end := netip.MustParseAddr("10.42.1.0")
	for i := range n {
		ip = ip.Next()
		s := service(fmt.Sprintf("svc-%d", i), ip.String(), port("http", 80, 0))
		s.ResourceVersion = "1"
		var addrs []string
		for range ends {
			if end = end.Next(); !netip.MustParsePrefix("10.42.0.0/16").Contains(end) {
				end = netip.MustParseAddr("10.42.1.1")
			}
			addrs = append(addrs, end.String()+" elsewhere")
		}
		svcs, slices = append(svcs, s), append(slices, slice(s, addrs...))
	}
	return svcs, slices
}

func benchApplier(b *testing.B, n, ends int) *applier {
	nettest.Need(b)
	c := testConfig(b)
	c.Log = nil
	p, err := New(c)
	if err != nil {
		b.Fatal(err)
	}
	t, err := openTable(p.c)
	if err != nil {
		b.Fatal(err)
	}
	cleaner := newFlowCleaner(p.log)
	b.Cleanup(func() {
		cleaner.stop()
		t.close()
		if err := Clean(c.Table); err != nil {
			b.Error(err)
		}
	})
	a := &applier{p: p, table: t, parts: map[string]*Part{}, cleaner: cleaner}
	s, sl := manyServices(n, ends)
	p.SetServices(s)
	p.SetSlices(sl)
	return a
}

// BenchmarkFullSync writes everything into an empty table: 10k services with 5
// endpoints, and 5k services with 50 endpoints.
func BenchmarkFullSync(b *testing.B) {
	for _, size := range [][2]int{{10_000, 5}, {5_000, 50}} {
		b.Run(fmt.Sprintf("services=%d/endpoints=%d", size[0], size[0]*size[1]), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				a := benchApplier(b, size[0], size[1])
				b.StartTimer()
				if err := a.apply(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				_ = Clean("tproa")
				b.StartTimer()
			}
		})
	}
}

// BenchmarkRestart finds 10k services in the kernel and changes nothing.
func BenchmarkRestart(b *testing.B) {
	a := benchApplier(b, 10_000, 5)
	if err := a.apply(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		a.loaded = false
		a.p.changed(func(w *wanted) { w.dirty["none/none"] = true })
		if err := a.apply(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOneChange replaces one endpoint of one service among 10, and 10k.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			a := benchApplier(b, n, 5)
			if err := a.apply(); err != nil {
				b.Fatal(err)
			}
			s := service("svc-7", "10.43.1.8", port("http", 80, 0))
			var took []time.Duration
			i := 0
			for b.Loop() {
				i++
				ends := []string{"10.42.9.1", "10.42.9.2", "10.42.9.3", "10.42.9.4", fmt.Sprintf("10.42.10.%d", i%200)}
				start := time.Now()
				a.p.SetSlice(slice(s, ends[:4+i%2]...), nil)
				if err := a.apply(); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkFirstPacket opens connections through a service among 10, and 10k.
func BenchmarkFirstPacket(b *testing.B) {
	for _, n := range []int{10, 10_000, 30_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			r := newRig(b)
			r.c.Log = nil
			ip := r.pod("a")
			svcs, sl := manyServices(n, 2)
			s := service("web", "10.43.0.80", port("", 80, 0))
			r.p.SetServices(append(svcs, s))
			r.p.SetSlices(append(sl, slice(s, ip)))
			r.sync()
			for b.Loop() {
				c, err := r.node.Dial("tcp", "10.43.0.80:80", time.Second)
				if err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
		})
	}
}
