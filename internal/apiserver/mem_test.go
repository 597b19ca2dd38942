package apiserver_test

import (
	"testing"

	"proa/internal/apiserver"
	"proa/internal/kinds/core"
)

func BenchmarkMemory(b *testing.B) {
	s := benchServer(b, "lsm")
	before := heap()
	fill(b, s, 10000)
	b.Logf("10k pods: %d KB", (heap()-before)>>10)
	s.ForgetEvents()
	b.Logf("after the events: %d KB", (heap()-before)>>10)
	s.Sweep()
	s.Sweep()
	b.Logf("after sweeps: %d KB", (heap()-before)>>10)
	n := 0
	size := 0
	for p := range apiserver.All(s.Snapshot(), core.Pod, "") {
		n++
		size += p.Size()
	}
	b.Logf("all decoded: %d KB; %d bytes each", (heap()-before)>>10, size/n)
}
