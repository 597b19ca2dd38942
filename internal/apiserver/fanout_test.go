package apiserver_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// An event is one item with one JSON, however many watchers it goes to and by
// whichever topic they wait.
func TestOneEncodingPerEvent(t *testing.T) {
	s := start(t, engines["memory"](t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const watchers, changes = 60, 30
	type got struct {
		item  *api.Item
		first *byte // of its JSON
	}
	var mu sync.Mutex
	seen := map[string]map[got]int{} // by type and revision
	counts := map[string]int{}
	requests := []api.Request{
		{}, {Namespace: "a"}, {Namespace: "a", Select: api.WithField("metadata.name", "p")},
		{Select: api.WithField("spec.nodeName", "n1")}, {Select: api.WithLabels(map[string]string{"app": "p"})},
	}
	var ready, ended sync.WaitGroup
	for n := range watchers {
		r := requests[n%len(requests)]
		r.Verb, r.Resource = api.Watch, core.Pod.Def()
		r.At.ResourceVersion = strconv.FormatInt(s.Revision(), 10)
		ready.Add(1)
		ended.Go(func() {
			resp, err := s.Handle(ctx, &r)
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			left := changes + 2 // a create and a delete
			for e, err := range resp.Events {
				if err != nil {
					t.Error(err)
					return
				}
				b, err := e.Item.JSON()
				if err != nil {
					t.Error(err)
					return
				}
				k := string(e.Type) + " " + strconv.FormatInt(e.Revision, 10)
				mu.Lock()
				if seen[k] == nil {
					seen[k] = map[got]int{}
				}
				seen[k][got{e.Item, &b[0]}]++
				counts[k]++
				mu.Unlock()
				if left--; left == 0 {
					return
				}
			}
		})
	}
	ready.Wait()
	p := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: "a", Object: pod("a", "p", "n1")}))
	for n := range changes {
		q := &api.Request{Resource: core.Pod.Def(), Namespace: "a", Name: "p"}
		must[*api.Item](t)(s.Mutate(ctx, q, func(o api.Object) (api.Object, error) {
			o.SetAnnotations(map[string]string{"n": strconv.Itoa(n)})
			return o, nil
		}))
	}
	grace := int64(0)
	must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Delete, Resource: core.Pod.Def(), Namespace: "a", Name: "p", Options: api.Options{GracePeriod: &grace}}))
	ended.Wait()
	if len(seen) != changes+2 {
		t.Errorf("%d events of %d changes", len(seen), changes+2)
	}
	for k, forms := range seen {
		if len(forms) != 1 || counts[k] != watchers {
			t.Errorf("%s: %d watchers were given %d forms", k, counts[k], len(forms))
		}
	}
	if seen[string(watch.Added)+" "+strconv.FormatInt(p.Item.Revision, 10)] == nil {
		t.Error("nobody was told of the create")
	}
}
