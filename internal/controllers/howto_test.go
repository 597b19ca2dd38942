package controllers_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
)

// TestReleases does what docs/howto/releases.md says: it applies the manifests,
// carries out the commands, lets a minute pass where the page says so, and compares.
func TestReleases(t *testing.T) {
	page, err := os.ReadFile("../../docs/howto/releases.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.stepped(w.h, uint64(time.Now().UnixNano()))
	w.kubelet, w.sick = true, w.readsBad
	w.ensureNamespace("default")
	w.settle()
	compared := 0
	lines := strings.Split(string(page), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		kind, fenced := strings.CutPrefix(line, "```")
		switch {
		case fenced:
			end := i + 1 + slices.Index(lines[i+1:], "```")
			block := strings.Join(lines[i+1:end], "\n") + "\n"
			if kind == "yaml" {
				for doc := range strings.SplitSeq(block, "---\n") {
					w.apply([]byte(doc))
				}
			} else if got := w.showPage(strings.TrimPrefix(kind, "want ")); got != block {
				t.Fatalf("line %d: got:\n%s\nwant:\n%s", i+1, got, block)
			} else {
				compared++
			}
			i = end
		case strings.HasPrefix(line, "    kubectl "):
			w.kubectl(strings.TrimSpace(line))
		case line == "A minute later:":
			w.settle()
			w.clock.advance(61 * time.Second)
		}
	}
	if compared < 10 {
		t.Fatalf("the page shows only %d results", compared)
	}
}

// kubectl carries out one of the few commands that the page needs.
func (w *world) kubectl(line string) {
	w.t.Helper()
	w.settle()
	f := strings.Fields(line)
	if f[1] == "rollout" {
		return // it waits
	}
	kind, name, patch := api.Untyped(apps.Deployment.Def()), "", ""
	switch f[1] {
	case "patch":
		kind, name = api.Untyped(w.Kind(f[2])), f[3]
		patch = strings.Trim(line[strings.Index(line, "'"):], "'")
	case "scale":
		name = strings.TrimPrefix(f[2], "deploy/")
		patch = fmt.Sprintf(`{"spec":{"replicas":%s}}`, strings.TrimPrefix(f[3], "--replicas="))
	case "set":
		name = strings.TrimPrefix(f[3], "deploy/")
		container, image, _ := strings.Cut(f[4], "=")
		patch = fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":%q,"image":%q}]}}}}`, container, image)
	}
	if name == "" || !json.Valid([]byte(patch)) {
		w.t.Fatalf("the test does not know %q", line)
	}
	if _, err := kind.Patch(w.t.Context(), w.h, "default", name, "", types.StrategicMergePatchType, []byte(patch)); err != nil {
		w.t.Fatalf("%s: %v", line, err)
	}
	w.settle()
}

// showPage shows "KIND", "KIND of NAME" and "behind SERVICE", one after another.
func (w *world) showPage(what string) (out string) {
	w.t.Helper()
	w.settle()
	f := strings.Fields(what)
	for i := 0; i < len(f); i++ {
		if f[i] == "behind" {
			i++
			out += w.behind(f[i])
			continue
		}
		shown := w.show([]string{f[i]})
		if i+2 < len(f) && f[i+1] == "of" {
			i += 2
			kept := ""
			for l := range strings.Lines(shown) {
				if strings.HasPrefix(l, "copy of") {
					continue
				}
				if strings.Contains(l, " "+f[i]+" ") || strings.Contains(l, " "+f[i]+"-") || strings.Contains(l, "/"+f[i]+":") {
					kept += l
				}
			}
			shown = kept
		}
		out += shown
	}
	return out
}

// behind says what images the pods have that a Service sends to.
func (w *world) behind(service string) string {
	found, err := discovery.EndpointSlice.List(w.t.Context(), w.h, "default", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	count := map[string]int{}
	for _, s := range found {
		if s.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		for _, e := range s.Endpoints {
			if p, err := core.Pod.Get(w.t.Context(), w.h, "default", e.TargetRef.Name); err == nil && is(e.Conditions.Ready) == 1 {
				count[p.Spec.Containers[0].Image]++
			}
		}
	}
	var all []string
	for image, n := range count {
		all = append(all, fmt.Sprintf("%s x%d", image, n))
	}
	slices.Sort(all)
	return fmt.Sprintf("behind %s: %s\n", service, strings.Join(all, " "))
}

// readsBad says whether a pod has an image that is bad, or starts with a bad configuration.
func (w *world) readsBad(p *corev1.Pod) bool {
	if strings.HasSuffix(p.Spec.Containers[0].Image, "bad") {
		return true
	}
	for _, from := range p.Spec.Containers[0].EnvFrom {
		m, err := core.ConfigMap.Get(w.t.Context(), w.h, p.Namespace, from.ConfigMapRef.Name)
		if err == nil && m.Data["connections"] == "bad" {
			return true
		}
	}
	return false
}
