package sched_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/kinds"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
	"proa/internal/store/memory"
	"proa/internal/storytest"
	"proa/internal/why"
)

// update writes what there is into the stories, to be read before it is believed:
// go test ./internal/sched -run 'TestStories$/^NAME$' -update
var update = flag.Bool("update", false, "write what there is into the stories")

// TestStories plays every story in testdata with the scheduler in the server's process.
func TestStories(t *testing.T) {
	storytest.Each(t, "testdata", func(t *testing.T, a *txtar.Archive) {
		t.Parallel()
		newStory(t, false).play(a)
		if *update {
			if err := os.WriteFile(filepath.Join("testdata", filepath.Base(t.Name())+".txtar"), txtar.Format(a), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestStoriesOverHTTP plays them with the scheduler, and who asks why, on the other
// side of the wire.
func TestStoriesOverHTTP(t *testing.T) {
	storytest.Each(t, "testdata", func(t *testing.T, a *txtar.Archive) {
		t.Parallel()
		newStory(t, true).play(a)
	})
}

// A story is a server with a scheduler, and perhaps the controllers.
type story struct {
	storytest.Stage
	t       *testing.T
	h       api.Handler // where the scheduler and the controllers ask
	config  string
	sched   *sched.Scheduler // nil before it starts
	metrics *prometheus.Registry
}

func newStory(t *testing.T, remote bool) *story {
	t.Helper()
	s, err := apiserver.New(t.Context(), apiserver.Config{
		Engine: memory.New(nil), Kinds: kinds.All, Log: slog.New(slog.DiscardHandler), Admit: admit.All(admit.Settings{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := &story{t: t, h: s, metrics: prometheus.NewRegistry()}
	w.Stage = storytest.Stage{T: t, Server: s}
	if remote {
		w.h = w.Remote()
	}
	w.apply([]byte("{kind: Namespace, metadata: {name: default}}"))
	return w
}

// run runs something until the end of the test.
func (w *story) run(f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	w.t.Cleanup(func() { cancel(); wg.Wait() })
}

// start starts the scheduler, which reads all that is there before it decides.
func (w *story) start() {
	if w.sched != nil {
		return
	}
	c, err := sched.Load([]byte(configHead+w.config), plugins.All)
	if err != nil {
		w.t.Fatal(err)
	}
	c.Events, c.Register = record.New(core.Event, w.h, corev1.DefaultSchedulerName, "", nil, nil), w.metrics
	if os.Getenv("PROA_TEST_LOG") != "" {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w.sched = sched.New(w.h, c)
	w.run(c.Events.Run)
	w.run(func(ctx context.Context) { _ = w.sched.Run(ctx) }) // ends with ctx
}

// play does what the story's sections say, in their order:
//
//	config             is part of a KubeSchedulerConfiguration; it comes first
//	apply              creates or changes objects, one a line or with lines --- between
//	schedule           starts the scheduler, as the first "want" does: it has read
//	                   everything before it decides, and later changes one by one
//	controllers        starts the controllers
//	delete KIND ID     deletes an object; a pod that is placed takes its time
//	end NAME           a pod that was to end has done so
//	want KIND...       compares what there is with the section's text: pods, events,
//	                   claims, volumes, resourceclaims, counts (of pods by node), or
//	                   attempts (to place pods, by their result)
//	why KIND/NAME      compares what `proa why` says, without times
func (w *story) play(a *txtar.Archive) {
	w.t.Helper()
	for i, f := range a.Files {
		word := strings.Fields(f.Name)
		switch word[0] {
		case "config":
			w.config = string(f.Data)
		case "apply":
			for _, doc := range documents(f.Data) {
				w.apply(doc)
			}
		case "schedule":
			w.start()
		case "controllers":
			events := record.New(core.Event, w.h, "", "", nil, nil)
			w.run(events.Run)
			w.run(func(ctx context.Context) {
				_ = control.Run(ctx, w.h, controllers.All(controllers.Config{Kinds: w.Server.Kinds, RootCA: "CA"}),
					control.Config{Events: events, Log: slog.New(slog.DiscardHandler)})
			})
		case "delete":
			w.delete(word[1], word[2])
		case "end":
			w.Delete("pods", metav1.NamespaceDefault+"/"+word[1], api.Options{GracePeriod: new(int64(0))})
		case "want":
			w.want(&a.Files[i], i, func() string { return w.show(word[1:]) })
		case "why":
			w.want(&a.Files[i], i, func() string { return w.why(word[1]) })
		default:
			w.t.Fatalf("unknown section %q", f.Name)
		}
	}
	w.Untouched()
}

// documents are those of an apply section.
func documents(text []byte) (out [][]byte) {
	for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
		if bytes.HasPrefix(doc, []byte("{")) {
			var one []byte
			for line := range bytes.Lines(doc) { // further lines of an object are indented
				if bytes.HasPrefix(line, []byte("{")) && len(one) > 0 {
					out, one = append(out, one), nil
				}
				one = append(one, line...)
			}
			doc = one
		}
		out = append(out, doc)
	}
	return out
}

func (w *story) want(f *txtar.File, i int, look func() string) {
	w.t.Helper()
	w.start()
	got, want := "", string(f.Data)
	patience := storytest.Patience
	if *update {
		patience = 2 * time.Second
	}
	if storytest.Until(w.t, patience, func() bool { got = look(); return got == want }) {
		return
	}
	if f.Data = []byte(got); !*update {
		w.t.Fatalf("section %d: got:\n%s\nwant:\n%s", i+1, got, want)
	}
}

// apply is Apply for objects that need not say what is the same for most: a node is
// ready, has 4 CPU and 8Gi and a label of its name; a pod has a container. The
// scheduler has seen it when it returns.
func (w *story) apply(doc []byte) {
	w.t.Helper()
	var in map[string]any
	if err := yaml.Unmarshal(doc, &in); err != nil {
		w.t.Fatalf("%v in %s", err, doc)
	}
	meta, _ := in["metadata"].(map[string]any)
	name, ok := meta["name"].(string)
	if !ok {
		w.t.Fatalf("no name in %s", doc)
	}
	switch in["kind"] {
	case "Node":
		if _, err := core.Node.Get(w.t.Context(), w.Server, "", name); apierrors.IsNotFound(err) {
			fill(fill(in, "metadata"), "labels")[corev1.LabelHostname] = name
			status := fill(in, "status")
			status["conditions"] = []any{map[string]any{"type": "Ready", "status": "True", "lastHeartbeatTime": time.Now(), "lastTransitionTime": time.Now()}}
			have := fill(status, "allocatable")
			for k, v := range map[string]string{"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "20Gi"} {
				if have[k] == nil {
					have[k] = v
				}
			}
		}
	case "Pod":
		ns, _ := meta["namespace"].(string)
		if ns == "" {
			ns = metav1.NamespaceDefault
		}
		if _, err := core.Pod.Get(w.t.Context(), w.Server, ns, name); apierrors.IsNotFound(err) {
			if spec := fill(in, "spec"); spec["containers"] == nil {
				spec["containers"] = []any{map[string]any{"name": "c", "image": "img"}}
			}
		}
	}
	text, err := yaml.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	now := w.Apply(text)
	if in["kind"] == "Namespace" {
		w.Apply([]byte("{kind: ServiceAccount, metadata: {name: default, namespace: " + name + "}}"))
	}
	if w.sched != nil && !storytest.Until(w.t, storytest.Patience, func() bool { return w.sched.Knows(now) }) {
		w.t.Fatalf("the scheduler never sees %s", name)
	}
}

// fill returns a part of a document, which it makes if it is not there.
func fill(in map[string]any, key string) map[string]any {
	part, ok := in[key].(map[string]any)
	if !ok {
		part = map[string]any{}
		in[key] = part
	}
	return part
}

func (w *story) delete(kind, id string) {
	w.t.Helper()
	r := w.Kind(kind)
	ns, name := storytest.Place(id)
	if r.Scope == api.Namespaced && ns == "" {
		ns = metav1.NamespaceDefault
		id = ns + "/" + name
	}
	was, err := api.Untyped(r).Get(w.t.Context(), w.Server, ns, name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Delete(kind, id, api.Options{})
	if _, ok := was.(*corev1.Node); ok && w.sched != nil && !storytest.Until(w.t, storytest.Patience, func() bool { return !w.sched.Knows(was) }) {
		w.t.Fatalf("the scheduler never sees that %s is gone", name)
	}
}

func (w *story) show(kinds []string) string {
	var b strings.Builder
	for _, kind := range kinds {
		var lines []string
		switch kind {
		case "pods":
			lines = linesOf(w, core.Pod, podLine)
		case "events":
			lines = linesOf(w, core.Event, func(e *corev1.Event) string {
				return fmt.Sprintf("%s %s of %s: %s", e.Type, e.Reason, e.InvolvedObject.Name, e.Message)
			})
		case "claims":
			lines = linesOf(w, core.PersistentVolumeClaim, func(c *corev1.PersistentVolumeClaim) string {
				return fmt.Sprintf("claim %s volume=%s node=%s", c.Name, c.Spec.VolumeName, c.Annotations[sched.SelectedNode])
			})
		case "volumes":
			lines = linesOf(w, core.PersistentVolume, func(v *corev1.PersistentVolume) string {
				if v.Spec.ClaimRef == nil {
					return "volume " + v.Name
				}
				return "volume " + v.Name + " for " + v.Spec.ClaimRef.Name
			})
		case "resourceclaims":
			lines = linesOf(w, resource.ResourceClaim, deviceLine)
		case "attempts":
			lines = w.attempts()
		case "counts":
			lines = w.counts()
		default:
			w.t.Fatalf("nobody knows how to show %s", kind)
		}
		slices.Sort(lines)
		for _, l := range lines {
			fmt.Fprintln(&b, l)
		}
	}
	return w.nameless(b.String())
}

func linesOf[T api.Object](w *story, k *api.Kind[T], line func(T) string) (out []string) {
	w.t.Helper()
	all, err := k.List(w.t.Context(), w.Server, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range all {
		out = append(out, line(o))
	}
	return out
}

// podLine says where a pod is, or why it is nowhere, and whether it is to go.
func podLine(p *corev1.Pod) string {
	out := "pod " + p.Name
	c := core.PodCondition(p, corev1.PodScheduled)
	if p.Spec.NodeName != "" {
		out += " on " + p.Spec.NodeName
	}
	if p.Status.NominatedNodeName != "" { // of a pod that has a node it would be wrong
		out += " for " + p.Status.NominatedNodeName
	}
	if p.DeletionTimestamp != nil {
		out += ", leaving"
	}
	if d := core.PodCondition(p, corev1.DisruptionTarget); d != nil {
		out += ", " + d.Reason + ": " + d.Message
	}
	if c != nil && c.Status == corev1.ConditionFalse {
		out += ", " + c.Reason + ": " + c.Message
	}
	return out
}

// deviceLine says which devices a claim has, where they can be used, and for whom they are.
func deviceLine(c *resourcev1.ResourceClaim) string {
	out := "resourceclaim " + c.Name
	if e := c.Annotations[resourcev1.PodResourceClaimAnnotation]; e != "" && metav1.GetControllerOf(c) != nil {
		out = "resourceclaim " + e + " of " + metav1.GetControllerOf(c).Name
	}
	if a := c.Status.Allocation; a != nil {
		out += ":"
		for _, r := range a.Devices.Results {
			out += fmt.Sprintf(" %s=%s/%s/%s", r.Request, r.Driver, r.Pool, r.Device)
			if r.AdminAccess != nil {
				out += " as admin"
			}
			for name, q := range r.ConsumedCapacity {
				out += fmt.Sprintf(" (%s %s)", q.String(), name)
			}
		}
		for _, k := range a.Devices.Config {
			out += fmt.Sprintf(", %s of %s for %v", k.Opaque.Parameters.Raw, k.Source, k.Requests)
		}
		if s := a.NodeSelector; s != nil {
			for _, r := range slices.Concat(s.NodeSelectorTerms[0].MatchFields, s.NodeSelectorTerms[0].MatchExpressions) {
				out += fmt.Sprintf(", where %s is %s", r.Key, strings.Join(r.Values, " or "))
			}
		}
	}
	var users []string
	for _, r := range c.Status.ReservedFor {
		users = append(users, r.Name)
	}
	if slices.Sort(users); len(users) > 0 {
		out += ", for " + strings.Join(users, " and ")
	}
	return out
}

// counts says how many pods are on each node.
func (w *story) counts() (out []string) {
	on := map[string]int{}
	for _, name := range linesOf(w, core.Pod, func(p *corev1.Pod) string { return p.Spec.NodeName }) {
		on[name]++
	}
	delete(on, "")
	for name, n := range on {
		out = append(out, fmt.Sprintf("%d on %s", n, name))
	}
	return out
}

// attempts says how many have ended how.
func (w *story) attempts() (out []string) {
	all, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != "scheduler_schedule_attempts_total" {
			continue
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "result" {
					out = append(out, fmt.Sprintf("%v %s", m.GetCounter().GetValue(), l.GetValue()))
				}
			}
		}
	}
	return out
}

// neverMade matches the names of pods that were refused.
var neverMade = regexp.MustCompile(`-#-[a-z0-9]{5}\b`)

var sinceWhen = regexp.MustCompile(` \(since [^)]*\)`)

// why is the answer of `proa why`.
func (w *story) why(what string) string {
	w.t.Helper()
	kind, name, _ := strings.Cut(what, "/")
	r := w.Kind(kind)
	ns := ""
	if r.Scope == api.Namespaced {
		ns = metav1.NamespaceDefault
	}
	a, err := why.Explain(w.t.Context(), w.h, r.Group, r.Resource, ns, name, time.Now())
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	var b bytes.Buffer
	a.Print(&b, time.Now())
	return w.nameless(sinceWhen.ReplaceAllString(b.String(), ""))
}

// nameless tells what chance named by what it is of.
func (w *story) nameless(text string) string {
	sets, err := apps.ReplicaSet.List(w.t.Context(), w.Server, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range linesOf(w, core.Pod, func(p *corev1.Pod) string { return string(p.UID) + " " + p.Name + " " + p.GenerateName }) {
		f := strings.Split(p, " ")
		text = strings.ReplaceAll(text, f[0], "UID of "+f[1])
		if f[2] != "" && len(f[1]) == len(f[2])+5 { // not the numbered ones of a stateful set
			text = strings.ReplaceAll(text, f[1], f[2]+"*")
		}
	}
	for _, rs := range sets {
		if of := metav1.GetControllerOfNoCopy(rs); of != nil {
			text = strings.ReplaceAll(text, rs.Name, of.Name+"-#")
		}
	}
	return neverMade.ReplaceAllString(text, "-#-*")
}
