package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
	"proa/internal/store/memory"
)

// events keeps what users are told.
type events struct {
	mu   sync.Mutex
	list []told
}

type told struct {
	pod, text string
	at        time.Time
}

func (e *events) About(ref *corev1.ObjectReference, typ, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, told{ref.Name, fmt.Sprintf("%s %s: %s", typ, reason, message), time.Now()})
}

func (e *events) timed() []told {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

// a world is one API server and one node with a pretend runtime.
type world struct {
	t       *testing.T
	api     *apiserver.Server
	rt      *pretend.Runtime
	agent   *node.Agent
	events  *events
	began   time.Time
	network func() (bool, string)
	stop    func()
	writes  *counter
	tune    []func(*node.Config)
}

// counter counts the writes on pods that pass through it.
type counter struct {
	api.Handler
	mu sync.Mutex
	n  map[string]int
}

func (c *counter) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	if r.Verb.Writes() && r.Resource == core.Pod.Def() {
		c.mu.Lock()
		c.n[r.Name]++
		c.mu.Unlock()
	}
	return c.Handler.Handle(ctx, r)
}

func newWorld(t *testing.T, tune ...func(*node.Config)) *world {
	t.Helper()
	e := memory.New(nil)
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"default", "kube-node-lease"} {
		if _, err := core.Namespace.Create(t.Context(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, tune: tune, api: s, events: &events{}, writes: &counter{Handler: s, n: map[string]int{}},
		rt: pretend.New(pretend.Options{CIDR: netip.MustParsePrefix("10.42.0.0/24")})}
	w.boot()
	t.Cleanup(func() {
		w.stop()
		s.Close()
		_ = e.Close()
	})
	return w
}

// A new run of the agent sets up the network anew; the node was ready and stays
// so meanwhile, because its pods run and are reached. But not for ever.
func TestNodeStaysReadyOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		is := func(want corev1.ConditionStatus, message string) {
			t.Helper()
			synctest.Wait()
			n, err := core.Node.Get(t.Context(), w.api, "", "n1")
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
			if i < 0 || n.Status.Conditions[i].Status != want || !strings.Contains(n.Status.Conditions[i].Message, message) {
				t.Errorf("after %s: %v, want Ready=%s %q", time.Since(w.began), n.Status.Conditions, want, message)
			}
		}
		w.began = time.Now()
		is(corev1.ConditionTrue, "")
		w.stop()
		var up atomic.Bool
		w.network = func() (bool, string) { return up.Load(), "the network is being set up" }
		w.boot()
		is(corev1.ConditionTrue, "")
		time.Sleep(10 * time.Second)
		is(corev1.ConditionTrue, "")
		time.Sleep(15 * time.Second)
		is(corev1.ConditionFalse, "the network is being set up")
		up.Store(true)
		w.agent.NetworkChanged()
		is(corev1.ConditionTrue, "")
		// What breaks later is said at once.
		up.Store(false)
		w.agent.NetworkChanged()
		is(corev1.ConditionFalse, "the network is being set up")
	})
}

// boot starts an agent; the world is as the last one left it.
func (w *world) boot() {
	c := node.Config{Name: "n1", Handler: w.writes, Runtime: w.rt, Events: w.events, RootDir: w.t.TempDir(),
		Log:       slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.7.1"}},
		Machine:   node.Machine{MilliCPU: 4000, Memory: 8 << 30}, NetworkReady: w.network}
	for _, f := range w.tune {
		f(&c)
	}
	a, err := node.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = a.Run(ctx); close(done) }()
	w.agent = a
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
}

func (w *world) create(p *corev1.Pod) *corev1.Pod {
	w.t.Helper()
	p.Namespace = "default"
	p.Spec.NodeName = "n1"
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Image == "" {
			p.Spec.Containers[i].Image = "img:1"
		}
	}
	got, err := core.Pod.Create(w.t.Context(), w.api, p)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func (w *world) pod(name string) *corev1.Pod {
	w.t.Helper()
	p, err := core.Pod.Get(w.t.Context(), w.api, "default", name)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func simple(name string, names ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
	if len(names) == 0 {
		names = []string{"c"}
	}
	for _, n := range names {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: n, Image: "img:1"})
	}
	return p
}

func script(p *corev1.Pod, container, text string) *corev1.Pod {
	p.Annotations[pretend.Annotation+container] = text
	return p
}

func TestNodeRegistersAndIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		synctest.Wait()
		n, err := core.Node.Get(t.Context(), w.api, "", "n1")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range n.Status.Conditions {
			want := corev1.ConditionFalse
			if c.Type == corev1.NodeReady {
				want = corev1.ConditionTrue
			}
			if c.Status != want {
				t.Errorf("%s is %s: %s", c.Type, c.Status, c.Message)
			}
		}
		if n.Status.NodeInfo.KubeletVersion != node.Version || n.Labels[corev1.LabelHostname] != "n1" {
			t.Errorf("node is %+v", n)
		}
	})
}

func TestPodRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create(simple("a", "x", "y"))
		synctest.Wait()
		p := w.pod("a")
		if p.Status.Phase != corev1.PodRunning || p.Status.PodIP != "10.42.0.2" || p.Status.HostIP != "192.168.7.1" {
			t.Fatalf("status is %+v", p.Status)
		}
		for _, c := range p.Status.Conditions {
			if c.Status != corev1.ConditionTrue {
				t.Errorf("%s is %s: %s %s", c.Type, c.Status, c.Reason, c.Message)
			}
		}
		for _, c := range p.Status.ContainerStatuses {
			if !c.Ready || c.State.Running == nil || c.Started == nil || !*c.Started || c.ContainerID == "" || c.ImageID == "" {
				t.Errorf("container %+v", c)
			}
		}
		if n := w.writes.n["a"]; n > 3 {
			t.Errorf("%d writes for a pod that only came up", n)
		}
		time.Sleep(time.Hour)
		if n := w.writes.n["a"]; n > 3 {
			t.Errorf("%d writes after an hour of rest", n)
		}
		if err := core.Pod.Delete(t.Context(), w.api, "default", "a", api.Options{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if l, _ := core.Pod.List(t.Context(), w.api, "", api.Selectors{}); len(l) != 0 {
			t.Errorf("still there: %+v", l[0].Status)
		}
		if s, _ := w.rt.ListSandboxes(t.Context(), nil); len(s) != 0 {
			t.Errorf("%d sandboxes are left", len(s))
		}
	})
}

// A deaf server takes no status of a pod.
type deaf struct {
	api.Handler
	is atomic.Bool
}

func (d *deaf) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	if d.is.Load() && r.Verb.Writes() && r.Resource == core.Pod.Def() {
		return nil, apierrors.NewServiceUnavailable("not now")
	}
	return d.Handler.Handle(ctx, r)
}

// A pod began before its containers did, however late the status is written that says
// so, and also if the agent that made them could write none.
func TestStartTime(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := &deaf{}
			w := newWorld(t, func(c *node.Config) { d.Handler, c.Handler = c.Handler, d })
			began := time.Now()
			w.create(simple("a"))
			d.is.Store(true)
			time.Sleep(3 * time.Second)
			if restart {
				w.stop()
				w.boot()
			}
			d.is.Store(false)
			time.Sleep(20 * time.Second)
			st := w.pod("a").Status
			if st.Phase != corev1.PodRunning || st.StartTime == nil {
				t.Fatalf("status is %+v", st)
			}
			made := st.ContainerStatuses[0].State.Running.StartedAt
			if made.Sub(began) > time.Second || made.Before(st.StartTime) || st.StartTime.Time.Before(began) {
				t.Errorf("restart %v: the pod began after %s, its container after %s", restart, st.StartTime.Sub(began), made.Sub(began))
			}
		})
	}
}
