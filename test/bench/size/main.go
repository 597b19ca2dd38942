// Command size measures what proa takes: the core program, the whole download,
// and, for a cluster of one node, memory, processor time and syncs of the proa
// process at rest, then memory with 10,000 objects of 2.3 KB.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"proa/test/bench/measure"
)

func main() {
	rest := flag.Duration("rest", 20*time.Second, "how long a cluster is left alone before it is looked at, and then watched")
	objects := flag.Int("objects", 10_000, "objects of 2.3 KB")
	flag.Parse()
	err := measure.InHost()
	if err == nil {
		err = run(*rest, *objects)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-size:", err)
		os.Exit(1)
	}
}

const mb = 1e6

func run(rest time.Duration, objects int) error {
	proa, err := measure.Proa()
	if err != nil {
		return err
	}
	dir, remove, err := measure.Scratch()
	if err != nil {
		return err
	}
	defer remove()
	core, whole, err := sizes(proa, dir)
	if err != nil {
		return err
	}
	refs, err := measure.BuildReferences()
	if err != nil {
		return err
	}
	raw := measure.NewRaw("contestant", "objects", "pss_mb", "cpu_percent", "syncs_per_s")
	ours, err := proaAtRest(proa, filepath.Join(dir, "p"), rest, objects, raw)
	if err != nil {
		return err
	}
	theirs, err := referenceAtRest(refs, filepath.Join(dir, "r"), rest, objects, raw)
	if err != nil {
		return err
	}
	if err := raw.Write("size"); err != nil {
		return err
	}
	const reference = "a CRD server and etcd"
	measure.Report("size", []measure.Claim{
		{Figure: core / mb, Unit: "MB of core program", Target: 60, In: "MB", Less: true},
		{Figure: whole / mb, Unit: "MB of proa with its bundle", Target: 42, In: "MB", Less: true},
		{Figure: ours[0].pss / mb, Unit: "MB PSS at rest", Ratio: ours[0].pss / theirs[0].pss, Reference: reference, Target: 120, In: "MB", Less: true},
		{Figure: ours[1].pss / mb, Unit: fmt.Sprintf("MB PSS with %d objects", objects), Ratio: ours[1].pss / theirs[1].pss, Reference: reference, Target: 0.25, Less: true},
		{Figure: ours[0].cpu, Unit: "% of a core at rest", Ratio: ours[0].cpu / theirs[0].cpu, Reference: reference, Target: 1, In: "%", Less: true},
		{Figure: ours[0].syncs, Unit: "syncs/s at rest", Ratio: ours[0].syncs / max(theirs[0].syncs, 0.01), Reference: reference, Target: 1, In: "syncs/s", Less: true},
	})
	return nil
}

// sizes are the bytes of the program without its bundle, and those of what a
// user fetches: proa with the bundle, compressed by gzip as a download is.
func sizes(proa, dir string) (core, whole float64, err error) {
	bin := filepath.Join(dir, "core")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", bin, "./cmd/proa")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("build the core: %w\n%s", err, out)
	}
	a, err := os.Stat(bin)
	if err != nil {
		return 0, 0, err
	}
	b, err := os.Stat(proa)
	if err != nil {
		return 0, 0, err
	}
	packed := int64(0)
	out, err := exec.Command("sh", "-c", "gzip -9 -c "+bin+" | wc -c").Output()
	if err == nil {
		packed, err = strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	}
	// The bundle inside proa is compressed already; `make build RELEASE=1` does that
	// as well as it can be done, without it quickly.
	whole = float64(b.Size() - a.Size() + packed)
	fmt.Printf("  core %.1f MB (%.1f MB by gzip); proa with its bundle %.1f MB, as a download %.1f MB (smaller if built with RELEASE=1)\n",
		float64(a.Size())/mb, float64(packed)/mb, float64(b.Size())/mb, whole/mb)
	return float64(a.Size()), whole, err
}

// state is a cluster at rest: bytes, percent of a core, syncs a second.
type state struct{ pss, cpu, syncs float64 }

// look watches processes for a time.
func look(length time.Duration, syncs func() (float64, error), pids ...int) (s state, err error) {
	cpu := func() (sum time.Duration, err error) {
		for _, pid := range pids {
			used, err := measure.CPU(pid)
			if err != nil {
				return 0, err
			}
			sum += used
		}
		return sum, nil
	}
	cpu0, err := cpu()
	if err != nil {
		return s, err
	}
	syncs0, err := syncs()
	if err != nil {
		return s, err
	}
	time.Sleep(length)
	cpu1, err := cpu()
	if err != nil {
		return s, err
	}
	syncs1, err := syncs()
	if err != nil {
		return s, err
	}
	for _, pid := range pids {
		pss, err := measure.PSS(pid)
		if err != nil {
			return s, err
		}
		s.pss += float64(pss)
	}
	s.cpu, s.syncs = 100*(cpu1-cpu0).Seconds()/length.Seconds(), (syncs1-syncs0)/length.Seconds()
	return s, nil
}

// twice looks at a server at rest, and once more when it holds objects.
func twice(name string, t measure.Target, path, apiVersion string, rest time.Duration, objects int, syncs func() (float64, error), raw *measure.Raw, pids ...int) (out [2]state, err error) {
	for i := range out {
		if i > 0 {
			if err := fill(t, path, apiVersion, objects); err != nil {
				return out, err
			}
		}
		time.Sleep(rest)
		if out[i], err = look(rest, syncs, pids...); err != nil {
			return out, err
		}
		s := out[i]
		raw.Add(name, i*objects, s.pss/mb, s.cpu, s.syncs)
		fmt.Printf("  %s, %d objects: %.1f MB, %.2f %% of a core, %.2f syncs/s\n", name, i*objects, s.pss/mb, s.cpu, s.syncs)
	}
	return out, nil
}

func proaAtRest(proa, root string, rest time.Duration, objects int, raw *measure.Raw) (out [2]state, err error) {
	p, err := measure.Start(measure.AnyCore, root+".log", proa, "up", "--root", root, "--log-level", "warn")
	if err != nil {
		return out, err
	}
	defer func() {
		p.Stop()
		if out, err := exec.Command(proa, "clean", "--yes", "--root", root).CombinedOutput(); err != nil {
			fmt.Printf("  clean: %v: %s\n", err, out)
		}
	}()
	var t measure.Target
	err = p.Await("proa", 50*time.Millisecond, func(ctx context.Context) error {
		if t, err = measure.TargetOf(filepath.Join(root, "etc", "kubeconfig")); err != nil {
			return err
		}
		_, err := t.Get(ctx, t.Client(), "/api/v1/namespaces/default/serviceaccounts/default")
		return err
	})
	if err != nil {
		return out, err
	}
	syncs := func() (float64, error) {
		b, err := t.Get(context.Background(), t.Client(), "/metrics")
		return measure.Metric(b, "proa_store_syncs_total"), err
	}
	return twice("proa", t, "/api/v1/namespaces/default/configmaps", "v1", rest, objects, syncs, raw, p.PID())
}

const crdManifest = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"configmaps.bench.proa.local"},
"spec":{"group":"bench.proa.local","scope":"Namespaced","names":{"plural":"configmaps","singular":"configmap","kind":"ConfigMap","listKind":"ConfigMapList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

func referenceAtRest(bin, dir string, rest time.Duration, objects int, raw *measure.Raw) (out [2]state, err error) {
	id, err := measure.NewIdentity(dir)
	if err != nil {
		return out, err
	}
	e, err := measure.StartEtcd(measure.AnyCore, bin, dir, id)
	if err != nil {
		return out, err
	}
	defer e.Stop()
	c, err := measure.StartCRD(measure.AnyCore, bin, dir, id, e)
	if err != nil {
		return out, err
	}
	defer c.Stop()
	const path = "/apis/bench.proa.local/v1/namespaces/default/configmaps"
	client := c.Client()
	if _, err := c.Do(context.Background(), client, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crdManifest); err != nil {
		return out, err
	}
	err = c.Await("the custom resource", 50*time.Millisecond, func(ctx context.Context) error {
		_, err := c.Get(ctx, client, path)
		return err
	})
	if err != nil {
		return out, err
	}
	syncs := func() (float64, error) {
		b, err := measure.Plain(context.Background(), e.Metrics+"/metrics")
		return measure.Metric(b, "etcd_disk_wal_fsync_duration_seconds_count"), err
	}
	return twice("CRD server and etcd", c.Target, path, "bench.proa.local/v1", rest, objects, syncs, raw, e.PID(), c.PID())
}

// fill creates objects of 2.3 KB from 16 clients.
func fill(t measure.Target, path, apiVersion string, objects int) error {
	text := strings.Repeat("all work and no play makes a dull bench; ", 53)
	next := make(chan int)
	errs := make(chan error, 16)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c := t.Client()
			defer c.CloseIdleConnections()
			for n := range next {
				body := fmt.Sprintf(`{"apiVersion":%q,"kind":"ConfigMap","metadata":{"name":"bench-%d"},"data":{"text":"%d %s"}}`, apiVersion, n, n, text)
				if _, err := t.Do(context.Background(), c, "POST", path, body); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for n := range objects {
		next <- n
	}
	close(next)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
