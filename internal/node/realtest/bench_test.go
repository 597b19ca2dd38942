package realtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
)

// raw starts and removes a pod by CRI calls alone, and returns how long the start took.
func (h *host) raw(b *testing.B, i int) time.Duration {
	name := fmt.Sprintf("raw-%d", i)
	ctx := context.Background()
	began := time.Now()
	sc := &v1.PodSandboxConfig{Metadata: &v1.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name}, LogDirectory: h.dir + "/raw",
		Labels: map[string]string{cri.LabelPodUID: ""},
		Linux: &v1.LinuxPodSandboxConfig{CgroupParent: h.cgroup + "/raw", SecurityContext: &v1.LinuxSandboxSecurityContext{
			NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}}}}
	s, err := h.rt.RunSandbox(ctx, sc, "")
	if err != nil {
		b.Fatal(err)
	}
	id, err := h.rt.CreateContainer(ctx, s, &v1.ContainerConfig{Metadata: &v1.ContainerMetadata{Name: "c"}, Image: &v1.ImageSpec{Image: image},
		Command: []string{"/bin/proa-test", "serve"}, LogPath: name + ".log",
		Linux: &v1.LinuxContainerConfig{SecurityContext: &v1.LinuxContainerSecurityContext{NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}}}}, sc)
	if err != nil {
		b.Fatal(err)
	}
	if err := h.rt.StartContainer(ctx, id); err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	if err := h.rt.StopContainer(ctx, id, 0); err != nil {
		b.Fatal(err)
	}
	if err := h.rt.StopSandbox(ctx, s); err != nil {
		b.Fatal(err)
	}
	if err := h.rt.RemoveSandbox(ctx, s); err != nil {
		b.Fatal(err)
	}
	return took
}

// timed notes how long the agent's own calls take.
type timed struct {
	*cri.Real
	mu    sync.Mutex
	spent time.Duration
	calls map[string]time.Duration
}

func (r *timed) note(name string, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := time.Since(began)
	r.calls[name] += d
	if name == "run" || name == "create" || name == "start" {
		r.spent += d
	}
}

func (r *timed) RunSandbox(ctx context.Context, c *v1.PodSandboxConfig, handler string) (string, error) {
	defer r.note("run", time.Now())
	return r.Real.RunSandbox(ctx, c, handler)
}

func (r *timed) CreateContainer(ctx context.Context, s string, c *v1.ContainerConfig, p *v1.PodSandboxConfig) (string, error) {
	defer r.note("create", time.Now())
	return r.Real.CreateContainer(ctx, s, c, p)
}

func (r *timed) StartContainer(ctx context.Context, id string) error {
	defer r.note("start", time.Now())
	return r.Real.StartContainer(ctx, id)
}

func (r *timed) ImageStatus(ctx context.Context, i string) (*v1.Image, error) {
	defer r.note("image", time.Now())
	return r.Real.ImageStatus(ctx, i)
}

func (r *timed) ListSandboxes(ctx context.Context, f *v1.PodSandboxFilter) ([]*v1.PodSandbox, error) {
	defer r.note("list", time.Now())
	return r.Real.ListSandboxes(ctx, f)
}

func (r *timed) ListContainers(ctx context.Context, f *v1.ContainerFilter) ([]*v1.Container, error) {
	defer r.note("list", time.Now())
	return r.Real.ListContainers(ctx, f)
}

func (r *timed) ContainerStatus(ctx context.Context, id string) (*v1.ContainerStatus, error) {
	defer r.note("status", time.Now())
	return r.Real.ContainerStatus(ctx, id)
}

func (r *timed) SandboxStatus(ctx context.Context, id string) (*v1.PodSandboxStatus, error) {
	defer r.note("status", time.Now())
	return r.Real.SandboxStatus(ctx, id)
}

// BenchmarkPodStart compares create → Running and Ready as a watcher sees it with
// raw CRI calls on the same containerd, one after the other in turn.
func BenchmarkPodStart(b *testing.B) {
	h := start(b)
	if _, err := h.rt.Pull(b.Context(), image, nil, nil); err != nil {
		b.Fatal(err)
	}
	h.raw(b, -1)
	h.halt()
	rt := &timed{Real: h.rt, calls: map[string]time.Duration{}}
	h.runtime = rt
	h.boot()
	var raws, ours []time.Duration
	var calls, whole time.Duration
	for i := 0; b.Loop(); i++ {
		raws = append(raws, h.raw(b, i))
		name := fmt.Sprintf("p-%d", i)
		began := time.Now()
		h.create(pod(name, "serve"))
		h.until(name, "ready", ready)
		ours = append(ours, time.Since(began))
		rt.mu.Lock()
		calls, whole = calls+rt.spent, whole+time.Since(began)
		rt.spent = 0
		rt.mu.Unlock()
		h.delete(name)
		h.until(name, "gone", gone)
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if l, err := h.rt.ListSandboxes(b.Context(), nil); err == nil && len(l) == 0 {
				break
			}
		}
	}
	at := func(d []time.Duration, q float64) time.Duration {
		slices.Sort(d)
		return d[int(float64(len(d)-1)*q)]
	}
	b.Logf("of a pod's start, the agent's own three calls take 1/%.3f; all its calls: %v", float64(whole)/float64(calls), rt.calls)
	b.ReportMetric(float64(whole)/float64(calls), "x-own-calls")
	for _, q := range []float64{0.5, 0.99} {
		r, o := at(raws, q), at(ours, q)
		b.Logf("p%.0f: raw %v, pod %v, ratio %.2f", q*100, r.Round(time.Microsecond), o.Round(time.Microsecond), float64(o)/float64(r))
		b.ReportMetric(float64(o)/float64(r), fmt.Sprintf("x-raw-p%.0f", q*100))
	}
}
