package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/store"
)

// TestCharge follows what a pod takes from its node to its end: nothing once the API,
// and with it the scheduler, has seen that it is over, unless something still runs.
func TestCharge(t *testing.T) {
	for _, tt := range []struct {
		name    string
		phase   corev1.PodPhase
		runs    bool
		stopped bool
		want    bool
	}{
		{"it runs", corev1.PodRunning, true, false, true},
		{"its containers have ended, and nobody has been told", corev1.PodRunning, false, false, true},
		{"that has been told, and its sandbox is still there", corev1.PodSucceeded, false, false, false},
		{"it was given up by others, and runs", corev1.PodFailed, true, false, true},
		{"all is stopped", corev1.PodRunning, false, true, false},
	} {
		pod := &corev1.Pod{Status: corev1.PodStatus{Phase: tt.phase}}
		w := newWorker(&Agent{ctx: t.Context(), Config: Config{Clock: store.SystemClock{}}}, pod)
		w.mem.stopped = tt.stopped
		v := &view{sandboxes: []*sandbox{{}}, containers: []*container{{state: exited}}}
		if tt.runs {
			v.containers[0].state = running
		}
		if w.charge(v); (w.charged.Load() != nil) != tt.want {
			t.Errorf("%s: charged %v", tt.name, !tt.want)
		}
	}
}
