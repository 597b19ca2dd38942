package node_test

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/kubeletapi"
	"proa/internal/node"
)

// TestResources checks what a node says that its containers have used: those that
// run, each since it began, and the same on the wire and in the summary.
func TestResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *node.Config) {
			c.Used = func() (kubeletapi.Use, error) {
				return kubeletapi.Use{Time: time.Now(), CPU: 5e9, Memory: 7}, nil
			}
		})
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{
			"pretend.proa.dev/a": "cpu=400m memory=64Mi", "pretend.proa.dev/b": "cpu=2 after=15s exit=0 | run"}}}
		p.Spec.Containers = []corev1.Container{{Name: "a"}, {Name: "b"}}
		start := time.Now()
		w.create(p)
		said := func() string {
			t.Helper()
			synctest.Wait()
			r, err := w.agent.Resources(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if err := w.agent.Metrics(t.Context(), "resource", &text); err != nil {
				t.Fatal(err)
			}
			back, err := kubeletapi.ReadResources(&text, time.Time{})
			if err != nil || back.Node.CPU != r.Node.CPU || len(back.Containers) != len(r.Containers) {
				t.Errorf("on the wire: %+v, %v, want %+v", back, err, r)
			}
			sum, err := w.agent.Summary(t.Context())
			if err != nil || *sum.Node.CPU.UsageCoreNanoSeconds != r.Node.CPU || *sum.Node.Memory.WorkingSetBytes != r.Node.Memory {
				t.Errorf("the node's summary: %+v, %v", sum, err)
			}
			out := map[string]string{}
			for _, c := range r.Containers {
				out[c.Container] = fmt.Sprintf("%.1fs %dMi", float64(c.CPU)/1e9, c.Memory>>20)
				if age := time.Since(c.Began); age < 0 || age > time.Since(start) {
					t.Errorf("%s began %s ago", c.Container, age)
				}
			}
			return strings.TrimPrefix(fmt.Sprint(out), "map")
		}
		time.Sleep(10 * time.Second)
		if got := said(); got != "[a:4.0s 64Mi b:20.0s 16Mi]" {
			t.Errorf("after ten seconds: %s", got)
		}
		before, err := w.agent.Resources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second) // b has ended, and begun anew
		if got := said(); !strings.HasPrefix(got, "[a:8.0s 64Mi b:") || strings.Contains(got, "b:40") {
			t.Errorf("after twenty seconds: %s", got)
		}
		after, err := w.agent.Resources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := func(r *kubeletapi.Resources) map[string]time.Time {
			out := map[string]time.Time{}
			for _, c := range r.Containers {
				out[c.Container] = c.Began
			}
			return out
		}
		a, b := began(before), began(after)
		if !a["a"].Equal(b["a"]) || !a["b"].Before(b["b"]) || reflect.DeepEqual(a, b) {
			t.Errorf("began %v, then %v", a, b)
		}
	})
}

// TestResourcesFromAfar asks a node on the other side of a connection.
func TestResourcesFromAfar(t *testing.T) {
	w, server, _ := wire(t)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{"pretend.proa.dev/a": "memory=64Mi"}}}
	p.Spec.Containers = []corev1.Container{{Name: "a"}}
	w.create(p)
	w.eventually("running", func() bool { return w.ready("p") })
	r, err := kubeletapi.Dial(server.Listener.Addr().String(), trust(server)).Resources(t.Context())
	if err != nil || len(r.Containers) != 1 || r.Containers[0].Memory != 64<<20 || r.Containers[0].Pod != "p" || !r.Node.Time.IsZero() {
		t.Errorf("%+v, %v", r, err)
	}
}
