package record_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/store/memory"
)

type rig struct {
	*testing.T
	h   api.Handler
	r   *record.Recorder
	now time.Time
	pod *corev1.Pod
}

func start(t *testing.T) *rig {
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: memory.New(nil), Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	r := &rig{T: t, h: s, now: time.Unix(1e9, 0)}
	r.r = record.New(core.Event, s, "tester", "host", func() time.Time { return r.now }, nil)
	r.pod, err = core.Pod.Create(t.Context(), s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// events returns what was written, as "count reason: message".
func (r *rig) events() (out []string) {
	r.Helper()
	r.r.Flush(r.Context())
	all, err := core.Event.List(r.Context(), r.h, "", api.Selectors{})
	if err != nil {
		r.Fatal(err)
	}
	for _, e := range all {
		out = append(out, fmt.Sprintf("%d %s: %s", e.Count, e.Reason, e.Message))
	}
	return out
}

func TestRepetitionIsCounted(t *testing.T) {
	r := start(t)
	for range 3 {
		r.r.Eventf(r.pod, "Warning", "Failed", "no %s", "luck")
		r.now = r.now.Add(time.Minute)
	}
	r.r.From("another").Eventf(r.pod, "Warning", "Failed", "no luck")
	if got := fmt.Sprint(r.events()); got != "[3 Failed: no luck 1 Failed: no luck]" && got != "[1 Failed: no luck 3 Failed: no luck]" {
		t.Error(got)
	}
	all, _ := core.Event.List(t.Context(), r.h, "d", api.Selectors{})
	for _, e := range all {
		if e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.UID != r.pod.UID || e.Source.Host != "host" {
			t.Errorf("about %+v from %+v", e.InvolvedObject, e.Source)
		}
		if e.Count == 3 && e.LastTimestamp.Sub(e.FirstTimestamp.Time) != 2*time.Minute {
			t.Errorf("from %v to %v", e.FirstTimestamp, e.LastTimestamp)
		}
	}
}

func TestSimilarOnesAreCombined(t *testing.T) {
	r := start(t)
	for i := range 15 {
		r.r.Eventf(r.pod, "Normal", "Made", "pod %d", i)
	}
	got := r.events()
	combined := 0
	for _, e := range got {
		if strings.Contains(e, "(combined from similar events): pod 14") && strings.HasPrefix(e, "5 ") {
			combined++
		}
	}
	if len(got) != 11 || combined != 1 {
		t.Errorf("%d events: %v", len(got), got)
	}
}

func TestTooManyAreDropped(t *testing.T) {
	r := start(t)
	for i := range 60 {
		r.r.Eventf(r.pod, "Normal", fmt.Sprintf("R%d", i), "x")
	}
	if got := r.events(); len(got) != 25 {
		t.Errorf("%d events at once", len(got))
	}
	r.now = r.now.Add(10 * time.Minute)
	for i := range 10 {
		r.r.Eventf(r.pod, "Normal", fmt.Sprintf("S%d", i), "x")
	}
	if got := r.events(); len(got) != 27 {
		t.Errorf("%d events after ten minutes", len(got))
	}
}

func TestAGoneEventIsWrittenAnew(t *testing.T) {
	r := start(t)
	r.r.Eventf(r.pod, "Normal", "A", "x")
	r.events()
	if _, err := r.h.Handle(t.Context(), &api.Request{Verb: api.DeleteCollection, Resource: core.Event.Def(), Namespace: "d"}); err != nil {
		t.Fatal(err)
	}
	r.r.Eventf(r.pod, "Normal", "A", "x")
	if got := fmt.Sprint(r.events()); got != "[1 A: x]" {
		t.Error(got)
	}
	var none *record.Recorder
	none.From("x").Eventf(r.pod, "Normal", "A", "x") // does nothing, and does not fail
	none.Flush(t.Context())
}
