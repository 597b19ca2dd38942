package realtest

import (
	"testing"

	"proa/internal/node/cri/critest"
)

func TestContract(t *testing.T) {
	h := start(t)
	h.halt() // it would take the suite's sandbox for one without a pod
	critest.Run(t, h.rt, critest.Options{Image: image, Missing: "127.0.0.1:1/nobody/has:this", Forever: []string{"/bin/proa-test", "serve"},
		Say: []string{"/bin/sh", "-c", "echo hello", "hello"}, Cgroup: h.cgroup + "/contract", LogDir: h.dir + "/contract"})
}
