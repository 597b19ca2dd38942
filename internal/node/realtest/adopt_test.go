package realtest

import (
	"testing"

	"proa/internal/node/containerd"
)

// A containerd that runs is taken up by the next process, not started twice; with
// another configuration it is started again. Containers live on through both.
func TestContainerdAdopted(t *testing.T) {
	h := start(t)
	h.create(pod("a", "serve"))
	before := h.until("a", "ready", ready)
	pid := h.sup.PID()
	h.sup.Leave()
	var err error
	if h.sup, err = containerd.Start(t.Context(), h.conf, h.log()); err != nil {
		t.Fatal(err)
	}
	if h.sup.PID() != pid || !h.sup.Adopted() {
		t.Errorf("process %d, adopted %v; want %d to be taken up", h.sup.PID(), h.sup.Adopted(), pid)
	}
	h.sup.Leave()
	h.conf.Debug = true
	if h.sup, err = containerd.Start(t.Context(), h.conf, h.log()); err != nil {
		t.Fatal(err)
	}
	if h.sup.PID() == pid || h.sup.Adopted() {
		t.Error("a new configuration was not taken over")
	}
	h.create(pod("b", "serve"))
	h.until("b", "ready", ready)
	after := h.until("a", "ready", ready)
	if x, y := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; x.ContainerID != y.ContainerID || y.RestartCount != 0 {
		t.Errorf("the container was started again: %+v", y)
	}
}
