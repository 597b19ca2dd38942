package runtime

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/bundle"
)

// sandbox runs a pod in the host's network.
func (h *host) sandbox(t *testing.T, name string) (id string, config *cri.PodSandboxConfig) {
	t.Helper()
	config = &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		LogDirectory: filepath.Join(h.dir, "logs", name),
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: h.cgroup, SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}},
	}
	if err := os.MkdirAll(config.LogDirectory, 0o700); err != nil {
		t.Fatal(err)
	}
	resp, err := h.pods.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return resp.PodSandboxId, config
}

func (h *host) run(t *testing.T, pod string, config *cri.PodSandboxConfig, name, image string, command ...string) (id string) {
	t.Helper()
	return h.start(t, pod, config, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: image}, Command: command})
}

func (h *host) start(t *testing.T, pod string, config *cri.PodSandboxConfig, container *cri.ContainerConfig) (id string) {
	t.Helper()
	container.LogPath = container.Metadata.Name + ".log"
	container.Linux = &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: config.Linux.SecurityContext.NamespaceOptions}}
	c, err := h.pods.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: container})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.pods.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return c.ContainerId
}

// exited waits for a container's end and gives its status.
func (h *host) exited(t *testing.T, id string) *cri.ContainerStatus {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := h.pods.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Status.State == cri.ContainerState_CONTAINER_EXITED {
			return resp.Status
		}
	}
	t.Fatal("the container still runs")
	return nil
}

func (h *host) pull(t *testing.T, image string) (ref string, err error) {
	resp, err := h.images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
	return resp.GetImageRef(), err
}

// The whole way: the registry, containerd's mirror, the sandbox image that no
// outside registry has, shim, runc, pause; then commands inside.
func TestBundleRunsContainers(t *testing.T) {
	h := start(t)
	ref, err := h.pull(t, "proa-test:1") // what a pod's image says, in short
	if err != nil {
		t.Fatal(err)
	}
	t.Log("pulled", ref)
	pod, config := h.sandbox(t, "one")
	main := h.run(t, pod, config, "main", "proa-test:1", "/bin/proa-test", "sleep", "1000")

	for _, c := range []struct {
		want    string
		command []string
	}{
		{"CapEff:", []string{"/bin/proa-test", "id"}},
		{"42", []string{"/bin/sh", "-c", "echo $((6*7))"}},
		{"files dns", []string{"/bin/cat", "/etc/nsswitch.conf"}},
		{"", []string{"/bin/proa-test", "write", "/tmp/x", "hello"}},
		{"hello", []string{"/bin/proa-test", "read", "/tmp/x"}},
		{"/bin/proa-test", []string{"/bin/readlink", "/bin/fetch"}},
		{"PATH=/usr/local/bin", []string{"/bin/env"}},
	} {
		resp, err := h.pods.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: main, Cmd: c.command, Timeout: 10})
		if err != nil || resp.ExitCode != 0 || !strings.Contains(string(resp.Stdout), c.want) {
			t.Errorf("%q: %v, %v; want %q", c.command, resp, err, c.want)
		}
	}

	if s := h.exited(t, h.run(t, pod, config, "seven", "proa-test:1", "/bin/proa-test", "exit", "7")); s.ExitCode != 7 {
		t.Errorf("exit 7: %d %s", s.ExitCode, s.Reason)
	}
	h.exited(t, h.run(t, pod, config, "log", "proa-test:1", "/bin/proa-test", "log", "4"))
	log, err := os.ReadFile(filepath.Join(config.LogDirectory, "log.log"))
	if err != nil || strings.Count(string(log), " stdout F line") != 2 || strings.Count(string(log), " stderr F line") != 2 {
		t.Errorf("the log: %s %v", log, err)
	}
	if _, err := h.pods.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: main, Timeout: 10}); err != nil {
		t.Fatal(err)
	}
	if s := h.exited(t, main); s.ExitCode != 0 || s.FinishedAt-s.StartedAt > int64(10*time.Second) {
		t.Errorf("stopped: %d after %s", s.ExitCode, time.Duration(s.FinishedAt-s.StartedAt))
	}
}

func TestSandboxImageIsPinnedAndSmall(t *testing.T) {
	h := start(t)
	began := time.Now()
	pod, _ := h.sandbox(t, "pinned")
	t.Log("the first sandbox, image pull included:", time.Since(began))
	resp, err := h.images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: bundle.SandboxImage}})
	if err != nil || resp.Image == nil || !resp.Image.Pinned || resp.Image.Size > 10_000 {
		t.Errorf("%v, %v; want it pinned and below 10 kB", resp, err)
	}
	began = time.Now()
	if _, err := h.pods.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("pause took %s to stop", took)
	}
}

// A name that the registry does not hold falls through to the registry that
// the name says: here one on another port, which answers 404 in its own way.
func TestUnknownImagesFallThrough(t *testing.T) {
	h := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan string, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			n, _ := c.Read(buf) // whatever came is shown
			asked <- string(buf[:n])
			fmt.Fprint(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			c.Close()
		}
	}()
	_, err = h.pull(t, l.Addr().String()+"/nobody/has:this")
	if err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("pull: %v; want not found", err)
	}
	l.Close()
	for { // it tries TLS first
		select {
		case got := <-asked:
			if strings.Contains(got, "/v2/nobody/has/manifests/this") {
				return
			}
		default:
			t.Fatal("the outside registry was not asked")
		}
	}
}
