package apiserver_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/etcd"
	"proa/internal/store/etcd/etcdtest"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
	"proa/internal/store/snapshot"
)

// TestKeeps says of which keys there is a history.
func TestKeeps(t *testing.T) {
	without, with := apiserver.Keeps(false), apiserver.Keeps(true)
	for key, want := range map[string][2]bool{
		"/core/secrets/a/b":                 {false, true},
		"/core/configmaps/a/b":              {true, true},
		"/apps/deployments/a/b":             {true, true},
		"/core/events/a/b":                  {false, false},
		"/coordination.k8s.io/leases/a/b":   {false, false},
		"/core/endpoints/a/b":               {false, false},
		"/example.com/secrets/a/b":          {true, true},
		"/example.com/events/a/b":           {true, true},
		"/core/nodes/a":                     {true, true},
		"/core/pods/a/b":                    {true, true},
		"/discovery.k8s.io/endpointslices/": {true, true},
	} {
		if got := [2]bool{without(key), with(key)}; got != want {
			t.Errorf("%s: %v, not %v", key, got, want)
		}
	}
}

// TestHistoryOutlives reads, on each engine, what was compacted long ago; on the
// durable ones in a later life of the server, too.
func TestHistoryOutlives(t *testing.T) {
	keep := store.Keeping{Keep: apiserver.Keeps(false), Full: 4, Light: 1, Bytes: 1 << 20}
	dir := t.TempDir()
	engines := map[string]func() (store.Engine, error){
		"memory": func() (store.Engine, error) { return memory.Keeping(nil, keep), nil },
		"lsm":    func() (store.Engine, error) { return lsm.Open(dir, lsm.Options{History: keep}) },
	}
	if etcdtest.Find() != "" {
		o := etcd.Options{Endpoints: []string{etcdtest.Start(t).Endpoint}, History: keep}
		engines["etcd"] = func() (store.Engine, error) { return etcd.Open(t.Context(), o) }
	} else {
		t.Log("NOT TESTED ON ETCD: neither PROA_TEST_ETCD nor PROA_TEST_BIN leads to one")
	}
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			e := must[store.Engine](t)(open())
			begin := func() *apiserver.Server {
				return must[*apiserver.Server](t)(apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kindsAll, History: 20 * time.Millisecond}))
			}
			s := begin()
			ask := func(p api.Past) (*api.Response, error) {
				return s.Handle(t.Context(), &api.Request{Verb: api.Get, Resource: core.ConfigMap.Def(), Namespace: "a", Name: "x", Past: &p})
			}
			m := must[string](t)
			version := func(i int) (string, error) {
				o := configMap("a", "x", "k", fmt.Sprint(i))
				if i == 0 {
					made, err := core.ConfigMap.Create(t.Context(), s, o)
					return made.ResourceVersion, err
				}
				made, err := core.ConfigMap.Update(t.Context(), s, o)
				return made.ResourceVersion, err
			}
			var last string
			for i := range 10 {
				last = m(version(i))
			}
			var h *api.History
			for deadline := time.Now().Add(time.Minute); h == nil || len(h.Items) > 5; {
				if time.Now().After(deadline) {
					t.Fatalf("the history has %d states after a minute", len(h.Items))
				}
				h = must[*api.Response](t)(ask(api.Past{Objects: true})).History
			}
			if len(h.Items) != 5 || h.Items[0].Revision != last || !h.Items[4].Gap || h.Items[3].Gap {
				t.Fatalf("%+v", h.Items)
			}
			if name != "memory" {
				s.Close()
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				e = must[store.Engine](t)(open())
				s = begin()
			}
			defer e.Close()
			defer s.Close()
			again := must[*api.Response](t)(ask(api.Past{Objects: true})).History
			for i, want := range h.Items {
				if got := again.Items[i]; got.Revision != want.Revision || string(got.Object) != string(want.Object) {
					t.Errorf("then %s, now %s", want.Object, got.Object)
				}
			}
			_, err := ask(api.Past{Revision: 1})
			wantError(t, err, 410, "Expired", "what was before is not kept any more")
		})
	}
}

// TestHistoryRestored asks for states of before a restore: those of the past by the
// revisions that they had, the present one by either of its two.
func TestHistoryRestored(t *testing.T) {
	keep := store.Keeping{Keep: apiserver.Keeps(false), Full: 9, Bytes: 1 << 20}
	from, to := memory.Keeping(nil, keep), memory.Keeping(nil, keep)
	begin := func(e store.Engine) *apiserver.Server {
		return must[*apiserver.Server](t)(apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kindsAll}))
	}
	s := begin(from)
	first := must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), s, configMap("a", "x", "k", "1")))
	last := must[*corev1.ConfigMap](t)(core.ConfigMap.Update(t.Context(), s, configMap("a", "x", "k", "2")))
	now := time.Now()
	s.Close()
	var b bytes.Buffer
	if err := snapshot.Write(t.Context(), &b, from, snapshot.Header{}, true); err != nil {
		t.Fatal(err)
	}
	r := snapshot.Restore{Engine: to, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }}
	must[*snapshot.Summary](t)(r.Run(t.Context()))
	s = begin(to)
	defer s.Close()
	ask := func(p api.Past) (*api.Response, error) {
		return s.Handle(t.Context(), &api.Request{Verb: api.Get, Resource: core.ConfigMap.Def(), Namespace: "a", Name: "x", Past: &p})
	}
	present := must[*corev1.ConfigMap](t)(core.ConfigMap.Get(t.Context(), s, "a", "x"))
	number := func(text string) int64 { return must[int64](t)(strconv.ParseInt(text, 10, 64)) }
	for _, c := range []struct {
		past  api.Past
		value string
		rev   string
	}{
		{api.Past{Revision: number(first.ResourceVersion)}, "1", first.ResourceVersion},
		{api.Past{Revision: number(last.ResourceVersion)}, "2", present.ResourceVersion},
		{api.Past{Revision: number(present.ResourceVersion)}, "2", present.ResourceVersion},
		{api.Past{At: now}, "2", present.ResourceVersion},
	} {
		item := must[*api.Response](t)(ask(c.past)).Item
		got := item.Object().(*corev1.ConfigMap)
		if got.Data["k"] != c.value || item.Revision != number(c.rev) {
			t.Errorf("%+v: %q at %d, not %q at %s", c.past, got.Data["k"], item.Revision, c.value, c.rev)
		}
	}
	_, err := ask(api.Past{Revision: number(last.ResourceVersion) + 1})
	wantError(t, err, 404, "NotFound", "has no revision")
	h := must[*api.Response](t)(ask(api.Past{})).History
	if len(h.Items) != 2 || h.Items[0].Was != last.ResourceVersion || h.Items[1].Until != last.ResourceVersion || h.Items[0].Gap || h.Items[0].Verb != "update" ||
		!slices.Equal(h.Items[0].Changed, []string{"data"}) || h.Items[0].Minor {
		t.Errorf("%+v", h.Items)
	}
}
