package realtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// What a pod's security settings promise holds inside.
func TestSecurity(t *testing.T) {
	h := start(t)
	open := pod("open", "serve")
	h.create(open)
	shut := pod("shut", "serve")
	shut.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		RunAsUser: new(int64(4321)), RunAsGroup: new(int64(8765)), RunAsNonRoot: new(true), ReadOnlyRootFilesystem: new(true), AllowPrivilegeEscalation: new(false),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	h.create(shut)
	one := pod("one", "serve")
	one.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}}}
	h.create(one)
	root := pod("root", "serve")
	root.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true)}
	h.create(root)
	zero := pod("zero", "serve")
	zero.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(0))}
	h.create(zero)

	lines := func(name string) string { return h.exec(h.until(name, "ready", ready), "/bin/cat", "/proc/1/status") }
	has := func(name, text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in %s", name, w, text)
			}
		}
	}
	has("open", lines("open"), "Uid:\t0\t0", "Seccomp:\t0\n", "NoNewPrivs:\t0\n")
	has("shut", lines("shut"), "Uid:\t4321\t4321", "Gid:\t8765\t8765", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Seccomp:\t2\n", "NoNewPrivs:\t1\n")
	has("one", lines("one"), "CapEff:\t0000000000000400", "CapBnd:\t0000000000000400")
	id := func(p *corev1.Pod) string {
		return strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	}
	_, text, code, err := h.rt.ExecSync(t.Context(), id(h.until("shut", "ready", ready)), []string{"/bin/touch", "/x"}, 5*time.Second)
	if err != nil || code == 0 || !strings.Contains(string(text), "Read-only file system") {
		t.Errorf("a read-only root was written: %v %d %s", err, code, text)
	}
	if _, text, code, err = h.rt.ExecSync(t.Context(), id(h.until("open", "ready", ready)), []string{"/bin/touch", "/x"}, 5*time.Second); err != nil || code != 0 {
		t.Errorf("a root that is not read-only: %v %d %s", err, code, text)
	}
	for name, want := range map[string]string{"root": "container has runAsNonRoot and image will run as root", "zero": "container's runAsUser breaks non-root policy"} {
		p := h.until(name, "refused", func(p *corev1.Pod) bool {
			return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
		})
		want += fmt.Sprintf(" (pod: \"%s_default(%s)\", container: c)", name, p.UID)
		if got := p.Status.ContainerStatuses[0].State.Waiting.Message; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if !h.events.has(name + " Warning Failed: Error: " + want) {
			t.Errorf("%s: no event", name)
		}
	}
}

// HTTP hooks ask the address that they name, before a container counts as
// started and before it is asked to end.
func TestHTTPHooks(t *testing.T) {
	h := start(t)
	var mu sync.Mutex
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer srv.Close()
	count := func(path string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range asked {
			if a == path {
				n++
			}
		}
		return n
	}
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	hook := func(path string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: port(at), Host: u.Hostname()}}
	}
	p := pod("p", "serve")
	p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: hook("/began"), PreStop: hook("/ends")}
	h.create(p)
	h.until("p", "ready", ready)
	if count("/began") != 1 || count("/ends") != 0 {
		t.Errorf("asked: %q", asked)
	}
	h.delete("p")
	h.until("p", "gone", gone)
	if count("/began") != 1 || count("/ends") != 1 {
		t.Errorf("asked: %q", asked)
	}
	bad := pod("bad", "serve")
	bad.Spec.RestartPolicy = corev1.RestartPolicyNever
	bad.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: hook("/bad")}
	h.create(bad)
	h.until("bad", "ended", ended)
	if !h.events.has("bad Warning FailedPostStartHook: PostStartHook failed: HTTP probe failed with statuscode: 500") {
		t.Error("no event about the failed hook")
	}
}

// A gRPC readiness probe follows what the health service says.
func TestGRPCProbe(t *testing.T) {
	h := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	says := health.NewServer()
	says.SetServingStatus("guest", healthpb.HealthCheckResponse_NOT_SERVING)
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, says)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	p := pod("g", "sleep", "1000") // in the host's network, where the health service is
	p.Spec.HostNetwork = true
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1,
		ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(l.Addr().(*net.TCPAddr).Port), Service: new("guest")}}}
	h.create(p)
	for end := time.Now().Add(15 * time.Second); !h.events.has(`service unhealthy (responded with "NOT_SERVING")`); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no event says that the probe fails")
		}
	}
	if ready(h.until("g", "there", func(p *corev1.Pod) bool { return p != nil })) {
		t.Error("ready although the health service says no")
	}
	says.SetServingStatus("guest", healthpb.HealthCheckResponse_SERVING)
	h.until("g", "ready", ready)
	says.SetServingStatus("guest", healthpb.HealthCheckResponse_NOT_SERVING)
	h.until("g", "not ready", func(p *corev1.Pod) bool { return p != nil && !ready(p) })
}

// empty waits until nothing of any pod is left: no sandbox, no folder, no cgroup.
func (h *host) empty() {
	h.t.Helper()
	began := time.Now()
	defer func() { h.t.Log("nothing left after", time.Since(began).Round(time.Millisecond)) }()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		list, err := h.rt.ListSandboxes(context.Background(), nil)
		if err != nil {
			h.t.Fatal(err)
		}
		dirs, _ := os.ReadDir(h.dir + "/node/pods")
		logs, _ := os.ReadDir(h.dir + "/node/logs")
		groups := h.podGroups()
		if len(list)+len(dirs)+len(logs)+len(groups) == 0 {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("left behind: sandboxes %v, folders %v, logs %v, cgroups %v", list, dirs, logs, groups)
		}
	}
}

// Pods that are deleted at any moment of their life leave nothing behind.
func TestDeleteAnytime(t *testing.T) {
	h := start(t)
	hang := make(chan struct{})
	defer close(hang)
	asked := make(chan struct{}, 100)
	registry := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	defer registry.CloseClientConnections()
	zero := int64(0)
	running := func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodRunning }

	t.Run("by force", func(t *testing.T) {
		p := pod("force", "trap", "-for", "600s")
		p.Spec.TerminationGracePeriodSeconds = new(int64(600))
		h.create(p)
		h.until("force", "running", running)
		if err := core.Pod.Delete(t.Context(), h.api, "default", "force", api.Options{GracePeriod: &zero}); err != nil {
			t.Fatal(err)
		}
		h.until("force", "gone", gone)
		h.empty()
	})
	t.Run("by force, while it ends", func(t *testing.T) {
		p := pod("late", "trap", "-for", "600s")
		p.Spec.TerminationGracePeriodSeconds = new(int64(600))
		h.create(p)
		h.until("late", "running", running)
		h.delete("late")
		h.until("late", "ending", func(p *corev1.Pod) bool { return p != nil && p.DeletionTimestamp != nil })
		if err := core.Pod.Delete(t.Context(), h.api, "default", "late", api.Options{GracePeriod: &zero}); err != nil {
			t.Fatal(err)
		}
		h.until("late", "gone", gone)
		h.empty()
	})
	t.Run("while its image is pulled", func(t *testing.T) {
		p := pod("pull", "serve")
		p.Spec.Containers[0].Image = strings.TrimPrefix(registry.URL, "http://") + "/hangs:1"
		h.create(p)
		select {
		case <-asked:
		case <-time.After(20 * time.Second):
			t.Fatal("the registry is not asked")
		}
		h.delete("pull")
		h.until("pull", "gone", gone)
		h.empty()
	})
	t.Run("in its init container", func(t *testing.T) {
		p := pod("init", "serve")
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: image, Command: []string{"/bin/proa-test", "sleep", "1000"}, ImagePullPolicy: corev1.PullIfNotPresent}}
		h.create(p)
		h.until("init", "in its init container", func(p *corev1.Pod) bool {
			return p != nil && len(p.Status.InitContainerStatuses) == 1 && p.Status.InitContainerStatuses[0].State.Running != nil
		})
		h.delete("init")
		h.until("init", "gone", gone)
		h.empty()
	})
	t.Run("at once", func(t *testing.T) {
		for i := range 5 {
			name := fmt.Sprintf("now-%d", i)
			h.create(pod(name, "serve"))
			time.Sleep(time.Duration(i) * 40 * time.Millisecond) // somewhere in its start
			o := api.Options{}
			if i%2 == 1 {
				o.GracePeriod = &zero
			}
			if err := core.Pod.Delete(t.Context(), h.api, "default", name, o); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 {
			h.until(fmt.Sprintf("now-%d", i), "gone", gone)
		}
		h.empty()
	})
}
