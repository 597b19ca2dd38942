package apiserver_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/memory"
)

// A snapshot shows all resources at one revision: never an effect without its cause.
func TestSnapshotIsConsistent(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		ctx := t.Context()
		m := must[*corev1.ConfigMap](t)
		m(core.ConfigMap.Create(ctx, s, configMap("a", "cause", "n", "0")))
		must[*corev1.Secret](t)(core.Secret.Create(ctx, s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "effect", Labels: map[string]string{"n": "0"}}}))
		var over atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			defer over.Store(true)
			for i := range 200 {
				n := strconv.Itoa(i + 1)
				m(core.ConfigMap.Update(ctx, s, configMap("a", "cause", "n", n)))
				if _, err := core.Secret.Update(ctx, s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "effect", Labels: map[string]string{"n": n}}}); err != nil {
					t.Error(err)
				}
			}
		})
		looks := 0
		for !over.Load() {
			snap := s.Snapshot()
			cause, _ := apiserver.One(snap, core.ConfigMap, "a", "cause")
			effect, _ := apiserver.One(snap, core.Secret, "a", "effect")
			c, _ := strconv.Atoi(cause.Data["n"])
			e, _ := strconv.Atoi(effect.Labels["n"])
			if e > c || c > e+1 {
				t.Fatalf("revision %d shows cause %d and effect %d", snap.Revision(), c, e)
			}
			looks++
		}
		wg.Wait()
		t.Logf("%d snapshots", looks)
	})
}

// A server that starts on existing data shows it, at its revisions.
func TestRestart(t *testing.T) {
	e := memory.New(nil)
	first := start(t, e, nil)
	for i := range 50 {
		must[*corev1.Pod](t)(core.Pod.Create(t.Context(), first, pod(string(rune('a'+i%3)), fmt.Sprint("p", i), "n")))
	}
	second, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	gr := core.Pod.Def().GroupResource()
	if first.Revision() != second.Revision() || second.Snapshot().Len(gr) != 50 {
		t.Fatalf("revision %d and %d, %d pods", first.Revision(), second.Revision(), second.Snapshot().Len(gr))
	}
	for p := range apiserver.All(first.Snapshot(), core.Pod, "") {
		q, ok := apiserver.One(second.Snapshot(), core.Pod, p.Namespace, p.Name)
		if !ok || q.ResourceVersion != p.ResourceVersion || q.UID != p.UID {
			t.Errorf("%s/%s: %+v", p.Namespace, p.Name, q.ObjectMeta)
		}
	}
	// Two servers on one engine see each other's writes, and lose no race silently.
	must[*corev1.Pod](t)(core.Pod.Create(t.Context(), second, pod("a", "late", "n")))
	resp := must[*api.Response](t)(first.Handle(t.Context(), &api.Request{Verb: api.Get, Resource: core.Pod.Def(), Namespace: "a", Name: "late",
		At: api.Version{ResourceVersion: strconv.FormatInt(second.Revision(), 10)}}))
	if resp.Item.Revision != second.Revision() {
		t.Errorf("revision %d", resp.Item.Revision)
	}
}

// faulty is an engine that cannot write.
type faulty struct {
	store.Engine
	err atomic.Pointer[error]
}

func (f *faulty) Write(ctx context.Context, op store.Op) (store.Revision, error) {
	if err := f.err.Load(); err != nil {
		return 0, *err
	}
	return f.Engine.Write(ctx, op)
}

func TestEngineErrors(t *testing.T) {
	f := &faulty{Engine: memory.New(nil)}
	s := start(t, f, nil)
	ctx := t.Context()
	must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, configMap("a", "x")))
	for err, want := range map[error]struct {
		code   int32
		reason metav1.StatusReason
		text   string
	}{
		store.ErrPoisoned:                       {500, metav1.StatusReasonInternalError, "whether this write was made is not known"},
		store.ErrReadOnly:                       {507, "InsufficientStorage", "the disk is nearly full"},
		store.ErrUnknown:                        {504, metav1.StatusReasonTimeout, "whether this write was made is not known"},
		store.ErrUnavailable:                    {503, metav1.StatusReasonServiceUnavailable, "cannot be reached"},
		&store.FullError{Reason: "the quota"}:   {507, "InsufficientStorage", "the quota"},
		store.ErrClosed:                         {503, metav1.StatusReasonServiceUnavailable, "shutting down"},
		context.DeadlineExceeded:                {504, metav1.StatusReasonTimeout, "create of /api/v1/namespaces/a/configmaps"},
		&store.InvalidError{Reason: "too long"}: {413, metav1.StatusReasonRequestEntityTooLarge, "too long"},
	} {
		f.err.Store(&err)
		_, got := s.Handle(ctx, &api.Request{Verb: api.Create, Resource: core.ConfigMap.Def(), Namespace: "a", Object: configMap("a", "y")})
		wantError(t, got, want.code, want.reason, want.text)
	}
	if _, err := core.ConfigMap.Get(ctx, s, "a", "x"); err != nil {
		t.Errorf("reads end with writes: %v", err)
	}
}

// Kubernetes' default roles pass our own validation.
func TestDefaultRoles(t *testing.T) {
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Admit = admit.All(admit.Settings{}) })
	d := cluster
	d.Objects = access.Defaults()
	if err := s.EnsureDefaults(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	rev := s.Revision()
	d.Objects = access.Defaults()
	if err := s.EnsureDefaults(t.Context(), d); err != nil || s.Revision() != rev {
		t.Errorf("a second start writes: revision %d after %d, %v", s.Revision(), rev, err)
	}
}

// Bookmarks come about once a minute, and the horizon follows at a distance of History.
func TestBookmarksAndHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.New(nil)
		s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			s.Close()
			_ = e.Close()
		}()
		began := time.Now()
		resp := must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Watch, Resource: core.Pod.Def(),
			At: api.Version{Bookmarks: true, Timeout: 210 * time.Second}}))
		go func() {
			for i := range 100 {
				time.Sleep(12 * time.Second)
				_, _ = core.ConfigMap.Create(t.Context(), s, configMap("a", fmt.Sprint("m", i)))
			}
		}()
		marks, last := 0, int64(0)
		for e, err := range resp.Events {
			if err != nil || e.Type != watch.Bookmark || e.Revision < last {
				t.Fatalf("%+v %v", e, err)
			}
			marks, last = marks+1, e.Revision
		}
		if d := time.Since(began); marks != 4 || last < 16 || d < 210*time.Second || d > 211*time.Second {
			t.Errorf("%d bookmarks up to revision %d in %v", marks, last, d)
		}
		time.Sleep(16 * time.Minute)
		if h := e.Horizon(); h < 35 || h > 50 {
			t.Errorf("horizon %d of revision %d after 19.5 minutes", h, e.Revision())
		}
		time.Sleep(time.Minute)
	})
}
