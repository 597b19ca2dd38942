package node_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
)

// TestManyNodes runs pods on many pretend nodes in one process: each pod is Running
// after at most four writes, and a node at rest keeps few goroutines.
func TestManyNodes(t *testing.T) {
	nodes, each := 20, 10
	if s := os.Getenv("PROA_TEST_NODES"); s != "" { // for a look at the cost: 1000 or more
		nodes, _ = strconv.Atoi(s)
	}
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	before := runtime.NumGoroutine()
	for i := range nodes {
		name := fmt.Sprintf("m%d", i)
		a, err := node.New(node.Config{Name: name, Handler: w.writes, Machine: node.Machine{MilliCPU: 64000, Memory: 64 << 30},
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.0.1"}},
			Runtime:   pretend.New(pretend.Options{Seed: name, CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)})})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _ = a.Run(ctx) })
	}
	w.eventually("all nodes registered", func() bool {
		l, err := core.Node.List(ctx, w.api, "", api.Selectors{})
		return err == nil && len(l) == nodes+1
	})
	began := time.Now()
	for i := range nodes * each {
		p := simple(fmt.Sprintf("p%d", i))
		p.Namespace, p.Spec.NodeName = "default", fmt.Sprintf("m%d", i%nodes)
		if _, err := core.Pod.Create(ctx, w.api, p); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("all pods running", func() bool {
		l, err := core.Pod.List(ctx, w.api, "", api.WithField("status.phase", "Running"))
		return err == nil && len(l) == nodes*each
	})
	took := time.Since(began)
	w.eventually("at rest", func() bool { return runtime.NumGoroutine()-before <= nodes*12 })
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("%d pods on %d nodes running after %v; %d goroutines a node; heap %d MB", nodes*each, nodes, took,
		(runtime.NumGoroutine()-before)/nodes, m.HeapAlloc>>20)
	w.writes.mu.Lock()
	defer w.writes.mu.Unlock()
	for pod, n := range w.writes.n {
		if n > 4 {
			t.Errorf("%s was written %d times", pod, n)
		}
	}
}
