package node_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

var update = flag.Bool("update", false, "write what happens into the stories")

// TestStories plays testdata/story/*.txtar. A story holds pods (NAME.yaml) that are
// created at the start, things to do later (do: "10s delete pod a", one a line),
// and what must happen: every state of every pod with its time (timeline), and what
// users are told (events).
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/story/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(t, f) })
		})
	}
}

// An entry is one line of a timeline.
type entry struct {
	pod  string
	at   time.Duration
	text string
}

// uid is what differs from run to run.
var uid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

func text(list []entry) string {
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "%s %s %s\n", e.pod, e.at, uid.ReplaceAllString(e.text, "UID"))
	}
	return b.String()
}

func play(t *testing.T, path string) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	synctest.Wait()
	began := time.Now()
	var mu sync.Mutex
	var lines []entry
	go func() {
		last := map[string]string{}
		for c := range core.Pod.Follow(t.Context(), w.api, "default", api.Selectors{}, nil) {
			if c.Object == nil {
				continue
			}
			text := digest(c.Object)
			if c.Type == "DELETED" {
				text = "gone"
			}
			if last[c.Object.Name] == text {
				continue
			}
			last[c.Object.Name] = text
			e := entry{c.Object.Name, time.Since(began).Round(time.Millisecond), text}
			mu.Lock()
			// What counts is what stands at the end of an instant.
			if i := slices.IndexFunc(lines, func(x entry) bool { return x.pod == e.pod && x.at == e.at }); i >= 0 {
				lines[i] = e
			} else {
				lines = append(lines, e)
			}
			mu.Unlock()
		}
	}()
	synctest.Wait()
	var do string
	for _, f := range ar.Files {
		switch {
		case strings.HasSuffix(f.Name, ".yaml"):
			p := &corev1.Pod{}
			if err := yaml.UnmarshalStrict(f.Data, p); err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
			p.Name = strings.TrimSuffix(f.Name, ".yaml")
			for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
				for i := range list {
					list[i].Image = strings.Replace(list[i].Image, "i:1", p.Name+":1", 1)
				}
			}
			w.create(p)
		case f.Name == "do":
			do = string(f.Data)
		}
	}
	for line := range strings.Lines(do) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		at, err := time.ParseDuration(f[0])
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(began.Add(at)))
		synctest.Wait()
		w.do(f[1:])
	}
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	slices.SortStableFunc(lines, func(a, b entry) int { return cmp.Or(strings.Compare(a.pod, b.pod), cmp.Compare(a.at, b.at)) })
	var told []entry
	for _, e := range w.events.timed() {
		told = append(told, entry{e.pod, e.at.Sub(began).Round(time.Millisecond), e.text})
	}
	slices.SortStableFunc(told, func(a, b entry) int { return cmp.Or(strings.Compare(a.pod, b.pod), cmp.Compare(a.at, b.at)) })
	got := map[string]string{"timeline": text(lines), "events": text(told)}
	changed := false
	for i := range ar.Files {
		f := &ar.Files[i]
		want, ok := got[f.Name]
		if !ok || string(f.Data) == want {
			continue
		}
		if !*update {
			t.Errorf("%s differs; got\n%s\nwant\n%s", f.Name, want, f.Data)
		}
		f.Data, changed = []byte(want), true
	}
	if changed && *update {
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// do does one thing of a story: "delete NAME [GRACE]", "crash NAME CODE", "killsandbox NAME",
// "restart" (the agent), "wait".
func (w *world) do(f []string) {
	w.t.Helper()
	switch f[0] {
	case "wait":
	case "restart":
		w.stop()
		w.boot()
	case "delete":
		o := api.Options{}
		if len(f) > 2 {
			var g int64
			fmt.Sscan(f[2], &g)
			o.GracePeriod = &g
		}
		if err := core.Pod.Delete(w.t.Context(), w.api, "default", f[1], o); err != nil {
			w.t.Fatal(err)
		}
	case "crash":
		var code int32
		fmt.Sscan(f[2], &code)
		for _, c := range w.pod(f[1]).Status.ContainerStatuses {
			w.rt.Kill(strings.TrimPrefix(c.ContainerID, "pretend://"), code)
		}
	case "killsandbox":
		list, err := w.rt.ListSandboxes(w.t.Context(), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, s := range list {
			if s.Metadata.Name == f[1] {
				w.rt.KillSandbox(s.Id)
			}
		}
	default:
		w.t.Fatalf("unknown: %q", f)
	}
}

// digest is a pod's status in one line.
func digest(p *corev1.Pod) string {
	var b strings.Builder
	b.WriteString(string(p.Status.Phase))
	if p.Status.Reason != "" {
		b.WriteString("(" + p.Status.Reason + ")")
	}
	if p.DeletionTimestamp != nil {
		b.WriteString(" deleting")
	}
	for _, c := range p.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			switch c.Type {
			case corev1.PodReady:
				b.WriteString(" Ready")
			case corev1.PodInitialized:
				b.WriteString(" Init")
			}
		}
	}
	for _, c := range append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		fmt.Fprintf(&b, " | %s:", c.Name)
		switch s := c.State; {
		case s.Running != nil:
			b.WriteString("run")
		case s.Terminated != nil:
			fmt.Fprintf(&b, "%s/%d", s.Terminated.Reason, s.Terminated.ExitCode)
		case s.Waiting != nil:
			b.WriteString(s.Waiting.Reason)
		}
		if c.Started != nil && *c.Started {
			b.WriteString(",started")
		}
		if c.Ready {
			b.WriteString(",ready")
		}
		if c.RestartCount > 0 {
			fmt.Fprintf(&b, ",x%d", c.RestartCount)
		}
		if l := c.LastTerminationState.Terminated; l != nil {
			fmt.Fprintf(&b, ",last=%d", l.ExitCode)
		}
	}
	return b.String()
}
