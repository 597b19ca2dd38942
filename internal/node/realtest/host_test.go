package realtest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/bundle"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/cgroups"
	"proa/internal/node/containerd"
	"proa/internal/node/cri"
	"proa/internal/node/mounts"
	"proa/internal/node/steps"
	"proa/internal/node/volumes"
	"proa/internal/overlay"
	"proa/internal/overlay/nettest"
	"proa/internal/registry"
	"proa/internal/store/memory"
)

func TestMain(m *testing.M) { nettest.Main(m) }

const image = "proa-test:1"

// a host is a node with everything real, and an API server.
type host struct {
	t       testing.TB
	dir     string
	bin     string
	cgroup  string
	conf    containerd.Config
	sup     *containerd.Supervisor
	rt      *cri.Real
	runtime cri.Runtime // what the agent is given; rt if nil
	tree    *cgroups.Tree
	api     *apiserver.Server
	vols    *volumes.Manager
	agent   *node.Agent
	halt    func() // stops the agent
	events  *events
}

type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) About(ref *corev1.ObjectReference, typ, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, fmt.Sprintf("%s %s %s: %s", ref.Name, typ, reason, message))
}

func (e *events) has(text string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.list {
		if strings.Contains(l, text) {
			return true
		}
	}
	return false
}

func needs(t testing.TB) (bin, images string) {
	t.Helper()
	nettest.Need(t)
	bin, images = os.Getenv("PROA_TEST_BIN"), cmp.Or(os.Getenv("PROA_TEST_IMAGES"), os.Getenv("PROA_IMAGES_DIR"))
	if bin == "" || images == "" {
		t.Skip("needs PROA_TEST_BIN (containerd, runc, …) and PROA_TEST_IMAGES (pause.tar, proa-test-1.tar): run it by `make test`")
	}
	return bin, images
}

// start brings up a host. Everything it makes is gone after the test.
func start(t testing.TB) *host {
	t.Helper()
	bin, images := needs(t)
	dir, err := os.MkdirTemp("", "proa-n-") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo") // streaming and the registry listen on it
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, cgroup: "/" + filepath.Base(dir), events: &events{}}
	t.Cleanup(h.removeAll)
	h.programs(bin)
	h.registry(images)
	h.network()
	h.conf = containerd.Config{Bin: h.bin, Dir: dir + "/ctd", State: dir + "/run", Socket: dir + "/run/c.sock",
		SandboxImage: bundle.SandboxImage, CNIConf: dir + "/cni", CNIBin: []string{h.bin}, Certs: dir + "/certs.d"}
	h.containerd()
	h.server()
	if h.tree, err = cgroups.Open("/sys/fs/cgroup", h.cgroup); err != nil {
		t.Fatal(err)
	}
	h.boot()
	t.Cleanup(h.down)
	return h
}

// programs links the bundle's programs beside the freshly built CNI plugin.
func (h *host) programs(bin string) {
	h.bin = h.dir + "/bin"
	if err := os.Mkdir(h.bin, 0o755); err != nil {
		h.t.Fatal(err)
	}
	abs, err := filepath.Abs(bin)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, n := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if err := os.Symlink(filepath.Join(abs, n), filepath.Join(h.bin, n)); err != nil {
			h.t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(h.bin, "proa-cni"), "proa/cmd/proa-cni").CombinedOutput(); err != nil {
		h.t.Fatalf("build the CNI plugin: %v\n%s", err, out)
	}
}

func (h *host) registry(images string) {
	r, err := registry.New(filepath.Join(h.dir, "registry"), slog.New(slog.DiscardHandler))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, a := range []string{"pause.tar", "proa-test-1.tar"} {
		path := filepath.Join(images, a)
		if own, err := bundle.Images(h.bin); err == nil && a == "pause.tar" && len(own) > 0 {
			path = own[0]
		}
		if _, err := r.Load(context.Background(), path); err != nil {
			h.t.Fatal(err)
		}
	}
	s := httptest.NewServer(r)
	h.t.Cleanup(s.Close)
	if err := registry.WriteHosts(h.dir+"/certs.d", strings.TrimPrefix(s.URL, "http://")); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) network() {
	n, err := overlay.New(overlay.Config{PodCIDR: netip.MustParsePrefix("10.77.0.0/24"), Dir: h.dir + "/net", Socket: h.dir + "/cni.sock", ConfDir: h.dir + "/cni"})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = n.Serve(ctx); close(done) }()
	h.t.Cleanup(func() { cancel(); <-done; n.Close() })
}

func (h *host) containerd() {
	var err error
	if h.sup, err = containerd.Start(context.Background(), h.conf, h.log()); err != nil {
		h.t.Fatal(err)
	}
	if h.rt, err = cri.Dial(h.conf.Socket); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(outputOf(h.t), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func outputOf(t testing.TB) io.Writer { return t.Output() }

func (h *host) server() {
	e := memory.New(nil)
	s, err := apiserver.New(context.Background(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler), Subs: h.subs()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.api = s
	h.t.Cleanup(func() { s.Close(); e.Close() })
	for _, ns := range []string{"default", "kube-node-lease"} {
		if _, err := core.Namespace.Create(context.Background(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
			h.t.Fatal(err)
		}
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if _, err := core.ServiceAccount.Create(context.Background(), s, sa); err != nil {
		h.t.Fatal(err)
	}
}

// boot starts an agent on what is there.
func (h *host) boot() {
	m := node.ReadMachine(h.dir)
	h.vols = volumes.New(volumes.Options{Handler: h.api, Log: h.log(), Allocatable: m.Allocatable(110)})
	var rt cri.Runtime = h.rt
	if h.runtime != nil {
		rt = h.runtime
	}
	a, err := node.New(node.Config{Name: "real", Handler: h.api, Runtime: rt, RootDir: h.dir + "/node", Events: h.events,
		Steps: steps.Real(h.tree, h.vols), Log: h.log(), Machine: m, ClusterDNS: []string{"10.43.0.10"},
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = a.Run(ctx); close(done) }()
	h.agent = a
	vols := h.vols
	h.halt = sync.OnceFunc(func() { cancel(); <-done; vols.Close() })
}

// down ends everything in order, and shows the logs of a test that failed.
func (h *host) down() {
	h.halt()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if h.t.Failed() {
		b, _ := os.ReadFile(h.dir + "/ctd/containerd.log")
		lines := strings.Split(string(b), "\n")
		h.t.Logf("containerd said, at last:\n%s", strings.Join(lines[max(0, len(lines)-25):], "\n"))
		h.events.mu.Lock()
		for _, e := range h.events.list {
			h.t.Log("event:", e)
		}
		h.events.mu.Unlock()
	}
	list, err := h.rt.ListSandboxes(ctx, nil)
	if err != nil {
		h.t.Error(err)
	}
	for _, s := range list {
		if err := h.rt.StopSandbox(ctx, s.Id); err != nil {
			h.t.Error(err)
		}
		if err := h.rt.RemoveSandbox(ctx, s.Id); err != nil {
			h.t.Error(err)
		}
	}
	h.rt.Close()
	if err := h.sup.Stop(ctx); err != nil {
		h.t.Error(err)
	}
	if err := h.tree.RemoveAll(); err != nil {
		h.t.Error(err)
	}
}

func (h *host) removeAll() {
	if err := mounts.Below(h.dir); err != nil {
		h.t.Error(err)
	}
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Error(err)
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && filepath.Base(p) == filepath.Base(h.dir) {
			h.t.Errorf("cgroup %s is left", p)
		}
		return nil
	})
}

// pod returns a pod with one container that runs a command of the test image.
func pod(name string, args ...string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{NodeName: "real", TerminationGracePeriodSeconds: new(int64(5)), Containers: []corev1.Container{
			{Name: "c", Image: image, Command: append([]string{"/bin/proa-test"}, args...), ImagePullPolicy: corev1.PullIfNotPresent}}}}
}

func (h *host) create(p *corev1.Pod) *corev1.Pod {
	h.t.Helper()
	got, err := core.Pod.Create(context.Background(), h.api, p)
	if err != nil {
		h.t.Fatal(err)
	}
	return got
}

// until waits for a state of a pod that satisfies ok.
func (h *host) until(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	var last *corev1.Pod
	for c := range core.Pod.Follow(ctx, h.api, "default", api.WithField("metadata.name", name), nil) {
		p := c.Object
		if c.Reset && len(c.All) == 1 {
			p = c.All[0]
		}
		if c.Type == "DELETED" || c.Reset && len(c.All) == 0 {
			p = nil
			if ok(nil) {
				return nil
			}
		}
		if p != nil {
			if last = p; ok(p) {
				return p
			}
		}
	}
	if last != nil {
		h.t.Fatalf("pod %s is not %s: %+v", name, what, last.Status)
	}
	h.t.Fatalf("pod %s is not %s: it is not there", name, what)
	return nil
}

func ready(p *corev1.Pod) bool { return p != nil && core.PodReady(p) }

func gone(p *corev1.Pod) bool { return p == nil }

func ended(p *corev1.Pod) bool {
	return p != nil && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed)
}

func (h *host) delete(name string) {
	h.t.Helper()
	if err := core.Pod.Delete(context.Background(), h.api, "default", name, api.Options{}); err != nil {
		h.t.Fatal(err)
	}
}

// exec runs a command in a pod's container and returns its output.
func (h *host) exec(p *corev1.Pod, cmd ...string) string {
	h.t.Helper()
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	out, errOut, code, err := h.rt.ExecSync(context.Background(), id, cmd, 10*time.Second)
	if err != nil || code != 0 {
		h.t.Errorf("%q: %v, status %d: %s%s", cmd, err, code, out, errOut)
	}
	return string(out)
}
