package story

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// upScript is what `make up` runs once everything is built.
const (
	upScript  = "../../examples/up.sh"
	guestbook = "../../examples/guestbook"
)

// The guestbook by the same script as `make up`; an entry outlives whatever
// happens to the pods.
func TestGuestbook(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h)
	began := time.Now()
	out, err := c.run("", upScript, c.proa, c.images)
	if err != nil || !strings.Contains(out, "the guestbook answers") {
		t.Fatalf("up.sh: %v\n%s", err, out)
	}
	t.Logf("the guestbook answers after %.1fs", time.Since(began).Seconds())

	outside, here := client(h.peer), client(h.ns)
	node := "http://192.0.2.2:30080"
	inside := "http://" + c.k("get", "service", "frontend", "-o", "jsonpath={.spec.clusterIP}")
	answers(t, outside, "POST", node+"/entries", `{"name":"Ann","text":"the first"}`, "the first")
	shows := func(t *testing.T) {
		t.Helper()
		answers(t, outside, "GET", node+"/entries", "", "the first")
		answers(t, here, "GET", inside+"/entries", "", "the first")
		answers(t, here, "GET", "http://127.0.0.1:30080/entries", "", "the first")
	}
	shows(t)

	t.Run("the front end's pods are deleted", func(t *testing.T) {
		c := c.in(t)
		c.k("delete", "pods", "-l", "tier=frontend", "--wait=false")
		c.until(30*time.Second, "successfully rolled out", "rollout", "status", "deployment/frontend", "--timeout=30s")
		shows(t)
	})
	t.Run("the leader's container is killed", func(t *testing.T) { killLeader(t, c.in(t)); shows(t) })
	t.Run("rolling update under load", func(t *testing.T) { rollUnderLoad(t, c.in(t), node); shows(t) })
	t.Run("kubectl", func(t *testing.T) { useKubectl(t, c.in(t), node) })

	c.k("delete", "-f", guestbook, "--timeout=60s")
	c.until(40*time.Second, "No resources found", "get", "pods,services,deployments,replicasets,endpointslices,configmaps,secrets", "-l", "app=guestbook")
	for pid, args := range processes() {
		if strings.Contains(args, "redis-server") && strings.Contains(cgroupOf(pid), c.p.Cgroup()) {
			t.Errorf("process %d still runs: %s", pid, args)
		}
	}
}

func cgroupOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // gone is in no group
	return string(b)
}

// podNamed is the one pod of a selector.
func (c *cluster) pods(label string) []*corev1.Pod {
	c.t.Helper()
	k, v, _ := strings.Cut(label, "=")
	list, err := core.Pod.List(c.t.Context(), c.handler(), "default", api.WithLabels(map[string]string{k: v}))
	if err != nil {
		c.t.Fatal(err)
	}
	return list
}

// initOf finds the first process of a pod's container by its command and cgroup.
func initOf(t *testing.T, pod *corev1.Pod, command string) int {
	t.Helper()
	for pid, args := range processes() {
		if strings.Contains(args, command) && strings.Contains(cgroupOf(pid), string(pod.UID)) {
			return pid
		}
	}
	t.Fatalf("no process %s of pod %s", command, pod.Name)
	return 0
}

func killLeader(t *testing.T, c *cluster) {
	before := c.pods("role=leader")[0]
	kill(t, initOf(t, before, "redis-server"))
	c.until(30*time.Second, "1", "get", "pod", before.Name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
	c.until(30*time.Second, "true", "get", "pod", before.Name, "-o", "jsonpath={.status.containerStatuses[0].ready}")
	after := c.pods("role=leader")[0]
	if after.UID != before.UID || after.Status.PodIP != before.Status.PodIP {
		t.Errorf("the leader's pod changed: %s %s, was %s %s", after.Name, after.Status.PodIP, before.Name, before.Status.PodIP)
	}
	last := after.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 137 {
		t.Errorf("the last end of the leader's container: %v, want exit code 137", last)
	}
}

// load asks and posts until stopped, and counts what failed.
type load struct {
	mu       sync.Mutex
	asked    int
	failed   []string
	versions map[string]int
	slowest  time.Duration
}

func (l *load) run(ctx context.Context, cl func() (int, string, error)) {
	for ctx.Err() == nil {
		began := time.Now()
		code, body, err := cl()
		took := time.Since(began)
		l.mu.Lock()
		l.asked++
		l.slowest = max(l.slowest, took)
		if err != nil || code/100 != 2 {
			l.failed = append(l.failed, fmt.Sprintf("%s: %d %.200s %v", began.Format("05.000"), code, body, err))
		}
		for _, v := range []string{"v1", "v2"} {
			if strings.Contains(body, `"version":"`+v+`"`) {
				l.versions[v]++
			}
		}
		l.mu.Unlock()
	}
}

func rollUnderLoad(t *testing.T, c *cluster, node string) {
	c.load("guestbook-frontend-v2")
	l := &load{versions: map[string]int{}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 12 {
		cl := client(c.peer)
		wg.Go(func() {
			l.run(ctx, func() (int, string, error) {
				// What is under way when the load stops is let finish.
				if i == 0 { // few: the page shows the newest hundred
					time.Sleep(300 * time.Millisecond)
					return do(context.WithoutCancel(ctx), cl, "POST", node+"/entries", fmt.Sprintf(`{"name":"load %d","text":"x"}`, i))
				}
				return get(context.WithoutCancel(ctx), cl, node+"/entries")
			})
		})
	}
	began := time.Now()
	c.k("set", "image", "deployment/frontend", "frontend=guestbook-frontend:v2")
	c.until(90*time.Second, "successfully rolled out", "rollout", "status", "deployment/frontend", "--timeout=80s")
	took := time.Since(began)
	// Until the last old pod is gone for good.
	for end := time.Now().Add(40 * time.Second); len(c.pods("tier=frontend")) > 3 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	stop()
	wg.Wait()
	t.Logf("rolled out in %.1fs; %d requests (%v), %d failed, slowest %s", took.Seconds(), l.asked, l.versions, len(l.failed), l.slowest)
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed, among them %s", len(l.failed), l.asked, strings.Join(l.failed[:min(5, len(l.failed))], "\n"))
	}
	if l.versions["v1"] == 0 || l.versions["v2"] == 0 {
		t.Errorf("answers by version: %v, want some of both", l.versions)
	}
}

func useKubectl(t *testing.T, c *cluster, node string) {
	if out := c.k("logs", "deployment/frontend"); out == "" {
		t.Error("kubectl logs printed nothing")
	}
	if out := c.k("exec", "deployment/redis-leader", "--", "redis-cli", "llen", "entries"); out == "0" {
		t.Errorf("kubectl exec redis-cli: %q", out)
	}
	if out, err := c.run("", c.host.kubectl, "exec", "deployment/redis-leader", "--", "redis-cli", "-p", "1", "ping"); err == nil || !strings.Contains(out, "exit code 1") {
		t.Errorf("a command that fails, by kubectl exec: %v %s", err, out)
	}
	out, err := c.run("hello there\n", c.host.kubectl, "exec", "-i", "deployment/redis-leader", "--", "redis-cli", "-x", "echo")
	if err != nil || !strings.Contains(out, "hello there") {
		t.Errorf("kubectl exec -i: %v %s", err, out)
	}
	c.k("scale", "deployment/frontend", "--replicas=5")
	c.until(30*time.Second, "5/5", "get", "deployment", "frontend")
	c.k("scale", "deployment/frontend", "--replicas=2")
	c.until(30*time.Second, "2/2", "get", "deployment", "frontend")
	if out := c.k("rollout", "history", "deployment/frontend"); !strings.Contains(out, "\n1 ") || !strings.Contains(out, "\n2 ") {
		t.Errorf("kubectl rollout history: %s", out)
	}
	c.k("rollout", "undo", "deployment/frontend")
	c.until(60*time.Second, "successfully rolled out", "rollout", "status", "deployment/frontend", "--timeout=55s")
	answers(t, client(c.peer), "GET", node+"/entries", "", `"version":"v1"`)
	c.k("describe", "deployment/frontend")
	c.k("describe", "pods", "-l", "tier=frontend")
}
