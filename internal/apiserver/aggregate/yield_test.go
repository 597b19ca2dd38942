package aggregate_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/api/remote"
	"proa/internal/apiserver/aggregate"
	"proa/internal/kinds/apiregistration"
	"proa/internal/kinds/metrics"
)

// TestYields checks that metrics.k8s.io is the server's own until somebody else's
// server is registered for it, as metrics-server's manifest does, and again when
// that is gone.
func TestYields(t *testing.T) {
	own := metrics.Pods.Def()
	gv := own.GroupVersion()
	w := newWorld(t, func(c *aggregate.Config) {
		c.Served = func() ([]*api.Group, <-chan struct{}) { return api.Grouped([]*api.Resource{own}), nil }
	})
	const name = "v1beta1.metrics.k8s.io"
	w.condition(name, "True Local Local APIServices are always available")
	answered := func() string {
		resp, err := w.h.Handle(t.Context(), &api.Request{Verb: api.List, Resource: own, Namespace: "a"})
		switch {
		case apierrors.IsServiceUnavailable(err):
			return "nowhere"
		case err != nil:
			return err.Error()
		case resp.Connect == nil:
			return "here"
		}
		rec := httptest.NewRecorder()
		resp.Connect.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", own.Path("a"), nil))
		body, _ := io.ReadAll(rec.Body)
		return string(body)
	}
	if got := answered(); got != "here" {
		t.Fatalf("answered %s", got)
	}
	server := w.extension("metrics-server", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "there") }))
	w.service("metrics-server", 443)
	w.endpoints("metrics-server", server)
	// What "kubectl apply" of the manifest makes of an object that is there.
	_, err := w.server.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: apiregistration.APIService.Def(), Name: name, Patch: types.MergePatchType,
		Body: []byte(`{"metadata":{"labels":{"k8s-app":"metrics-server"}},"spec":{"service":{"namespace":"a","name":"metrics-server"},"insecureSkipTLSVerify":true,"groupPriorityMinimum":100,"versionPriority":100}}`)})
	if err != nil {
		t.Fatal(err)
	}
	w.until(func() bool { return answered() == "there" }, func() string { return "answered " + answered() })
	if !w.agg.Catalog().Serves(gv) {
		t.Error("discovery does not know who serves it")
	}
	// It stays so, however often what is served here is looked at.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		if o, err := apiregistration.APIService.Get(t.Context(), w.server, "", name); err != nil || o.Spec.Service == nil {
			t.Fatalf("it was taken back: %v, %v", o, err)
		}
	}
	if err := apiregistration.APIService.Delete(t.Context(), w.server, "", name, api.Options{}); err != nil {
		t.Fatal(err)
	}
	w.condition(name, "True Local Local APIServices are always available")
	w.until(func() bool { return answered() == "here" }, func() string { return "answered " + answered() })
	if !remote.Yields(metrics.Group) || remote.Yields("apps") {
		t.Error("only this group yields")
	}
}
