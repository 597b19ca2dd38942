package node_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/cri"
)

// a meter shows what a test sets.
type meter struct {
	mu sync.Mutex
	s  node.Signals
}

func (m *meter) read(context.Context) node.Signals {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.s
}

func (m *meter) set(f func(*node.Signals)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.s)
}

// plenty is a node at ease.
func plenty() *meter {
	half := node.Left{Free: 50, Total: 100}
	return &meter{s: node.Signals{Memory: node.Left{Free: 4 << 30, Total: 8 << 30}, Disk: half, Inodes: half, Images: half, ImageInodes: half, PIDs: half}}
}

func pressed(t *testing.T, w *world) string {
	t.Helper()
	n, err := core.Node.Get(t.Context(), w.api, "", "n1")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady && c.Status == corev1.ConditionTrue {
			out = append(out, fmt.Sprintf("%s: %s (%s)", c.Type, c.Reason, c.Message))
		}
	}
	return strings.Join(out, "; ")
}

// Each signal raises its condition just below its threshold and not at it, within
// 10 s, and the condition goes 5 min after the signal was last bad.
func TestPressure(t *testing.T) {
	const (
		mem  = "MemoryPressure: KubeletHasInsufficientMemory (kubelet has insufficient memory available)"
		disk = "DiskPressure: KubeletHasDiskPressure (kubelet has disk pressure)"
		pids = "PIDPressure: KubeletHasInsufficientPID (kubelet has insufficient PID available)"
	)
	for _, c := range []struct {
		name, want, event string
		at, below         func(*node.Signals)
	}{
		{"memory", mem, "InsufficientMemory", func(s *node.Signals) { s.Memory.Free = 100 << 20 }, func(s *node.Signals) { s.Memory.Free = 100<<20 - 1 }},
		{"nodefs", disk, "DiskPressure", func(s *node.Signals) { s.Disk.Free = 5 }, func(s *node.Signals) { s.Disk.Free = 4 }},
		{"inodes", disk, "DiskPressure", func(s *node.Signals) { s.Inodes.Free = 5 }, func(s *node.Signals) { s.Inodes.Free = 4 }},
		{"imagefs", disk, "DiskPressure", func(s *node.Signals) { s.Images.Free = 5 }, func(s *node.Signals) { s.Images.Free = 4 }},
		{"image inodes", disk, "DiskPressure", func(s *node.Signals) { s.ImageInodes.Free = 5 }, func(s *node.Signals) { s.ImageInodes.Free = 4 }},
		{"pids", pids, "InsufficientPID", func(s *node.Signals) { s.PIDs.Free = 10 }, func(s *node.Signals) { s.PIDs.Free = 9 }},
		{"unknown", "", "", func(s *node.Signals) { *s = node.Signals{} }, func(s *node.Signals) { *s = node.Signals{} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := plenty()
				w := newWorld(t, func(c *node.Config) { c.Measure = m.read })
				synctest.Wait()
				m.set(c.at)
				time.Sleep(11 * time.Second)
				synctest.Wait()
				if got := pressed(t, w); got != "" {
					t.Errorf("at the threshold: %s", got)
				}
				m.set(c.below)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if got := pressed(t, w); got != c.want {
					t.Errorf("below: %q, want %q", got, c.want)
				}
				m.set(func(s *node.Signals) { *s = plenty().s })
				time.Sleep(5*time.Minute - 11*time.Second)
				synctest.Wait()
				if got := pressed(t, w); got != c.want {
					t.Errorf("before the time is up: %q, want %q", got, c.want)
				}
				time.Sleep(21 * time.Second)
				synctest.Wait()
				if got := pressed(t, w); got != "" {
					t.Errorf("afterwards: %s", got)
				}
				told := 0
				for _, e := range w.events.timed() {
					if strings.Contains(e.text, "Node n1 status is now: NodeHas") {
						told++
					}
				}
				if want := map[bool]int{true: 2}[c.want != ""]; told != want {
					t.Errorf("%d events, want %d: %v", told, want, w.events.timed())
				}
			})
		})
	}
}

// A node that begins short says so in its first status.
func TestPressureAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := plenty()
		m.s.Disk.Free = 1
		w := newWorld(t, func(c *node.Config) { c.Measure = m.read })
		synctest.Wait()
		if got := pressed(t, w); !strings.HasPrefix(got, "DiskPressure") {
			t.Errorf("conditions: %q", got)
		}
	})
}

// Who is let in when memory, or a disk, is short.
func TestAdmissionUnderPressure(t *testing.T) {
	asks := func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")}
	}
	bears := func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	}
	critical := func(p *corev1.Pod) { p.Spec.Priority = new(int32(2_000_000_000)) }
	short := func(s *node.Signals) { s.Memory.Free = 1 << 20 }
	full := func(s *node.Signals) { s.Disk.Free = 1 }
	for _, c := range []struct {
		name string
		by   func(*node.Signals)
		pod  func(*corev1.Pod)
		no   string
	}{
		{"best-effort", short, func(*corev1.Pod) {}, "Pod was rejected: The node had condition: [MemoryPressure]. "},
		{"burstable", short, asks, ""},
		{"tolerant", short, bears, ""},
		{"critical", short, critical, ""},
		{"disk", full, asks, "Pod was rejected: The node had condition: [DiskPressure]. "},
		{"disk-critical", full, critical, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := plenty()
				w := newWorld(t, func(c *node.Config) { c.Measure = m.read })
				w.create(simple("before"))
				synctest.Wait()
				m.set(c.by)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				p := simple("p")
				c.pod(p)
				w.create(p)
				synctest.Wait()
				got := w.pod("p").Status
				switch {
				case c.no == "" && got.Phase != corev1.PodRunning:
					t.Errorf("not let in: %+v", got)
				case c.no != "" && (got.Phase != corev1.PodFailed || got.Reason != "Evicted" || got.Message != c.no):
					t.Errorf("status %s %s %q, want %q", got.Phase, got.Reason, got.Message, c.no)
				}
				if b := w.pod("before").Status; b.Phase != corev1.PodRunning {
					t.Errorf("a pod that was there: %+v", b)
				}
			})
		})
	}
}

// Sysctls that could harm others are refused unless the node's settings allow them.
func TestSysctls(t *testing.T) {
	for _, c := range []struct {
		name    string
		allowed map[string]bool
		no      string
	}{
		{"net.ipv4.tcp_syncookies", nil, ""},
		{"net/ipv4/ping_group_range", nil, ""},
		{"kernel.msgmax", nil, `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"kernel.msgmax", map[string]bool{"kernel.msg*": true}, ""},
		{"kernel.msgmax", map[string]bool{"kernel.msgmax": false}, `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"net.core.somaxconn", map[string]bool{"net.core.somaxconn": true}, ""},
		{"vm.swappiness", map[string]bool{"vm.*": true}, `Pod was rejected: forbidden sysctl: "vm.swappiness" not allowlisted`},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(n *node.Config) { n.Sysctls = c.allowed })
			p := simple("p")
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: c.name, Value: "1"}}}
			w.create(p)
			synctest.Wait()
			got := w.pod("p").Status
			if c.no == "" && got.Phase != corev1.PodRunning || c.no != "" && (got.Phase != corev1.PodFailed || got.Reason != "SysctlForbidden" || got.Message != c.no) {
				t.Errorf("%s: %s %s %q, want %q", c.name, got.Phase, got.Reason, got.Message, c.no)
			}
		})
	}
}

// mute is a runtime that tells no events, as containerd before 1.7.
type mute struct{ cri.Runtime }

func (mute) Events(context.Context, func(), func(*v1.ContainerEventResponse)) error {
	return status.Error(codes.Unimplemented, "unknown method GetContainerEvents")
}

// A runtime without events is asked every second: crashes are seen, deleted pods go.
func TestPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *node.Config) { c.Runtime = mute{c.Runtime} })
		w.create(script(simple("a"), "c", "after=30s exit=1 | run"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if p := w.pod("a"); p.Status.Phase != corev1.PodRunning {
			t.Fatalf("status: %+v", p.Status)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if c := w.pod("a").Status.ContainerStatuses[0]; c.RestartCount != 1 || c.State.Running == nil {
			t.Errorf("after the crash: %+v", c)
		}
		if err := core.Pod.Delete(t.Context(), w.api, "default", "a", api.Options{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if l, _ := core.Pod.List(t.Context(), w.api, "", api.Selectors{}); len(l) != 0 {
			t.Errorf("still there: %+v", l[0].Status)
		}
		if s, _ := w.rt.ListSandboxes(t.Context(), nil); len(s) != 0 {
			t.Errorf("%d sandboxes are left", len(s))
		}
	})
}
