package controllers_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/memory"
	"proa/internal/storytest"
)

// A clock that only moves when it is told to, until it is let go.
type clock struct {
	store.SystemClock
	mu   sync.Mutex
	now  time.Time
	free bool
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.free {
		return time.Now()
	}
	return c.now
}

// run lets the clock go, from the present on.
func (c *clock) run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = true
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// update writes what there is into the scripts, to be read before it is believed:
// go test ./internal/controllers -run 'TestScripts/^NAME$' -update
var update = flag.Bool("update", false, "write what there is into the scripts")

// A world is a server with controllers, and a pretended kubelet.
type world struct {
	storytest.Stage
	t       *testing.T
	h       api.Handler
	clock   *clock
	engine  *control.Engine // driven step by step; nil if the controllers run by themselves
	events  *record.Recorder
	rand    *rand.Rand
	kubelet bool
	sick    func(*corev1.Pod) bool // which pods never become ready with the kubelet; none if nil
	seen    map[string]int         // of the last "want"
	used    metered
}

func newWorld(t *testing.T, more ...api.Definition) *world {
	t.Helper()
	c := &clock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	var uids uidSource
	s, err := apiserver.New(t.Context(), apiserver.Config{
		Engine: memory.New(nil), Kinds: slices.Concat(more, kinds.All), Clock: c, Log: slog.New(slog.DiscardHandler), UID: uids.next,
		Admit: admit.All(admit.Settings{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := &world{Stage: storytest.Stage{T: t, Server: s}, t: t, h: s, clock: c}
	w.Settle = w.settle
	return w
}

func (w *world) config() control.Config {
	w.events = record.New(core.Event, w.h, "", "", w.clock.Now, nil)
	return control.Config{Now: w.clock.Now, Events: w.events, Log: testLog()}
}

func testLog() *slog.Logger {
	if os.Getenv("PROA_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

func options(w *world) controllers.Config {
	return controllers.Config{Kinds: w.Server.Kinds, RootCA: "CA", PodCIDR: "10.42.0.0/16", Metrics: measured{w}}
}

func resources() (out []*api.Resource) {
	for _, k := range kinds.All {
		if r := k.Def(); !r.Virtual {
			out = append(out, r)
		}
	}
	return out
}

// stepped makes the controllers advance only when the script waits, in an order
// that the seed decides. They talk to h.
func (w *world) stepped(h api.Handler, seed uint64) {
	w.t.Logf("seed %d", seed)
	w.rand = rand.New(rand.NewPCG(seed, 1))
	w.engine = control.New(h, controllers.All(options(w)), w.config())
}

// settle lets everything happen that can without more than a little time passing;
// nothing if the controllers run by themselves.
func (w *world) settle() {
	w.t.Helper()
	if w.engine == nil {
		return
	}
	for range 5000 {
		more, err := w.engine.Step(w.t.Context(), w.rand)
		if err != nil {
			w.t.Fatal(err)
		}
		if next, ok := w.engine.Next(); !more && ok && next.Sub(w.clock.Now()) < 900*time.Millisecond {
			w.clock.advance(next.Sub(w.clock.Now())) // pauses after failures
			continue
		}
		if !more && !w.tick() {
			w.events.Flush(w.t.Context())
			return
		}
	}
	w.t.Fatal("never settles")
}

// tick is the kubelet's turn: pods that are on their way out end, others run.
func (w *world) tick() (changed bool) {
	if !w.kubelet {
		return false
	}
	pods, err := core.Pod.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range pods {
		switch {
		case p.DeletionTimestamp != nil:
			zero := int64(0)
			if p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0 {
				continue // a finalizer holds it
			}
			_ = core.Pod.Delete(w.t.Context(), w.h, p.Namespace, p.Name, api.Options{GracePeriod: &zero})
			changed = true
		case p.Status.Phase == corev1.PodPending:
			phase := "Running"
			if w.sick != nil && w.sick(p) {
				phase = "Broken"
			}
			w.setPod(p, phase)
			changed = true
		}
	}
	return changed
}

// setPod gives a pod a phase; a running pod is ready. Of the phase "Broken" a pod
// runs and was never ready, of "Unready" it was; of "Exit=N" it failed with that
// code, of "Disrupted" by a disruption.
func (w *world) setPod(p *corev1.Pod, phase string) {
	w.t.Helper()
	p = p.DeepCopy()
	p.ResourceVersion = ""
	p.Status.Phase = corev1.PodPhase(phase)
	now := metav1.NewTime(w.clock.Now())
	status := corev1.ConditionFalse
	if p.Status.StartTime == nil {
		p.Status.StartTime = &now
	}
	code := int32(map[string]int{"Failed": 1, "Disrupted": 143}[phase])
	if n, ok := strings.CutPrefix(phase, "Exit="); ok {
		fmt.Sscan(n, &code)
	}
	if code != 0 {
		p.Status.Phase = corev1.PodFailed
	}
	switch phase {
	case "Broken", "Unready":
		p.Status.Phase = corev1.PodRunning
		started := now
		if phase == "Unready" {
			started = metav1.NewTime(now.Add(-time.Minute))
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: p.Spec.Containers[0].Name, State: corev1.ContainerState{
			Running: &corev1.ContainerStateRunning{StartedAt: started}}}}
	case "Running":
		status = corev1.ConditionTrue
		p.Status.PodIP = fmt.Sprintf("10.42.0.%d", len(p.Name)+int(p.UID[len(p.UID)-1]))
	default:
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: p.Spec.Containers[0].Name, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: now}}}}
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: now}}
	if phase == "Disrupted" {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: now})
	}
	// It may be gone by now, or another may have its name.
	if _, err := core.Pod.UpdateStatus(w.t.Context(), w.h, p); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		w.t.Fatalf("set pod %s: %v", p.Name, err)
	}
}

// TestScripts plays every script in testdata, with the server in the same
// process and the controllers in a random order.
func TestScripts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	storytest.Each(t, "testdata", func(t *testing.T, a *txtar.Archive) {
		for i := range uint64(3) {
			w := newWorld(t)
			w.stepped(w.h, seed+i)
			w.play(a)
			if *update && i == 0 {
				if err := os.WriteFile("testdata/"+filepath.Base(t.Name())+".txtar", txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestScriptsOverHTTP plays every script with the controllers on the other side of
// the wire. They run by themselves, unless the script moves the clock.
func TestScriptsOverHTTP(t *testing.T) {
	storytest.Each(t, "testdata", func(t *testing.T, a *txtar.Archive) {
		w := newWorld(t)
		remote := w.Remote()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer func() { cancel(); wg.Wait() }()
		if slices.ContainsFunc(a.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "advance") }) {
			w.stepped(remote, uint64(time.Now().UnixNano()))
			w.play(a)
			return
		}
		w.clock.run() // kinds stamp conditions that controllers time, and pauses after failures end
		cfg := w.config()
		wg.Go(func() { w.events.Run(ctx) })
		wg.Go(func() { _ = control.Run(ctx, remote, controllers.All(options(w)), cfg) })
		w.play(a)
	})
}

// play does what the script's sections say, in their order:
//
//	apply [refused TEXT]    creates or changes the objects, as kubectl apply would, or is told why not;
//	                        ${uid KIND NS/NAME} in them is the UID of an object
//	delete KIND NS/NAME [orphan|foreground|background]
//	unfinalize KIND NS/NAME takes all finalizers off
//	evict NS/NAME [refused [TEXT]] evicts a pod, or is told so; without a text: that there is a budget
//	kubelet on|off          whether pods run and end by themselves
//	remove PREFIX N [IMAGE] deletes N pods whose names begin so, or up to N of an image
//	usage PREFIX CPU        says how much CPU each pod uses whose name begins so
//	metric NAME VALUE       says what a custom or external metric is, for each object that has it
//	end NAME                ends a pod that is on its way out
//	pods PHASE N PREFIX     gives N pods whose names begin so a phase; the first by name that do not have it
//	advance DURATION        moves the clock
//	want KIND...            compares what there is with the section's text
//	fields KIND PATH...     compares parts of the objects: see fields
func (w *world) play(a *txtar.Archive) {
	w.t.Helper()
	w.ensureNamespace("default")
	w.settle()
	if !storytest.Until(w.t, storytest.Patience, func() bool { // pods need the account
		_, err := core.ServiceAccount.Get(w.t.Context(), w.h, "default", "default")
		return err == nil
	}) {
		w.t.Fatal("the default service account never comes")
	}
	for i, f := range a.Files {
		word := strings.Fields(f.Name)
		switch word[0] {
		case "apply":
			for doc := range bytes.SplitSeq(f.Data, []byte("\n---\n")) {
				if len(word) > 1 {
					w.refused(doc, strings.Join(word[2:], " "))
				} else {
					w.apply(doc)
				}
			}
		case "delete":
			w.remove(word[1:])
		case "evict":
			w.evict(word[1], word[2:])
		case "unfinalize":
			w.unfinalize(word[1], word[2])
		case "kubelet":
			w.kubelet = word[1] == "on"
		case "pods":
			w.setPods(word[1:])
		case "usage", "metric":
			w.used.set(word[0]+" "+word[1], word[2])
		case "remove":
			w.removePods(word[1:])
		case "end":
			zero := int64(0)
			if err := core.Pod.Delete(w.t.Context(), w.h, "default", word[1], api.Options{GracePeriod: &zero}); err != nil {
				w.t.Fatal(err)
			}
		case "advance":
			d, err := time.ParseDuration(word[1])
			if err != nil {
				w.t.Fatal(err)
			}
			w.settle()
			w.clock.advance(d)
		case "want", "fields":
			show := func() string { return w.show(word[1:]) }
			if word[0] == "fields" {
				show = func() string { return w.fields(word[1], word[2:]) }
			}
			if *update && w.rand != nil {
				w.settle()
				a.Files[i].Data = []byte(show())
			}
			w.want(fmt.Sprintf("section %d, %s", i+1, f.Name), show, string(a.Files[i].Data))
		default:
			w.t.Fatalf("unknown section %q", f.Name)
		}
	}
	w.Untouched()
}

func (w *world) ensureNamespace(name string) {
	_, err := core.Namespace.Create(w.t.Context(), w.h, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		w.t.Fatal(err)
	}
}

func (w *world) want(where string, show func() string, want string) {
	w.t.Helper()
	got := ""
	if w.engine != nil {
		w.settle()
		got = show()
	} else {
		storytest.Until(w.t, storytest.Patience, func() bool {
			for w.tick() {
			}
			got = show()
			return got == want
		})
	}
	if got != want {
		w.t.Fatalf("%s: got:\n%s\nwant:\n%s", where, got, want)
	}
}

func (w *world) apply(doc []byte) {
	w.t.Helper()
	if err := w.write(doc); err != nil {
		w.t.Fatal(err)
	}
}

// refused checks that an object is not taken, and that the answer says why.
func (w *world) refused(doc []byte, why string) {
	w.t.Helper()
	if err := w.write(doc); err == nil || !strings.Contains(err.Error(), why) {
		w.t.Fatalf("not refused for %q: %v", why, err)
	}
}

var uidOf = regexp.MustCompile(`\$\{uid ([^ }]+) ([^ }]+)\}`)

// named is the object of a kind and an id.
func (w *world) named(kind, id string) api.Object {
	w.t.Helper()
	w.settle()
	ns, name := storytest.Place(id)
	o, err := api.Untyped(w.Kind(kind)).Get(w.t.Context(), w.h, ns, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// write creates or changes an object. It returns why the server would not.
func (w *world) write(doc []byte) error {
	w.t.Helper()
	doc = uidOf.ReplaceAllFunc(doc, func(b []byte) []byte {
		m := uidOf.FindSubmatch(b)
		return []byte(w.named(string(m[1]), string(m[2])).GetUID())
	})
	_, err := w.Write(doc)
	return err
}

func (w *world) remove(args []string) {
	w.t.Helper()
	w.settle()
	var o api.Options
	if len(args) > 2 {
		p := metav1.DeletionPropagation(strings.ToUpper(args[2][:1]) + args[2][1:])
		o.Propagation = &p
	}
	w.Delete(args[0], args[1], o)
}

// evict evicts a pod, or is refused for what the answer is to say; if that is not
// as it should be, it tries again, as the controllers may not be so far.
func (w *world) evict(id string, words []string) {
	w.t.Helper()
	refused, why := len(words) > 0, strings.Join(words[min(1, len(words)):], " ")
	w.settle()
	ns, name := storytest.Place(id)
	var err error
	ok := false
	storytest.Until(w.t, storytest.Patience, func() bool {
		_, err = w.h.Handle(w.t.Context(), &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Sub: "eviction", Namespace: ns, Name: name,
			Object: &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}})
		ok = refused == (err != nil) && (!refused || why == "" && apierrors.IsTooManyRequests(err) || why != "" && strings.Contains(said(err), why))
		return ok || w.engine != nil || refused && err == nil || err != nil && !apierrors.IsTooManyRequests(err)
	})
	if !ok {
		w.t.Fatalf("evict %s: %v", id, err)
	}
}

// said is all that a refusal says.
func said(err error) string {
	text := err.Error()
	if s := (*apierrors.StatusError)(nil); errors.As(err, &s) && s.ErrStatus.Details != nil {
		for _, c := range s.ErrStatus.Details.Causes {
			text += "; " + c.Message
		}
	}
	return text
}

func (w *world) unfinalize(kind, id string) {
	w.t.Helper()
	w.settle()
	ns, name := storytest.Place(id)
	if _, err := api.Untyped(w.Kind(kind)).Patch(w.t.Context(), w.h, ns, name, "", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) removePods(args []string) {
	w.t.Helper()
	var n int
	fmt.Sscan(args[1], &n)
	pods, err := core.Pod.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range pods {
		if n > 0 && strings.HasPrefix(p.Name, args[0]) && (len(args) < 3 || p.Spec.Containers[0].Image == args[2]) {
			if err := core.Pod.Delete(w.t.Context(), w.h, p.Namespace, p.Name, api.Options{}); err != nil {
				w.t.Fatal(err)
			}
			n--
		}
	}
}

// setPods gives pods a phase. It waits until there are as many as it takes.
func (w *world) setPods(args []string) {
	w.t.Helper()
	var n int
	fmt.Sscan(args[1], &n)
	args = append(args, "") // any name
	var found []*corev1.Pod
	storytest.Until(w.t, storytest.Patience, func() bool {
		found = w.others(args[0], args[2])
		return n <= len(found) || w.engine != nil && !w.more()
	})
	if n > len(found) {
		w.t.Fatalf("%d pods too few for %v:\n%s", n-len(found), args, w.show([]string{"pods"}))
	}
	for _, p := range found[:n] {
		w.setPod(p, args[0])
	}
}

// more lets everything happen, and says whether anything did.
func (w *world) more() bool {
	w.t.Helper()
	before := w.show([]string{"pods"})
	w.settle()
	return w.show([]string{"pods"}) != before
}

// others are the pods whose names begin so that have not ended, and are not of the phase.
func (w *world) others(phase, prefix string) []*corev1.Pod {
	w.t.Helper()
	pods, err := core.Pod.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.DeleteFunc(pods, func(p *corev1.Pod) bool {
		is := string(p.Status.Phase) == phase && (phase != "Running" || core.PodReady(p))
		return !strings.HasPrefix(p.Name, prefix) || is || p.DeletionTimestamp != nil ||
			p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	})
}
