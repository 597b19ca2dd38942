package httpapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	kwatch "k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// addresses is a ResponseWriter that notes where what it is given lies.
type addresses struct {
	h    http.Header
	seen map[*byte]int
}

func (a *addresses) Header() http.Header { return a.h }
func (a *addresses) WriteHeader(int)     {}
func (a *addresses) Flush()              {}
func (a *addresses) Write(p []byte) (int, error) {
	if len(p) > 0 {
		a.seen[&p[0]]++
	}
	return len(p), nil
}

// What a GET and a watch write of an object is the one JSON of its item, not a copy.
func TestSharedBytesAreWritten(t *testing.T) {
	pod := core.Pod.Def()
	item := api.NewItem(pod, 7, nil, bigPod("p"))
	want, err := item.JSON()
	if err != nil {
		t.Fatal(err)
	}
	h := Serve(api.HandlerFunc(func(_ context.Context, r *api.Request) (*api.Response, error) {
		if r.Verb == api.Get {
			return &api.Response{Item: item}, nil
		}
		return &api.Response{Events: func(yield func(api.Event, error) bool) {
			for _, typ := range []kwatch.EventType{kwatch.Added, kwatch.Modified} {
				if !yield(api.Event{Type: typ, Item: item, Revision: 7}, nil) {
					return
				}
			}
		}}, nil
	}), Config{Groups: grouped, Authenticate: byName})
	for path, times := range map[string]int{"/api/v1/namespaces/default/pods/p": 1, "/api/v1/pods?watch=1": 2} {
		for range 3 {
			req := httptest.NewRequest("GET", path, nil)
			req.Header.Set("X-Test-User", "u")
			w := &addresses{h: http.Header{}, seen: map[*byte]int{}}
			h.ServeHTTP(w, req)
			if n := w.seen[&want[0]]; n != times {
				t.Errorf("GET %s wrote the item's JSON %d times, not %d", path, n, times)
			}
		}
	}
}
