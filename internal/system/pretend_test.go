package system

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
	"proa/internal/node/fleet"
	"proa/internal/node/steps"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
	"proa/internal/store/memory"
)

var update = flag.Bool("update", false, "write what there is into the stories, to be read before it is believed")

// A cluster is the real server, controllers and scheduler over pretend nodes.
type cluster struct {
	t        *testing.T
	h        *apiserver.Server
	machines []*fleet.Machine
	ctx      context.Context
	parts    sync.WaitGroup
}

// newCluster starts a cluster without nodes, which ends with the test. It is to be
// called in a synctest bubble.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	engine := memory.New(nil)
	ctx, cancel := context.WithCancel(context.Background())
	h, err := apiserver.New(ctx, apiserver.Config{Engine: engine, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler), Admit: admit.All(admit.Settings{})})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, h: h, ctx: ctx}
	t.Cleanup(func() {
		cancel()
		c.parts.Wait()
		h.Close()
		_ = engine.Close()
	})
	for _, ns := range []string{"default", "kube-node-lease"} {
		if _, err := core.Namespace.Create(ctx, h, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
			t.Fatal(err)
		}
	}
	events := record.New(core.Event, h, "", "", nil, nil)
	c.parts.Go(func() { events.Run(ctx) })
	all := controllers.All(controllers.Config{Kinds: h.Kinds, RootCA: "CA", PodCIDR: "10.42.0.0/16"})
	c.parts.Go(func() { _ = control.Run(ctx, h, all, control.Config{Events: events}) })
	c.parts.Go(func() { _ = sched.Run(ctx, h, sched.Config{Plugins: plugins.All, Events: events, Seed: 1}) })
	synctest.Wait()
	return c
}

// nodes starts so many nodes n-1, n-2 and so on, to which happens what the script says.
func (c *cluster) nodes(count int, script string) {
	c.t.Helper()
	s, err := fleet.Parse(script, count)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range count {
		name := fmt.Sprintf("n-%d", i+1)
		c.machines = append(c.machines, fleet.NewMachine(node.Config{Name: name, Handler: c.h, Bare: true, Labels: s.Labels(i + 1),
			Machine: pretendMachine, Steps: steps.Pretend(),
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.16.0.%d", i)}}}, pretend.Options{}))
	}
	p := fleet.NewPlayer(c.machines, s)
	events := record.New(core.Event, c.h, "pretend", "", nil, nil)
	p.Events = events
	c.parts.Go(func() { events.Run(c.ctx) })
	c.parts.Go(func() { p.Obey(c.ctx, c.h) })
	c.parts.Go(func() {
		if err := p.Run(c.ctx); c.ctx.Err() == nil {
			c.t.Error(err)
		}
	})
	synctest.Wait()
}

// advance lets time pass.
func (c *cluster) advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestPretendStories plays testdata/pretend/*.txtar in made-up time. Their sections are
//
//	nodes N            starts N nodes, with the section's text as their script
//	apply              creates the objects
//	annotate N ORDER   gives node n-N an order
//	advance D          lets time pass
//	want WHAT...       compares nodes, pods, pods wherever they are (apps) or what was
//	                   played (events) with the text
func TestPretendStories(t *testing.T) {
	files, err := filepath.Glob("testdata/pretend/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, err := txtar.ParseFile(f)
				if err != nil {
					t.Fatal(err)
				}
				newCluster(t).play(a)
				if *update {
					if err := os.WriteFile(f, txtar.Format(a), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

func (c *cluster) play(a *txtar.Archive) {
	c.t.Helper()
	for i, f := range a.Files {
		word := strings.Fields(f.Name)
		switch word[0] {
		case "nodes":
			n := 0
			fmt.Sscan(word[1], &n)
			c.nodes(n, string(f.Data))
		case "apply":
			c.apply(f.Data)
		case "annotate":
			c.annotate("n-"+word[1], strings.Join(word[2:], " "))
		case "advance":
			d, err := time.ParseDuration(word[1])
			if err != nil {
				c.t.Fatal(err)
			}
			c.advance(d)
		case "want":
			got := c.show(word[1:]...)
			if *update {
				a.Files[i].Data = []byte(got)
			} else if got != string(f.Data) {
				c.t.Fatalf("section %d, %s: got:\n%s\nwant:\n%s", i+1, f.Name, got, f.Data)
			}
		default:
			c.t.Fatalf("unknown section %q", f.Name)
		}
	}
}

// apply creates objects.
func (c *cluster) apply(text []byte) {
	c.t.Helper()
	for doc := range bytes.SplitSeq(text, []byte("---\n")) {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &head); err != nil {
			c.t.Fatal(err)
		}
		i := slices.IndexFunc(kinds.All, func(k api.Definition) bool { return k.Def().Kind == head.Kind })
		if i < 0 {
			c.t.Fatalf("no kind %q", head.Kind)
		}
		r := kinds.All[i].Def()
		obj := r.New()
		if err := yaml.UnmarshalStrict(doc, obj); err != nil {
			c.t.Fatal(err)
		}
		if r.Scope == api.Namespaced && obj.GetNamespace() == "" {
			obj.SetNamespace("default")
		}
		if _, err := api.Untyped(r).Create(c.ctx, c.h, obj); err != nil {
			c.t.Fatal(err)
		}
	}
	synctest.Wait()
}

func (c *cluster) annotate(name, order string) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, fleet.Annotation, order)
	if _, err := core.Node.Patch(c.ctx, c.h, "", name, "", types.MergePatchType, []byte(patch)); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// show prints what there is, a line each; lines that are the same are counted.
func (c *cluster) show(what ...string) string {
	c.t.Helper()
	count := map[string]int{}
	for _, w := range what {
		switch w {
		case "nodes":
			all, err := core.Node.List(c.ctx, c.h, "", api.Selectors{})
			if err != nil {
				c.t.Fatal(err)
			}
			for _, n := range all {
				count[nodeLine(n)]++
			}
		case "pods":
			for _, p := range c.pods() {
				count[podLine(p)]++
			}
		case "apps":
			for _, p := range c.pods() {
				count[strings.Replace(podLine(p), " on "+p.Spec.NodeName, "", 1)]++
			}
		case "events":
			all, err := core.Event.List(c.ctx, c.h, "", api.Selectors{})
			if err != nil {
				c.t.Fatal(err)
			}
			for _, e := range all {
				if e.Source.Component == "pretend" {
					count[fmt.Sprintf("%s %s %s", e.InvolvedObject.Name, e.Reason, e.Message)] += int(e.Count)
				}
			}
		default:
			c.t.Fatalf("cannot show %q", w)
		}
	}
	out := ""
	for _, l := range slices.Sorted(maps.Keys(count)) {
		if count[l] > 1 {
			out += fmt.Sprintf("%s x%d\n", l, count[l])
		} else {
			out += l + "\n"
		}
	}
	return out
}

func (c *cluster) pods() []*corev1.Pod {
	c.t.Helper()
	all, err := core.Pod.List(c.ctx, c.h, "default", api.Selectors{})
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}

func nodeLine(n *corev1.Node) string {
	l := n.Name
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == corev1.NodeReady:
			l += map[corev1.ConditionStatus]string{corev1.ConditionTrue: " Ready", corev1.ConditionFalse: " NotReady", corev1.ConditionUnknown: " Unknown"}[c.Status]
		case c.Status == corev1.ConditionTrue:
			l += " " + string(c.Type)
		}
	}
	var taints []string
	for _, t := range n.Spec.Taints {
		taints = append(taints, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(taints)
	l = strings.Join(append([]string{l}, taints...), " ")
	if order, ok := n.Annotations[fleet.Annotation]; ok {
		l += fmt.Sprintf(" order=%q", order)
	}
	return l
}

func podLine(p *corev1.Pod) string {
	l := fmt.Sprintf("%s on %s %s", p.Labels["app"], p.Spec.NodeName, p.Status.Phase)
	if core.PodReady(p) {
		l += " Ready"
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Waiting != nil {
			l += " " + s.State.Waiting.Reason
		}
		if s.RestartCount > 0 {
			l += fmt.Sprintf(" restarts=%d", s.RestartCount)
		}
	}
	if p.DeletionTimestamp != nil {
		l += " deleting"
	}
	return l
}

// containers are the IDs of what the API says runs.
func (c *cluster) containers() (out []string) {
	for _, p := range c.pods() {
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running != nil {
				out = append(out, p.Name+" "+s.ContainerID)
			}
		}
	}
	slices.Sort(out)
	return out
}

const daemon = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers: [{name: c, image: agent}]
`

// A crash of the agent leaves the containers as they are, and what becomes of them
// meanwhile is seen afterwards; over silence they stay, too. After a failure they
// are others.
func TestPretendContainersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.nodes(3, "crash all at 63s for 17s\nsilence all at 2m for 30s\nfailure 1-2 at 3m for 10s")
		c.apply([]byte(daemon))
		c.advance(30 * time.Second)
		before := c.containers()
		if len(before) != 3 {
			t.Fatalf("containers %v", before)
		}
		c.advance(35 * time.Second) // 1m5s
		for _, m := range c.machines {
			if m.Agent() != nil || !m.On() {
				t.Errorf("node %s: agent %v, on %v", m.Name(), m.Agent(), m.On())
			}
		}
		id := strings.TrimPrefix(strings.Fields(before[2])[1], "pretend://")
		c.machines[0].Runtime().Kill(id, 1) // of whichever node it is
		c.machines[1].Runtime().Kill(id, 1)
		c.machines[2].Runtime().Kill(id, 1)
		c.advance(20 * time.Second) // 1m25s
		after := c.containers()
		if len(after) != 3 || !slices.Equal(after[:2], before[:2]) || after[2] == before[2] {
			t.Errorf("containers after the crash: %v\nbefore: %v", after, before)
		}
		c.advance(50 * time.Second) // 2m15s
		for _, m := range c.machines {
			if m.Agent() == nil {
				t.Errorf("node %s has no agent", m.Name())
			}
		}
		c.advance(35 * time.Second) // 2m50s
		if still := c.containers(); !slices.Equal(still, after) {
			t.Errorf("containers after the silence: %v\nbefore: %v", still, after)
		}
		c.advance(30 * time.Second) // 3m20s
		last, same := c.containers(), 0
		for _, l := range last {
			if slices.Contains(after, l) {
				same++
			}
		}
		if len(last) != 3 || same != 1 {
			t.Errorf("containers after the failure: %v\nbefore: %v", last, after)
		}
	})
}
