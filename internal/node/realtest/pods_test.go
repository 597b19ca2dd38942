package realtest

import (
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
)

func (h *host) subs() map[string]api.SubFunc { return nil }

func TestPodRunsAndGoes(t *testing.T) {
	h := start(t)
	began := time.Now()
	h.create(pod("a", "serve"))
	p := h.until("a", "ready", ready)
	t.Log("first pod ready after", time.Since(began))
	if p.Status.PodIP == "" || !strings.HasPrefix(p.Status.PodIP, "10.77.0.") {
		t.Errorf("address %q", p.Status.PodIP)
	}
	if out := h.exec(p, "/bin/cat", "/etc/resolv.conf"); !strings.Contains(out, "nameserver 10.43.0.10") || !strings.Contains(out, "search default.svc.cluster.local") || !strings.Contains(out, "ndots:5") {
		t.Errorf("resolv.conf: %s", out)
	}
	if out := h.exec(p, "/bin/cat", "/etc/hosts"); !strings.Contains(out, p.Status.PodIP+"\ta") {
		t.Errorf("hosts: %s", out)
	}
	began = time.Now()
	h.delete("a")
	h.until("a", "gone", gone)
	t.Log("gone after", time.Since(began))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		list, err := h.rt.ListSandboxes(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		left, _ := os.ReadDir(h.dir + "/node/pods")
		if len(list) == 0 && len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("left behind: %d sandboxes, %d folders", len(list), len(left))
		}
	}
}

func TestPodEnds(t *testing.T) {
	h := start(t)
	good, bad := pod("good", "exit", "0"), pod("bad", "exit", "7")
	good.Spec.RestartPolicy, bad.Spec.RestartPolicy = corev1.RestartPolicyNever, corev1.RestartPolicyNever
	none := pod("none")
	none.Spec.Containers[0].Command = []string{"/bin/not-there"}
	none.Spec.RestartPolicy = corev1.RestartPolicyNever
	h.create(good)
	h.create(bad)
	h.create(none)
	if p := h.until("good", "ended", ended); p.Status.Phase != corev1.PodSucceeded {
		t.Errorf("good: %+v", p.Status)
	}
	p := h.until("bad", "ended", ended)
	if s := p.Status.ContainerStatuses[0].State.Terminated; p.Status.Phase != corev1.PodFailed || s == nil || s.ExitCode != 7 || s.Reason != "Error" {
		t.Errorf("bad: %+v", p.Status)
	}
	p = h.until("none", "ended", ended)
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 128 || s.Reason != "StartError" {
		t.Errorf("none: %+v", p.Status.ContainerStatuses)
	}
}
