package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
	"proa/internal/store/memory"
)

var epoch = time.Unix(1_900_000_000, 0)

// TestRates checks what rate two readings make, or that they make none.
func TestRates(t *testing.T) {
	sec := func(n float64) time.Time { return epoch.Add(time.Duration(n * float64(time.Second))) }
	use := func(at time.Time, cpu time.Duration) kubeletapi.Use {
		return kubeletapi.Use{Time: at, CPU: uint64(cpu), Memory: 7}
	}
	for _, tt := range []struct {
		name   string
		list   []kubeletapi.Use
		window time.Duration
		cpu    uint64
	}{
		{"one reading", []kubeletapi.Use{use(sec(0), time.Hour)}, 0, 0},
		{"two", []kubeletapi.Use{use(sec(0), time.Hour), use(sec(10), time.Hour+5*time.Second)}, 10 * time.Second, 500_000_000},
		{"rounded", []kubeletapi.Use{use(sec(0), 0), use(sec(15.001), 300_019_999)}, 15001 * time.Millisecond, 20_000_000},
		{"idle", []kubeletapi.Use{use(sec(0), time.Hour), use(sec(10), time.Hour)}, 10 * time.Second, 0},
		{"the last two count", []kubeletapi.Use{use(sec(0), 0), use(sec(10), 0), use(sec(25), 30*time.Second)}, 15 * time.Second, 2_000_000_000},
		{"the same twice", []kubeletapi.Use{use(sec(0), 0), use(sec(10), time.Second), use(sec(10), time.Second)}, 10 * time.Second, 100_000_000},
		{"a counter that began anew", []kubeletapi.Use{use(sec(0), time.Hour), use(sec(10), time.Second)}, 0, 0},
		{"and went on", []kubeletapi.Use{use(sec(0), time.Hour), use(sec(10), time.Second), use(sec(20), 2*time.Second)}, 10 * time.Second, 100_000_000},
		{"a clock that was set back", []kubeletapi.Use{use(sec(100), 0), use(sec(10), time.Second)}, 0, 0},
		{"too far apart", []kubeletapi.Use{use(sec(0), 0), use(sec(61), time.Second)}, 0, 0},
		{"nothing said", []kubeletapi.Use{use(sec(0), 0), use(sec(10), 0), {}}, 0, 0},
	} {
		m := meter{}
		for _, u := range tt.list {
			m = m.read(u, time.Minute)
		}
		if m.window != tt.window || m.cpu != tt.cpu {
			t.Errorf("%s: %d in %s, want %d in %s", tt.name, m.cpu, m.window, tt.cpu, tt.window)
		}
	}
}

// TestContainers checks that a container that began anew is another one, and that
// its pod has no metrics until it was read twice.
func TestContainers(t *testing.T) {
	read := func(n *node, at int, began int, names ...string) *node {
		r := &kubeletapi.Resources{}
		for _, name := range names {
			r.Containers = append(r.Containers, kubeletapi.ContainerUse{Namespace: "n", Pod: "p", Container: name, Began: epoch.Add(time.Duration(began) * time.Second),
				Use: kubeletapi.Use{Time: epoch.Add(time.Duration(at) * time.Second), CPU: uint64(at) * 1e9}})
		}
		return n.read(r, time.Minute)
	}
	m := New(Config{})
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}, Spec: corev1.PodSpec{NodeName: "x"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	measured := func(n *node) string {
		m.put("x", n)
		o := m.ofPod(p)
		if o == nil {
			return ""
		}
		var out []string
		for _, c := range o.Containers {
			out = append(out, c.Name)
		}
		return strings.Join(out, " ")
	}
	var n *node
	for i, tt := range []struct {
		at, began int
		names     []string
		want      string
	}{
		{10, 0, []string{"b", "a"}, ""},
		{20, 0, []string{"b", "a"}, "a b"},
		{30, 0, []string{"b", "a", "new"}, ""},
		{40, 0, []string{"new", "b", "a"}, "a b new"},
		{50, 0, []string{"a"}, "a"},
		{60, 55, []string{"a"}, ""}, // it started again
		{70, 55, []string{"a"}, "a"},
		{80, 55, nil, ""},
	} {
		n = read(n, tt.at, tt.began, tt.names...)
		if got := measured(n); got != tt.want {
			t.Errorf("%d: %q, want %q", i, got, tt.want)
		}
	}
	n = read(read(nil, 10, 5, "a"), 20, 5, "a")
	start := metav1.NewTime(epoch.Add(6 * time.Second))
	p.Status.StartTime = &start
	if got := measured(n); got != "" {
		t.Errorf("of a pod before this one: %q", got)
	}
	start = metav1.NewTime(epoch.Add(5 * time.Second))
	if got := measured(n); got != "a" {
		t.Errorf("of this pod: %q", got)
	}
	p.Status.Phase = corev1.PodSucceeded
	if got := measured(n); got != "" {
		t.Errorf("of a pod that has ended: %q", got)
	}
}

// A fakeNode answers as an agent.
type fakeNode struct {
	kubeletapi.Agent
	answer func(context.Context) (*kubeletapi.Resources, error)
}

func (f fakeNode) Resources(ctx context.Context) (*kubeletapi.Resources, error) { return f.answer(ctx) }

// A world is a server with nodes that answer what they are told to.
type world struct {
	t *testing.T
	*Meter
	h     api.Handler
	mu    sync.Mutex
	asked []string
	bad   map[string]error // what a node says instead
	now   time.Time
}

func newWorld(t *testing.T, nodes ...string) *world {
	w := &world{t: t, bad: map[string]error{}, now: epoch}
	w.Meter = New(Config{Timeout: 50 * time.Millisecond, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Agent: w.agent})
	engine := memory.New(nil)
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: engine, Kinds: kinds.All, Log: w.Log, Subs: w.Subs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); engine.Close() })
	w.h = s
	for _, name := range nodes {
		if _, err := core.Node.Create(t.Context(), s, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) agent(_ context.Context, _ api.Handler, name string) (kubeletapi.Agent, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, name)
	err, now := w.bad[name], w.now
	return fakeNode{answer: func(ctx context.Context) (*kubeletapi.Resources, error) {
		if errors.Is(err, context.DeadlineExceeded) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return &kubeletapi.Resources{Node: kubeletapi.Use{Time: now, CPU: uint64(now.Sub(epoch)), Memory: 1}}, err
	}}, nil
}

// pass takes a reading 15 s after the one before, and answers which nodes were asked.
func (w *world) pass() string {
	w.now = w.now.Add(15 * time.Second)
	w.asked = nil
	w.Pass(w.t.Context(), w.h)
	slices.Sort(w.asked)
	return strings.Join(w.asked, " ")
}

// measured are the nodes of which something is known.
func (w *world) measured() string {
	w.t.Helper()
	list, err := core.Node.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, n := range list {
		if o := w.ofNode(n); o != nil {
			out = append(out, fmt.Sprint(n.Name, o.Usage.Cpu()))
		}
	}
	return strings.Join(out, " ")
}

// TestSilentNodes checks that nodes that do not answer cost little, hide nobody
// else, and are asked again.
func TestSilentNodes(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.bad["b"] = context.DeadlineExceeded
	var asked []string
	for range 16 {
		asked = append(asked, w.pass())
	}
	want := "a b,a b,a,a b,a,a,a,a b,a,a,a,a,a,a,a,a b"
	if got := strings.Join(asked, ","); got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	if got := w.measured(); got != "a1" {
		t.Errorf("measured %q", got)
	}
	delete(w.bad, "b")
	for w.pass() != "a b" {
	}
	if got := w.measured(); got != "a1" {
		t.Errorf("one reading made a rate: %q", got)
	}
	if w.pass(); w.measured() != "a1 b1" {
		t.Errorf("measured %q", w.measured())
	}
	w.bad["b"] = errors.New("not today")
	if w.pass(); w.measured() != "a1" {
		t.Errorf("of a node that does not answer any more: %q", w.measured())
	}
	delete(w.bad, "b")
	if w.pass(); w.measured() != "a1 b1" { // over two passes
		t.Errorf("measured %q", w.measured())
	}
}

// TestLostNodes checks that nodes are not asked that the cluster has lost, and
// that nothing is kept of those that are gone.
func TestLostNodes(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.pass()
	w.pass()
	say := func(status corev1.ConditionStatus) {
		t.Helper()
		n, err := core.Node.Get(t.Context(), w.h, "", "b")
		if err != nil {
			t.Fatal(err)
		}
		n = n.DeepCopy()
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
		if _, err := core.Node.UpdateStatus(t.Context(), w.h, n); err != nil {
			t.Fatal(err)
		}
	}
	say(corev1.ConditionUnknown)
	if got := w.pass(); got != "a" || w.measured() != "a1" {
		t.Errorf("asked %q, measured %q", got, w.measured())
	}
	say(corev1.ConditionTrue)
	if got := w.pass(); got != "a b" || w.measured() != "a1 b1" {
		t.Errorf("asked %q, measured %q", got, w.measured())
	}
	if err := core.Node.Delete(t.Context(), w.h, "", "b", api.Options{}); err != nil {
		t.Fatal(err)
	}
	if w.pass(); len(w.nodes) != 1 {
		t.Errorf("kept %d nodes", len(w.nodes))
	}
}

// BenchmarkPass is one pass over nodes of ten pods, besides what the nodes do.
func BenchmarkPass(b *testing.B) {
	for _, nodes := range []int{1, 1000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			now := epoch
			m := New(Config{Agent: func(context.Context, api.Handler, string) (kubeletapi.Agent, error) {
				return fakeNode{answer: func(context.Context) (*kubeletapi.Resources, error) {
					r := &kubeletapi.Resources{Node: kubeletapi.Use{Time: now, CPU: 1, Memory: 1}}
					for _, pod := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
						r.Containers = append(r.Containers, kubeletapi.ContainerUse{Namespace: "default", Pod: pod, Container: "c", Began: epoch, Use: r.Node})
					}
					return r, nil
				}}, nil
			}})
			engine := memory.New(nil)
			s, err := apiserver.New(b.Context(), apiserver.Config{Engine: engine, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer engine.Close()
			defer s.Close()
			for i := range nodes {
				if _, err := core.Node.Create(b.Context(), s, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}}); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				now = now.Add(15 * time.Second)
				m.Pass(b.Context(), s)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(nodes), "µs/node")
		})
	}
}
