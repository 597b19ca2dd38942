// Package runtime tests what travels in the bundle: the built containerd,
// shim, runc and pause with images that come from proa's own registry.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/bundle"
	"proa/internal/registry"
)

// host is a containerd of its own: root, state, socket, cgroup parent.
type host struct {
	dir      string
	cgroup   string
	registry *registry.Registry
	pods     cri.RuntimeServiceClient
	images   cri.ImageServiceClient
}

// needs skips a test that cannot run here, and says why.
func needs(t *testing.T) (bin, images string) {
	t.Helper()
	bin, images = os.Getenv("PROA_TEST_BIN"), os.Getenv("PROA_IMAGES_DIR")
	switch {
	case os.Getuid() != 0:
		t.Skip("needs root: runs containers")
	case bin == "" || images == "":
		t.Skip("needs PROA_TEST_BIN and PROA_IMAGES_DIR: run it by `make test`")
	}
	return bin, images
}

// config is for a machine that gives nothing away: no CAP_SYS_RESOURCE, no
// AppArmor, no NRI socket, nothing outside dir.
const config = `version = 3
root = "%[1]s/root"
state = "%[1]s/state"
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.grpc.v1.cri-tcp"]

[grpc]
  address = "%[1]s/containerd.sock"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "%[3]s"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "%[1]s/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "%[2]s/containerd-shim-runc-v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "%[2]s/runc"
      Root = "%[1]s/runc"
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = "%[1]s/cni"
`

// start brings up a registry with the images of the bundle and of the tests,
// and a containerd that asks it first.
func start(t *testing.T) *host {
	t.Helper()
	bin, images := needs(t)
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	// Socket paths are short: not t.TempDir, whose name holds the test's.
	dir, err := os.MkdirTemp("", "proa-rt-")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{dir: dir, cgroup: "/" + filepath.Base(dir)}
	t.Cleanup(func() { h.removeAll(t) })
	h.startRegistry(t, bin, images)
	h.startContainerd(t, bin)
	return h
}

func (h *host) startRegistry(t *testing.T, bin, images string) {
	t.Helper()
	r, err := registry.New(filepath.Join(h.dir, "registry"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h.registry = r
	own, err := bundle.Images(bin)
	if err != nil || len(own) == 0 {
		t.Fatalf("images of the bundle beside %s: %q, %v", bin, own, err)
	}
	for _, archive := range append(own, filepath.Join(images, "proa-test-1.tar")) {
		names, err := r.Load(t.Context(), archive)
		if err != nil {
			t.Fatal(err)
		}
		t.Log("loaded", names)
	}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	if err := registry.WriteHosts(filepath.Join(h.dir, "certs.d"), strings.TrimPrefix(s.URL, "http://")); err != nil {
		t.Fatal(err)
	}
}

func (h *host) startContainerd(t *testing.T, bin string) {
	t.Helper()
	path := filepath.Join(h.dir, "config.toml")
	if err := os.WriteFile(path, fmt.Appendf(nil, config, h.dir, bin, bundle.SandboxImage), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(h.dir, "containerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+h.dir+"/containerd.sock", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	h.pods, h.images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	cmd := exec.Command(filepath.Join(bin, "containerd"), "--config", path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			body, err := os.ReadFile(log.Name())
			lines := strings.Split(string(body), "\n")
			t.Logf("containerd said, at last: %s %v", strings.Join(lines[max(0, len(lines)-30):], "\n"), err)
		}
		h.stopPods(t)
		conn.Close()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error("containerd:", err)
		}
		log.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	v, err := h.pods.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(v.RuntimeName, v.RuntimeVersion)
}

// stopPods leaves no container behind, whatever the test did. The first
// removal fails after some kills: it is tried again.
func (h *host) stopPods(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	list, err := h.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Error(err)
		return
	}
	for _, p := range list.Items {
		for ctx.Err() == nil {
			_, stop := h.pods.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.Id})
			_, remove := h.pods.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id})
			if err = errors.Join(stop, remove); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func (h *host) removeAll(t *testing.T) {
	if err := os.RemoveAll(h.dir); err != nil {
		t.Error(err)
	}
	// Cgroups of the pods, of every hierarchy: folders, from below.
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || filepath.Base(path) != filepath.Base(h.cgroup) {
			return nil
		}
		return removeCgroup(path)
	})
	if err != nil {
		t.Error(err)
	}
}

func removeCgroup(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(path)
}
