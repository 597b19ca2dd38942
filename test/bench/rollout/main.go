// Command rollout measures how long a Deployment of 1,000 pods takes on 100
// pretend nodes: from its creation until all are available, and from a new image
// until the rolling update is done, as the Deployment's status says. A watch of
// the pods counts what each was written, and whether there were ever more of them
// than maxSurge allows, or fewer available than maxUnavailable does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/httpapi"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/test/bench/measure"
)

func main() {
	b := bench{}
	flag.IntVar(&b.nodes, "nodes", 100, "pretend nodes")
	flag.IntVar(&b.pods, "pods", 1000, "replicas of the Deployment")
	flag.IntVar(&b.runs, "runs", 3, "fresh clusters")
	flag.BoolVar(&b.profile, "profile", false, "write profiles of the server to build/bench")
	flag.Parse()
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-rollout:", err)
		os.Exit(1)
	}
}

type bench struct {
	nodes, pods, runs int
	profile           bool
}

// A result is what one run came to.
type result struct {
	up, roll    stage // until all are available; until the update is done, for which one pod comes and one goes
	over, under int
}

// A stage is what a change of the Deployment took.
type stage struct {
	took   float64 // seconds
	writes float64 // of pod objects, for each pod
	cpu    float64 // seconds of the server's processor time
	revs   float64 // writes of objects of any kind, for each pod
}

func (b *bench) run() error {
	program, err := measure.Proa()
	if err != nil {
		return err
	}
	raw := measure.NewRaw("nodes_pods", "run", "up_s", "up_writes", "up_cpu_s", "up_revisions", "roll_s", "roll_writes", "roll_cpu_s", "roll_revisions", "over_surge", "under_available")
	var all []result
	for n := range b.runs {
		r, err := b.once(program, n)
		if err != nil {
			return err
		}
		all = append(all, r)
		raw.Add(fmt.Sprintf("%d_%d", b.nodes, b.pods), n+1,
			r.up.took, r.up.writes, r.up.cpu, r.up.revs, r.roll.took, r.roll.writes, r.roll.cpu, r.roll.revs, float64(r.over), float64(r.under))
	}
	of := func(f func(result) float64) (v []float64) {
		for _, r := range all {
			v = append(v, f(r))
		}
		return v
	}
	up, roll := of(func(r result) float64 { return r.up.took }), of(func(r result) float64 { return r.roll.took })
	writes := of(func(r result) float64 { return r.up.writes })
	violations := of(func(r result) float64 { return float64(r.over + r.under) })
	fmt.Printf("  %d pods on %d nodes, s: up %s, rolling %s\n", b.pods, b.nodes, measure.Spread(up), measure.Spread(roll))
	fmt.Printf("  processor time of the server, s: up %s, rolling %s\n",
		measure.Spread(of(func(r result) float64 { return r.up.cpu })), measure.Spread(of(func(r result) float64 { return r.roll.cpu })))
	fmt.Printf("  writes of a pod's object: up %s, rolling, where one comes and one goes, %s; of objects of any kind: up %s, rolling %s\n",
		measure.Spread(writes), measure.Spread(of(func(r result) float64 { return r.roll.writes })),
		measure.Spread(of(func(r result) float64 { return r.up.revs })), measure.Spread(of(func(r result) float64 { return r.roll.revs })))
	if err := raw.Write("rollout"); err != nil {
		return err
	}
	const floor = 48 // 1,000 pods, two requests each to make and bind, 50 and 20 requests/s
	limits := "upstream's default client limits"
	what := fmt.Sprintf("of %d pods on %d pretend nodes", b.pods, b.nodes)
	measure.Report("rollout", []measure.Claim{
		{Figure: measure.Median(up), Unit: "s until all are available " + what, Ratio: measure.Median(up) / floor, Reference: limits, Target: 2, In: "s", Less: true},
		{Figure: measure.Median(roll), Unit: "s for a rolling update " + what, Ratio: measure.Median(roll) / floor, Reference: limits, Target: 6, In: "s", Less: true},
		{Figure: slices.Max(writes), Unit: "writes of a pod until it is available", Target: 4, In: "writes", Less: true},
		{Figure: slices.Max(violations), Unit: "states that violated maxSurge or maxUnavailable", Target: 0, In: "states", Less: true},
	})
	return nil
}

func (b *bench) once(program string, n int) (r result, err error) {
	dir, remove, err := measure.Scratch()
	if err != nil {
		return r, err
	}
	defer remove()
	c, err := measure.NewPretendCluster(measure.AnyCore, program, filepath.Join(dir, "p"))
	if err != nil {
		return r, err
	}
	c.Nodes = b.nodes
	if err := errors.Join(c.Launch(), c.Ready()); err != nil {
		return r, err
	}
	defer c.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute+2*b.limit())
	defer cancel()
	h := httpapi.Dial(c.URL, c.Client())
	if err := b.awaitNodes(ctx, h); err != nil {
		return r, err
	}
	w := &watcher{limit: b.pods + (b.pods+3)/4, least: b.pods - b.pods/4, pods: map[types.UID]state{}}
	w.follow(ctx, httpapi.Dial(c.URL, c.Client()))
	run := func(name string, begin func() error) (s stage, err error) {
		profiled := b.record(ctx, c, fmt.Sprintf("%s-%d", name, n))
		before, err := measure.CPU(c.PID())
		if err != nil {
			return s, err
		}
		rev, writes := w.seen()
		start := time.Now()
		if err := begin(); err != nil {
			return s, err
		}
		if err := b.awaitDone(ctx, h); err != nil {
			return s, err
		}
		s.took = time.Since(start).Seconds()
		after, err := measure.CPU(c.PID())
		if err != nil {
			return s, err
		}
		if err := w.await(ctx, b.pods); err != nil {
			return s, err
		}
		profiled()
		revNow, writesNow := w.seen()
		s.cpu = (after - before).Seconds()
		s.writes = float64(writesNow-writes) / float64(b.pods)
		s.revs = float64(revNow-rev) / float64(b.pods)
		return s, nil
	}
	r.up, err = run("up", func() error {
		_, err := apps.Deployment.Create(ctx, h, b.deployment())
		return err
	})
	if err != nil {
		return r, err
	}
	w.judge()
	r.roll, err = run("roll", func() error {
		_, err := apps.Deployment.Patch(ctx, h, "default", name, "", types.JSONPatchType,
			[]byte(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"registry.example.com/shop/web:2"}]`))
		return err
	})
	r.over, r.under = w.violations()
	return r, err
}

const name = "web"

func (b *bench) deployment() *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(b.pods)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: name, Image: "registry.example.com/shop/web:1"}}},
			},
		},
	}
}

// awaitNodes returns when all nodes are ready.
func (b *bench) awaitNodes(ctx context.Context, h api.Handler) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ready := map[string]bool{}
	for c := range core.Node.Follow(ctx, h, "", api.Selectors{}, func(error) {}) {
		for _, n := range append(c.All, c.Object) {
			if n != nil && core.NodeReady(n) {
				ready[n.Name] = true
			}
		}
		if len(ready) == b.nodes {
			return nil
		}
	}
	return fmt.Errorf("only %d of %d nodes are ready after a minute", len(ready), b.nodes)
}

// limit is how long all pods may take to come, or to be replaced.
func (b *bench) limit() time.Duration {
	return max(2*time.Minute, time.Duration(b.pods)*12*time.Millisecond)
}

// awaitDone returns when the Deployment says that it has what it asks for.
func (b *bench) awaitDone(ctx context.Context, h api.Handler) error {
	ctx, cancel := context.WithTimeout(ctx, b.limit())
	defer cancel()
	var last appsv1.DeploymentStatus
	for c := range apps.Deployment.Follow(ctx, h, "default", api.Selectors{}, func(error) {}) {
		for _, d := range append(c.All, c.Object) {
			if d == nil {
				continue
			}
			s, n := d.Status, int32(b.pods)
			if last = s; s.ObservedGeneration == d.Generation && s.Replicas == n && s.UpdatedReplicas == n && s.AvailableReplicas == n {
				return nil
			}
		}
	}
	return fmt.Errorf("not done after %v: %d pods, %d updated, %d available", b.limit(), last.Replicas, last.UpdatedReplicas, last.AvailableReplicas)
}

// record takes a profile of the server from now on; what it returns waits for it.
func (b *bench) record(ctx context.Context, c *measure.PretendCluster, stage string) (wait func()) {
	if !b.profile {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p, err := c.Do(ctx, c.Client(), http.MethodGet, "/debug/pprof/profile?seconds=3", "")
		if err == nil {
			err = os.MkdirAll(filepath.Join("build", "bench"), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join("build", "bench", "rollout-"+stage+".pprof"), p, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "  no profile:", err)
		}
	}()
	time.Sleep(100 * time.Millisecond) // until it has begun
	return func() { <-done }
}
