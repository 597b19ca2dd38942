package story

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// web is an HTTP server and a server that echoes, behind a Service.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: http
        image: proa-test:1
        command: [/bin/proa-test, serve, -drain, 2s]
        readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
      - name: echo
        image: proa-test:1
        command: [/bin/proa-test, tcp-echo, ":7"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: echo, port: 7}
`

// startWeb starts a cluster with web on it.
func startWeb(t *testing.T, h *host, flags ...string) *cluster {
	t.Helper()
	c := newCluster(t, h, flags...)
	t.Logf("started in %s", c.up())
	c.load("proa-test-1")
	c.apply(web)
	c.until(60*time.Second, "successfully rolled out", "rollout", "status", "deployment/web", "--timeout=50s")
	return c
}

// containers lists what runs: container ids with their start and their pod's address.
func (c *cluster) containers(label string) map[string]string {
	c.t.Helper()
	out := map[string]string{}
	for _, p := range c.pods(label) {
		if p.DeletionTimestamp != nil {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running != nil {
				out[s.ContainerID] = fmt.Sprint(p.Name, " ", s.Name, " ", p.Status.PodIP, " ", s.State.Running.StartedAt.UTC(), " restarts ", s.RestartCount)
			}
		}
	}
	return out
}

// same checks that the containers are those that there were.
func (c *cluster) same(label string, before map[string]string) {
	c.t.Helper()
	after := c.containers(label)
	for id, what := range before {
		if after[id] != what {
			c.t.Errorf("container %s was %s, is %q", id, what, after[id])
		}
	}
	if len(after) != len(before) {
		c.t.Errorf("there are %d containers, there were %d", len(after), len(before))
	}
}

// addresses checks that no two live pods have the same address.
func (c *cluster) addresses() {
	c.t.Helper()
	list, err := core.Pod.List(c.t.Context(), c.handler(), "", api.Selectors{})
	if err != nil {
		c.t.Fatal(err)
	}
	has := map[string]string{}
	for _, p := range list {
		done := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if p.Status.PodIP == "" || p.Spec.HostNetwork || done {
			continue
		}
		if other := has[p.Status.PodIP]; other != "" {
			c.t.Errorf("pods %s and %s have the address %s", other, p.Name, p.Status.PodIP)
		}
		has[p.Status.PodIP] = p.Name
	}
}

// writers create ConfigMaps until stopped, and remember what was acknowledged.
type writers struct {
	mu    sync.Mutex
	acked map[string]string
	wg    sync.WaitGroup
	stop  context.CancelFunc
	refs  atomic.Int64
}

func write(c *cluster, n int) *writers {
	ctx, stop := context.WithCancel(c.t.Context())
	w := &writers{acked: map[string]string{}, stop: stop}
	h := c.handler()
	for i := range n {
		w.wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				name := fmt.Sprintf("w%d-%d", i, k)
				value := fmt.Sprint(rand.Uint64())
				_, err := core.ConfigMap.Create(ctx, h, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"v": value}})
				if err == nil {
					w.mu.Lock()
					w.acked[name] = value
					w.mu.Unlock()
					continue
				}
				w.refs.Add(1)
				if apierrors.IsAlreadyExists(err) {
					continue // written, but the answer was lost: either is right
				}
				select { // proa is away
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return w
}

// check stops the writers and looks for everything that was acknowledged.
func (w *writers) check(c *cluster) {
	c.t.Helper()
	w.stop()
	w.wg.Wait()
	list, err := core.ConfigMap.List(c.t.Context(), c.handler(), "default", api.Selectors{})
	if err != nil {
		c.t.Fatal(err)
	}
	has := map[string]string{}
	for _, m := range list {
		has[m.Name] = m.Data["v"]
	}
	lost := 0
	for name, v := range w.acked {
		if has[name] != v {
			lost++
		}
	}
	c.t.Logf("%d writes acknowledged, %d refused, %d there", len(w.acked), w.refs.Load(), len(has))
	if lost > 0 || len(w.acked) == 0 {
		c.t.Errorf("%d of %d acknowledged writes are lost", lost, len(w.acked))
	}
}

// echo holds one connection to the echo service and talks over it.
type echo struct {
	conn net.Conn
	t    *testing.T
}

func (c *cluster) echo() *echo {
	c.t.Helper()
	ip := c.k("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	conn, err := c.ns.Dial("tcp", net.JoinHostPort(ip, "7"), 5*time.Second)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return &echo{conn, c.t}
}

func (e *echo) say(text string) {
	e.t.Helper()
	if err := e.conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		e.t.Fatal(err)
	}
	if _, err := e.conn.Write([]byte(text)); err != nil {
		e.t.Fatalf("the connection broke: %v", err)
	}
	buf := make([]byte, 100)
	n, err := e.conn.Read(buf)
	if err != nil || string(buf[:n]) != text {
		e.t.Fatalf("said %q on the connection, heard %q %v", text, buf[:n], err)
	}
}

// kill -9 of proa again and again while clients write: containers run on,
// services answer, what was acknowledged is there, nothing is there twice.
func TestKillProa(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	h := newHost(t, true)
	c := startWeb(t, h)
	url := "http://" + c.k("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}") + "/"
	before := c.containers("app=web")
	if len(before) != 6 {
		t.Fatalf("%d containers run, want 6: %v", len(before), before)
	}
	established := c.echo()
	established.say("before")

	out, err := c.proaErr("up", "-d")
	if want := fmt.Sprintf("process %d", c.pid()); err == nil || !strings.Contains(out, want) {
		t.Errorf("a second proa up: %v\n%s\nwant a refusal with %q", err, out, want)
	}
	out, err = c.proaErr("up")
	if want := fmt.Sprintf("another proa (process %d) runs the cluster in %s", c.pid(), c.root); err == nil || !strings.Contains(out, want) {
		t.Errorf("a second proa up: %v\n%s\nwant a refusal with %q", err, out, want)
	}

	w := write(c, 4)
	for i := range 4 {
		time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
		kill(t, c.pid())
		established.say("while it is dead")
		answers(t, client(h.ns), "GET", url, "", "proa-test")
		if out, err := c.proaErr("status"); err == nil || !strings.Contains(out, "proa is not running on "+c.root+"; 'proa up' starts it") {
			t.Errorf("proa status of a dead proa: %v %s", err, out)
		}
		took := c.up()
		t.Logf("kill %d: ready again after %s", i, took)
		if took > 10*time.Second {
			t.Errorf("proa was ready again after %s only", took)
		}
		established.say("again")
		c.same("app=web", before)
	}
	w.check(c)
	c.addresses()

	// New pods after all that get addresses of their own.
	c.k("scale", "deployment/web", "--replicas=5")
	c.until(30*time.Second, "5/5", "get", "deployment", "web")
	c.addresses()
	answers(t, client(h.ns), "GET", url, "", "proa-test")
}

// The same for containerd: proa starts it again, and no container notices.
func TestKillContainerd(t *testing.T) {
	h := newHost(t, true)
	c := startWeb(t, h)
	before := c.containers("app=web")
	established := c.echo()
	for range 2 {
		file := filepath.Join(c.p.Run, "containerd", "containerd.pid")
		old := pidIn(t, file)
		kill(t, old)
		established.say("without containerd")
		for end := time.Now().Add(20 * time.Second); pidIn(t, file) == old; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("containerd was not started again")
			}
		}
		c.same("app=web", before)
		// What was asked for meanwhile happens.
		c.k("run", "new", "--image=proa-test:1", "--restart=Never", "--", "exit", "0")
		c.until(30*time.Second, "Succeeded", "get", "pod", "new", "-o", "jsonpath={.status.phase}")
		c.k("delete", "pod", "new", "--timeout=20s")
		if out := c.k("exec", "deployment/web", "-c", "http", "--", "/bin/proa-test", "id"); !strings.Contains(out, "Uid:") {
			t.Errorf("kubectl exec: %s", out)
		}
		c.until(10*time.Second, " Ready ", "get", "nodes")
	}
	// Both at once, as when memory runs out.
	kill(t, c.pid())
	kill(t, pidIn(t, filepath.Join(c.p.Run, "containerd", "containerd.pid")))
	established.say("without both")
	t.Logf("ready again after %s", c.up())
	c.same("app=web", before)
	c.addresses()
}

// Killed in the midst of a rolling update: the next proa ends it, with as many
// pods as there are to be.
func TestKillDuringUpdate(t *testing.T) {
	h := newHost(t, true)
	c := startWeb(t, h)
	url := "http://" + c.k("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}") + "/"
	l := &load{versions: map[string]int{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for range 2 {
		cl := client(h.ns)
		wg.Go(func() {
			l.run(ctx, func() (int, string, error) { return get(context.WithoutCancel(ctx), cl, url) })
		})
	}
	for round := range 3 {
		c.k("set", "env", "deployment/web", fmt.Sprintf("ROUND=%d", round))
		time.Sleep(time.Duration(300+500*round) * time.Millisecond)
		kill(t, c.pid())
		t.Logf("killed at %s, ready again after %s", time.Now().Format("05.000"), c.up())
		c.until(60*time.Second, "successfully rolled out", "rollout", "status", "deployment/web", "--timeout=50s")
		c.addresses()
	}
	// Old pods go.
	for end := time.Now().Add(20 * time.Second); len(c.pods("app=web")) > 3 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	pods := c.pods("app=web")
	if len(pods) != 3 {
		t.Errorf("%d pods, want 3", len(pods))
	}
	for _, p := range pods {
		if v := p.Spec.Containers[0].Env; len(v) == 0 || v[0].Value != "2" {
			t.Errorf("pod %s has the environment %v, want that of the last update", p.Name, v)
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d requests, %d failed", l.asked, len(l.failed))
	if len(l.failed) > 0 {
		t.Errorf("%d requests failed: %s\n…\n%s", len(l.failed), strings.Join(l.failed[:min(5, len(l.failed))], "\n"), l.failed[len(l.failed)-1])
	}
	if n := sandboxes(c); n != 3 {
		t.Errorf("%d sandboxes run, want 3", n)
	}
}

// sandboxes counts the pause processes of the cluster.
func sandboxes(c *cluster) (n int) {
	for pid, args := range processes() {
		if strings.HasPrefix(args, "/pause") && strings.Contains(cgroupOf(pid), c.p.Cgroup()) {
			n++
		}
	}
	return n
}

// Killed at any moment of the start, the first one included: the next start works.
func TestKillDuringStart(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	h := newHost(t, true)
	c := newCluster(t, h)
	for i := range 8 {
		cmd := exec.Command(c.proa, "up")
		cmd.Env = append(os.Environ(), "PROA_ROOT="+c.root)
		if err := c.host.start(cmd); err != nil {
			t.Fatal(err)
		}
		wait := time.Duration(random.IntN(300)) * time.Millisecond
		if i > 4 {
			wait *= 4 // while the node starts
		}
		time.Sleep(wait)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	t.Logf("ready after %s", c.up())
	c.load("proa-test-1")
	c.apply(web)
	c.until(60*time.Second, "successfully rolled out", "rollout", "status", "deployment/web", "--timeout=50s")
	if n := len(c.containers("app=web")); n != 6 {
		t.Errorf("%d containers, want 6", n)
	}
	c.addresses()
	// Nothing was made twice, as two containerds.
	n := 0
	for _, args := range processes() {
		if strings.Contains(args, "containerd --config "+c.root+"/") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d containerds run", n)
	}
}

// A stop is clean, with containers or without, and a new start goes on.
func TestStop(t *testing.T) {
	h := newHost(t, true)
	c := startWeb(t, h)
	before := c.containers("app=web")
	began := time.Now()
	c.proaOK("down", "--keep-containers")
	t.Logf("down --keep-containers in %s", time.Since(began))
	if c.pid() != 0 {
		t.Error("proa runs after proa down")
	}
	if _, err := os.Stat(c.p.PID()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pid file is there still: %v", err)
	}
	c.up()
	c.same("app=web", before)

	began = time.Now()
	c.proaOK("down")
	t.Logf("down in %s", time.Since(began))
	for pid, args := range processes() {
		if strings.Contains(args, c.root+"/") || strings.Contains(cgroupOf(pid), c.p.Cgroup()) {
			t.Errorf("process %d runs after proa down: %s", pid, args)
		}
	}
	c.up()
	c.until(60*time.Second, "3/3", "get", "deployment", "web")
	c.addresses()
	answers(t, client(h.ns), "GET", "http://"+c.k("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")+"/", "", "proa-test")
}

// Killed while many pods are made and removed: at the end there are those that
// are wanted, each once, and nothing runs for the others.
func TestKillDuringChurn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	h := newHost(t, true)
	c := newCluster(t, h)
	c.up()
	c.load("proa-test-1")
	c.k("create", "deployment", "many", "--image=proa-test:1", "--replicas=0", "--", "/bin/proa-test", "sleep", "1000s")
	const kills = 4
	for range kills {
		c.k("scale", "deployment/many", fmt.Sprintf("--replicas=%d", 2+random.IntN(6)))
		time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond)
		c.k("scale", "deployment/many", fmt.Sprintf("--replicas=%d", random.IntN(3)))
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		kill(t, c.pid())
		c.up()
	}
	c.k("scale", "deployment/many", "--replicas=3")
	began := time.Now()
	c.until(60*time.Second, "3/3", "get", "deployment", "many")
	t.Logf("as wanted after %s", time.Since(began))
	var n, boxes, shims int
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		n, boxes, shims = len(c.pods("app=many")), sandboxes(c), 0
		for _, args := range processes() {
			if strings.Contains(args, "containerd-shim-runc-v2 ") && strings.Contains(args, "-address "+c.p.Socket()) {
				shims++
			}
		}
		if n == 3 && boxes == 3 && shims == 3 {
			break
		}
	}
	t.Logf("nothing else runs after %s", time.Since(began))
	if n != 3 || boxes != 3 {
		t.Errorf("%d pods and %d sandboxes, want 3", n, boxes)
	}
	if shims != 3 {
		t.Errorf("%d shims run, want 3", shims)
	}
	c.addresses()
}
