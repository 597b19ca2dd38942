package apiserver_test

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/etcd"
	"proa/internal/store/etcd/etcdtest"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
)

// engines are what every behaviour is tested on.
var engines = map[string]func(testing.TB) store.Engine{
	"memory": func(testing.TB) store.Engine { return memory.New(nil) },
	"etcd": func(t testing.TB) store.Engine {
		e, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{etcdtest.Start(t).Endpoint}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		return e
	},
	"lsm": func(t testing.TB) store.Engine {
		e, err := lsm.Open(t.TempDir(), lsm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return e
	},
}

// each runs a test on a fresh server on each engine.
func each(t *testing.T, f func(t *testing.T, s *apiserver.Server)) {
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) { f(t, start(t, engine(t), nil)) })
	}
}

func start(t testing.TB, e store.Engine, change func(*apiserver.Config)) *apiserver.Server {
	t.Helper()
	c := apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&c)
	}
	s, err := apiserver.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Verify(); err != nil {
			t.Error(err)
		}
		s.Close()
		_ = e.Close()
	})
	return s
}

var kindsAll = kinds.All

func configMap(ns, name string, kv ...string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	for i := 0; i+1 < len(kv); i += 2 {
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		m.Data[kv[i]] = kv[i+1]
	}
	return m
}

func pod(ns, name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "img"}}},
	}
}

// must returns v, or ends the test.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// wantError checks the code, the reason and a part of the message.
func wantError(t testing.TB, err error, code int32, reason metav1.StatusReason, text string) {
	t.Helper()
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		t.Fatalf("got %v (%T), want a status error with %q", err, err, text)
	}
	s := status.Status()
	if s.Code != code || s.Reason != reason || !strings.Contains(s.Message, text) {
		t.Fatalf("got %d %s %q, want %d %s with %q", s.Code, s.Reason, s.Message, code, reason, text)
	}
}

func TestCreateGetUpdateDelete(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		ctx := t.Context()
		m := must[*corev1.ConfigMap](t)
		made := m(core.ConfigMap.Create(ctx, s, configMap("a", "x", "k", "1")))
		if made.UID == "" || made.ResourceVersion == "" || made.CreationTimestamp.IsZero() || made.Kind != "ConfigMap" {
			t.Fatalf("metadata is missing: %+v", made.ObjectMeta)
		}
		if _, err := core.ConfigMap.Create(ctx, s, configMap("a", "x")); !apierrors.IsAlreadyExists(err) {
			t.Fatalf("created twice: %v", err)
		}
		got := m(core.ConfigMap.Get(ctx, s, "a", "x"))
		if got != made {
			t.Error("a read does not share the object that was written")
		}

		same := m(core.ConfigMap.Update(ctx, s, api.Clone(got)))
		if same.ResourceVersion != got.ResourceVersion {
			t.Error("an update that changes nothing was written")
		}
		next := api.Clone(got)
		next.Data["k"] = "2"
		next.UID, next.CreationTimestamp = "", metav1.Time{}
		changed := m(core.ConfigMap.Update(ctx, s, next))
		if changed.ResourceVersion == got.ResourceVersion || changed.UID != got.UID || !changed.CreationTimestamp.Equal(&got.CreationTimestamp) {
			t.Errorf("bad metadata after an update: %+v", changed.ObjectMeta)
		}
		stale := api.Clone(got)
		stale.Data["k"] = "3"
		_, err := core.ConfigMap.Update(ctx, s, stale)
		wantError(t, err, 409, metav1.StatusReasonConflict, "the object has been modified; please apply your changes to the latest version and try again")
		other := configMap("a", "x")
		other.UID = "somebody-else"
		_, err = core.ConfigMap.Update(ctx, s, other)
		wantError(t, err, 409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: somebody-else")
		m(core.ConfigMap.Update(ctx, s, configMap("a", "x", "k", "4"))) // without a version: on any state

		if err := core.ConfigMap.Delete(ctx, s, "a", "x", api.Options{UID: new(types.UID)}); !apierrors.IsConflict(err) {
			t.Errorf("deleted in spite of the precondition: %v", err)
		}
		if err := core.ConfigMap.Delete(ctx, s, "a", "x", api.Options{}); err != nil {
			t.Fatal(err)
		}
		_, err = core.ConfigMap.Get(ctx, s, "a", "x")
		wantError(t, err, 404, metav1.StatusReasonNotFound, `configmaps "x" not found`)
		err = core.ConfigMap.Delete(ctx, s, "a", "x", api.Options{})
		wantError(t, err, 404, metav1.StatusReasonNotFound, `configmaps "x" not found`)
	})
}

func TestGenerateName(t *testing.T) {
	names := []string{"aaaaa", "aaaaa", "bbbbb"}
	s := start(t, memory.New(nil), func(c *apiserver.Config) {
		c.Suffix = func(int) string { n := names[0]; names = names[1:]; return n }
	})
	for _, want := range []string{"web-aaaaa", "web-bbbbb"} {
		cm := configMap("a", "")
		cm.GenerateName = "web-"
		if got := must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), s, cm)); got.Name != want {
			t.Errorf("got the name %s, want %s", got.Name, want)
		}
	}
}

// collect reads n events of a watch.
func collect(t testing.TB, resp *api.Response, n int) []api.Event {
	t.Helper()
	var out []api.Event
	for e, err := range resp.Events {
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, e); len(out) == n {
			break
		}
	}
	if len(out) != n {
		t.Fatalf("the watch ended after %d events of %d", len(out), n)
	}
	return out
}

func show(events []api.Event) string {
	var b strings.Builder
	for _, e := range events {
		name := ""
		if e.Item != nil {
			name = " " + e.Item.Object().GetName()
			if rv := e.Item.Object().GetResourceVersion(); rv != strconv.FormatInt(e.Revision, 10) {
				name += " at " + rv
			}
		}
		fmt.Fprintf(&b, "%s%s; ", e.Type, name)
	}
	return b.String()
}

func TestWatch(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		ctx := t.Context()
		m := must[*corev1.Pod](t)
		first := m(core.Pod.Create(ctx, s, pod("a", "one", "")))
		q := &api.Request{Verb: api.Watch, Resource: core.Pod.Def(), Namespace: "a", Select: api.WithField("spec.nodeName", "n1"),
			At: api.Version{ResourceVersion: first.ResourceVersion}}
		byNode := must[*api.Response](t)(s.Handle(ctx, q))
		all := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Watch, Resource: core.Pod.Def()}))

		bind := func(name, node string) {
			t.Helper()
			_, err := s.Mutate(ctx, &api.Request{Resource: core.Pod.Def(), Namespace: "a", Name: name}, func(old api.Object) (api.Object, error) {
				old.(*corev1.Pod).Spec.NodeName = node
				return old, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		bind("one", "n1")
		m(core.Pod.Create(ctx, s, pod("b", "foreign", "n1")))
		bind("one", "n2")
		m(core.Pod.Create(ctx, s, pod("a", "two", "n1")))
		zero := int64(0)
		if err := core.Pod.Delete(ctx, s, "a", "two", api.Options{GracePeriod: &zero}); err != nil {
			t.Fatal(err)
		}
		if got, want := show(collect(t, byNode, 4)), "ADDED one; DELETED one; ADDED two; DELETED two; "; got != want {
			t.Errorf("by node: %s, want %s", got, want)
		}
		// Watch("") begins with what is there when it is read.
		if got, want := show(collect(t, all, 2)), "ADDED one; ADDED foreign; "; got != want {
			t.Errorf("all: %s, want %s", got, want)
		}
	})
}

func TestWatchInitialEvents(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	yes := true
	must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), s, configMap("a", "x")))
	resp := must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Watch, Resource: core.ConfigMap.Def(),
		At: api.Version{SendInitialEvents: &yes, Match: metav1.ResourceVersionMatchNotOlderThan, Bookmarks: true, Timeout: 50 * time.Millisecond}}))
	got := collect(t, resp, 3)
	if got[0].Type != watch.Added || got[1].Type != watch.Bookmark || !got[1].InitialEnd || got[1].Revision != s.Revision() {
		t.Errorf("bad beginning: %+v", got)
	}
	if got[2].Type != watch.Bookmark || got[2].InitialEnd {
		t.Errorf("no bookmark at the end: %+v", got[2])
	}
	_, err := s.Handle(t.Context(), &api.Request{Verb: api.Watch, Resource: core.ConfigMap.Def(), At: api.Version{SendInitialEvents: &yes}})
	wantError(t, err, 422, metav1.StatusReasonInvalid, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
}

func TestScaleAndStatus(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		ctx := t.Context()
		body := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"a"},"status":{"replicas":7},
			"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`
		handle := must[*api.Response](t)
		made := handle(s.Handle(ctx, &api.Request{Verb: api.Create, Resource: apps.Deployment.Def(), Namespace: "a", Body: []byte(body), ContentType: api.MediaJSON}))
		if o := made.Item.Object(); o.GetGeneration() != 1 {
			t.Errorf("generation %d", o.GetGeneration())
		}
		scale := handle(s.Handle(ctx, &api.Request{Verb: api.Patch, Resource: apps.Deployment.Def(), Namespace: "a", Name: "d", Sub: "scale",
			Patch: types.MergePatchType, Body: []byte(`{"spec":{"replicas":3}}`)}))
		t.Logf("%+v", scale.Object)
		d, err := apps.Deployment.Get(ctx, s, "a", "d")
		if err != nil || *d.Spec.Replicas != 3 || d.Generation != 2 || d.Status.Replicas != 0 {
			t.Fatalf("after scale: %v %+v", err, d)
		}
		st := api.Clone(d)
		st.Status.Replicas = 2
		st.Spec.Replicas = nil
		d, err = apps.Deployment.UpdateStatus(ctx, s, st)
		if err != nil || *d.Spec.Replicas != 3 || d.Generation != 2 || d.Status.Replicas != 2 {
			t.Fatalf("after a status write: %v %+v", err, d)
		}
	})
}
