// Command podstart measures how long a pod takes from its creation to Running,
// as a watch shows it, and from its deletion to gone; in turns with the CRI
// calls that are the least a pod needs, on the same containerd with the same
// image and the same network.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/test/bench/measure"
)

func main() {
	pairs := flag.Int("pairs", 30, "pairs of a pod and its calls, after two to warm up")
	flag.Parse()
	err := measure.InHost()
	if err == nil {
		err = run(*pairs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-podstart:", err)
		os.Exit(1)
	}
}

// took is milliseconds.
type took struct{ start, end []float64 }

func (t *took) add(start, end time.Duration) {
	t.start, t.end = append(t.start, measure.Millis(start)), append(t.end, measure.Millis(end))
}

func run(pairs int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir, remove, err := measure.Scratch()
	if err != nil {
		return err
	}
	defer remove()
	c, err := start(ctx, filepath.Join(dir, "p"))
	defer c.stop()
	if err != nil {
		return err
	}
	raw := measure.NewRaw("contestant", "pair", "start_ms", "delete_ms", "sandbox_ms", "create_ms", "start_container_ms")
	var ours, theirs took
	for n := range pairs + 2 {
		start, end, err := c.pod(ctx, fmt.Sprintf("bench-%d", n))
		if err != nil {
			return err
		}
		if err := c.idle(ctx); err != nil {
			return err
		}
		r, err := c.calls(ctx, fmt.Sprintf("raw-%d", n))
		if err != nil {
			return err
		}
		if n < 2 {
			continue
		}
		ours.add(start, end)
		theirs.add(r.sandbox+r.create+r.start, r.end)
		raw.Add("proa", n-1, measure.Millis(start), measure.Millis(end), 0, 0, 0)
		raw.Add("cri", n-1, measure.Millis(r.sandbox+r.create+r.start), measure.Millis(r.end), measure.Millis(r.sandbox), measure.Millis(r.create), measure.Millis(r.start))
	}
	if err := raw.Write("podstart"); err != nil {
		return err
	}
	report(ours, theirs)
	return nil
}

func report(ours, theirs took) {
	fmt.Printf("  start, ms: proa p50 %.0f p99 %.0f; CRI calls p50 %.0f p99 %.0f; ratios of pairs %s\n",
		measure.Median(ours.start), measure.Quantile(ours.start, 0.99), measure.Median(theirs.start), measure.Quantile(theirs.start, 0.99),
		measure.Spread(measure.Ratios(ours.start, theirs.start)))
	fmt.Printf("  deletion, ms: proa p50 %.0f p99 %.0f; CRI calls p50 %.0f p99 %.0f; ratios of pairs %s\n",
		measure.Median(ours.end), measure.Quantile(ours.end, 0.99), measure.Median(theirs.end), measure.Quantile(theirs.end, 0.99),
		measure.Spread(measure.Ratios(ours.end, theirs.end)))
	claim := func(what string, q float64, a, b []float64, target float64) measure.Claim {
		x := measure.Quantile(a, q)
		ratio := x / measure.Quantile(b, q)
		if q == 0.5 {
			ratio = measure.Median(measure.Ratios(a, b))
		}
		return measure.Claim{Figure: x, Unit: "ms " + what, Ratio: ratio, Reference: "raw CRI calls", Target: target, Less: true}
	}
	measure.Report("podstart", []measure.Claim{
		claim("from create to Running, p50", 0.5, ours.start, theirs.start, 1.15),
		claim("from create to Running, p99", 0.99, ours.start, theirs.start, 1.3),
		claim("from delete to gone, p50", 0.5, ours.end, theirs.end, 1.15),
		claim("from delete to gone, p99", 0.99, ours.end, theirs.end, 1.3),
	})
}

const podManifest = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s"},"spec":{"containers":[
{"name":"main","image":"` + image + `","args":["sleep","1h"]}]}}`

// pod creates a pod, waits until it runs, deletes it and waits until it is gone.
func (c *cluster) pod(ctx context.Context, name string) (start, end time.Duration, err error) {
	const pods = "/api/v1/namespaces/default/pods"
	from := time.Now()
	if _, err := c.server.Do(ctx, c.client, "POST", pods, fmt.Sprintf(podManifest, name)); err != nil {
		return 0, 0, err
	}
	at, err := c.await(name, func(s sight) bool { return s.running })
	if err != nil {
		return 0, 0, err
	}
	start = at.Sub(from)
	time.Sleep(300 * time.Millisecond) // what follows a start must not count as deletion
	from = time.Now()
	if _, err := c.server.Do(ctx, c.client, "DELETE", pods+"/"+name, ""); err != nil {
		return 0, 0, err
	}
	at, err = c.await(name, func(s sight) bool { return s.gone })
	return start, at.Sub(from), err
}

// rawTimes are those of the CRI calls.
type rawTimes struct{ sandbox, create, start, end time.Duration }

// calls makes the calls that a pod of the same kind needs. It has no labels, so
// that the agent leaves it alone.
func (c *cluster) calls(ctx context.Context, name string) (t rawTimes, err error) {
	ns := &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD}
	open := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	box := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "bench", Uid: name}, Hostname: name,
		LogDirectory: filepath.Join(c.places.Root, "bench-logs"),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.43.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/" + c.places.Cgroup() + "/bench",
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: ns, Seccomp: open}},
	}
	if err := os.MkdirAll(box.LogDirectory, 0o755); err != nil {
		return t, err
	}
	from := time.Now()
	lap := func() time.Duration {
		d := time.Since(from)
		from = time.Now()
		return d
	}
	s, err := c.run.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: box})
	if err != nil {
		return t, fmt.Errorf("RunPodSandbox: %w", err)
	}
	t.sandbox = lap()
	x, err := c.run.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: s.PodSandboxId, SandboxConfig: box, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: image}, Args: []string{"sleep", "1h"}, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{CpuShares: 2}, SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: ns, Seccomp: open}},
	}})
	if err != nil {
		return t, fmt.Errorf("CreateContainer: %w", err)
	}
	t.create = lap()
	if _, err := c.run.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: x.ContainerId}); err != nil {
		return t, fmt.Errorf("StartContainer: %w", err)
	}
	t.start = lap()
	time.Sleep(300 * time.Millisecond)
	from = time.Now()
	if _, err := c.run.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: x.ContainerId, Timeout: 30}); err != nil {
		return t, fmt.Errorf("StopContainer: %w", err)
	}
	if _, err := c.run.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.PodSandboxId}); err != nil {
		return t, fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err := c.run.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: x.ContainerId}); err != nil {
		return t, fmt.Errorf("RemoveContainer: %w", err)
	}
	if _, err := c.run.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.PodSandboxId}); err != nil {
		return t, fmt.Errorf("RemovePodSandbox: %w", err)
	}
	t.end = lap()
	return t, nil
}
