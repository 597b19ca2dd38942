package apiserver_test

import (
	"fmt"
	"testing"
	"time"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
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
// durable one in a later life of the server, too.
func TestHistoryOutlives(t *testing.T) {
	keep := store.Keeping{Keep: apiserver.Keeps(false), Full: 4, Light: 1, Bytes: 1 << 20}
	dir := t.TempDir()
	for name, open := range map[string]func() (store.Engine, error){
		"memory": func() (store.Engine, error) { return memory.Keeping(nil, keep), nil },
		"lsm":    func() (store.Engine, error) { return lsm.Open(dir, lsm.Options{History: keep}) },
	} {
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
			if name == "lsm" {
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
