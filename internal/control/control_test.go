package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/store/memory"
)

func server(t *testing.T) *apiserver.Server {
	t.Helper()
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: memory.New(nil), Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func config(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}}
}

// TestRetriesBackOff checks the pauses between failures, and that a success
// starts them anew.
func TestRetriesBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t)
		defer s.Close()
		var at []time.Duration
		began := time.Now()
		k := &Controller[*corev1.ConfigMap]{Name: "k", For: core.ConfigMap,
			Reconcile: func(context.Context, *Cluster, *corev1.ConfigMap) (time.Duration, error) {
				at = append(at, time.Since(began))
				if len(at) < 5 {
					return 0, errors.New("not yet")
				}
				if len(at) == 5 {
					return time.Minute, nil
				}
				return 0, nil
			}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- Run(ctx, s, []Runner{k}, Config{}) }()
		if _, err := core.ConfigMap.Create(ctx, s, config("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		cancel()
		<-done
		want := "[0s 5ms 15ms 35ms 75ms 1m0.075s]"
		if fmt.Sprint(at) != want {
			t.Errorf("called at %v, want %s", at, want)
		}
	})
}

// TestOneAtATime checks that a key is never reconciled twice at once, and again
// if it changed meanwhile.
func TestOneAtATime(t *testing.T) {
	s := server(t)
	var running, calls atomic.Int32
	overlap := make(chan struct{}, 100)
	started, release := make(chan struct{}, 100), make(chan struct{})
	k := &Controller[*corev1.ConfigMap]{Name: "k", For: core.ConfigMap,
		Reconcile: func(context.Context, *Cluster, *corev1.ConfigMap) (time.Duration, error) {
			if running.Add(1) > 1 {
				overlap <- struct{}{}
			}
			calls.Add(1)
			started <- struct{}{}
			<-release
			running.Add(-1)
			return 0, nil
		}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Run(ctx, s, []Runner{k}, Config{}) }()
	m, err := core.ConfigMap.Create(ctx, s, config("a"))
	if err != nil {
		t.Fatal(err)
	}
	<-started
	for i := range 10 {
		m = m.DeepCopy()
		m.Data = map[string]string{"i": fmt.Sprint(i)}
		if m, err = core.ConfigMap.Update(ctx, s, m); err != nil {
			t.Fatal(err)
		}
	}
	release <- struct{}{}
	<-started
	close(release)
	cancel()
	<-done
	if len(overlap) > 0 || calls.Load() < 2 {
		t.Errorf("%d overlaps, %d calls", len(overlap), calls.Load())
	}
}

func TestUndeclaredWritesFail(t *testing.T) {
	s := server(t)
	var got error
	k := &Controller[*corev1.ConfigMap]{Name: "k", For: core.ConfigMap,
		Reconcile: func(ctx context.Context, c *Cluster, m *corev1.ConfigMap) (time.Duration, error) {
			_, got = core.Secret.Create(ctx, c, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "s"}})
			return 0, nil
		}}
	if _, err := core.ConfigMap.Create(t.Context(), s, config("a")); err != nil {
		t.Fatal(err)
	}
	drive(t, New(s, []Runner{k}, Config{}))
	if got == nil || !strings.Contains(got.Error(), "does not declare that it writes secrets") {
		t.Errorf("got %v", got)
	}
}

func drive(t *testing.T, e *Engine) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		more, err := e.Step(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
	t.Fatal("never settles")
}

// TestPanicsAreErrors checks that one broken controller does not stop the others.
func TestPanicsAreErrors(t *testing.T) {
	s := server(t)
	calls := 0
	bad := &Controller[*corev1.ConfigMap]{Name: "bad", For: core.ConfigMap,
		Reconcile: func(context.Context, *Cluster, *corev1.ConfigMap) (time.Duration, error) { panic("oh") }}
	good := &Controller[*corev1.ConfigMap]{Name: "good", For: core.ConfigMap,
		Reconcile: func(context.Context, *Cluster, *corev1.ConfigMap) (time.Duration, error) { calls++; return 0, nil }}
	if _, err := core.ConfigMap.Create(t.Context(), s, config("a")); err != nil {
		t.Fatal(err)
	}
	drive(t, New(s, []Runner{bad, good}, Config{}))
	if calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

// TestOverlay walks through what a source knows as own writes and a late watch
// come in.
func TestOverlay(t *testing.T) {
	obj := func(name, uid string, rev int) api.Object {
		m := config(name)
		m.UID, m.ResourceVersion = types.UID(uid), fmt.Sprint(rev)
		return m
	}
	s := newSource(core.ConfigMap.Def(), new(owners))
	see := func(typ watch.EventType, o api.Object, rev int64) {
		s.saw(api.Change[api.Object]{Type: typ, Object: o, Revision: rev})
	}
	expect := func(what, want string) {
		t.Helper()
		got := ""
		for _, o := range s.list("") {
			got += o.GetName() + o.GetResourceVersion() + " "
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("%s: know %q, want %q", what, got, want)
		}
	}
	s.saw(api.Change[api.Object]{Reset: true, All: []api.Object{obj("a", "1", 5)}, Revision: 10})
	s.wrote(obj("b", "2", 12))
	expect("own create", "a5 b12")
	see(watch.Modified, obj("a", "1", 11), 11)
	expect("an older event of another object", "a11 b12")
	s.wrote(obj("a", "1", 9))
	expect("a late answer of an older write", "a11 b12")
	s.deleted("d", "a", "1")
	expect("own delete", "b12")
	see(watch.Modified, obj("a", "1", 13), 13)
	expect("an event from before the delete", "b12")
	see(watch.Deleted, obj("a", "1", 14), 14)
	see(watch.Added, obj("a", "3", 15), 15)
	expect("made again", "a15 b12")
	see(watch.Deleted, obj("a", "1", 15), 15)
	expect("the end of the former one", "a15 b12")
	s.wrote(obj("c", "4", 20))
	s.saw(api.Change[api.Object]{Reset: true, All: []api.Object{obj("b", "2", 12)}, Revision: 18})
	expect("a list from before an own write", "b12 c20")
	s.wrote(obj("e", "5", 17))
	expect("an answer that the list has overtaken", "b12 c20")
	s.saw(api.Change[api.Object]{Reset: true, Revision: 30})
	expect("an empty list", "")
	if len(s.owned)+len(s.loose)+len(s.dead) != 0 {
		t.Errorf("left over: %v %v %v", s.owned, s.loose, s.dead)
	}
}
