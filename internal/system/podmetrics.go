package system

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/controllers"
	"proa/internal/kinds/metrics"
)

// A measurer asks for metrics as the controllers: h itself, or servers behind it.
type measurer struct{ h api.Handler }

func metricsFrom(h api.Handler) controllers.Metrics {
	return measurer{api.As(api.User{Name: api.UserControllers, Groups: []string{api.GroupAuthenticated}}, h)}
}

// Pods implements controllers.Metrics. What this process has measured is handed on
// as it is; another server's answer is read.
func (m measurer) Pods(ctx context.Context, ns string, sel labels.Selector) ([]*metrics.PodMetrics, error) {
	own := metrics.Pods.Def()
	resp, err := m.h.Handle(ctx, &api.Request{Verb: api.List, Resource: own, Namespace: ns, Select: api.Selectors{Labels: sel}})
	if err != nil {
		return nil, err
	}
	if resp.List == nil {
		path := own.Path(ns)
		body, err := textOf(ctx, resp, own, path, url.Values{"labelSelector": {sel.String()}})
		if err != nil {
			return nil, err
		}
		var list struct{ Items []*metrics.PodMetrics }
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return list.Items, nil
	}
	out := make([]*metrics.PodMetrics, len(resp.List.Items))
	for i, item := range resp.List.Items {
		o, ok := item.Object().(*metrics.PodMetrics)
		if !ok {
			return nil, fmt.Errorf("a list of %s holds a %T", own.GroupResource(), item.Object())
		}
		out[i] = o
	}
	return out, nil
}

// Ask implements controllers.Metrics.
func (m measurer) Ask(ctx context.Context, path string, query url.Values) ([]byte, error) {
	parts := strings.Split(strings.TrimPrefix(path, "/apis/"), "/")
	if len(parts) < 3 {
		return nil, fmt.Errorf("%s is no path of a resource", path)
	}
	r := &api.Request{Verb: api.List, Resource: &api.Resource{
		GroupVersionResource: schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[len(parts)-1]}}}
	if i := slices.Index(parts, "namespaces"); i >= 0 && i+1 < len(parts) {
		r.Namespace = parts[i+1]
	}
	resp, err := m.h.Handle(ctx, r)
	if err != nil {
		return nil, err
	}
	return textOf(ctx, resp, r.Resource, path, query)
}

// textOf is what another server answers to a path and a query, both of which it reads itself.
func textOf(ctx context.Context, resp *api.Response, of *api.Resource, path string, query url.Values) ([]byte, error) {
	if resp.Connect == nil {
		return nil, apierrors.NewNotFound(of.GroupResource(), "")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://metrics"+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	w := &answer{header: http.Header{}, code: http.StatusOK}
	resp.Connect.ServeHTTP(w, req)
	if w.code != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %.200s", path, http.StatusText(w.code), w.Bytes())
	}
	return w.Bytes(), nil
}

// An answer takes in what a handler writes.
type answer struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (a *answer) Header() http.Header  { return a.header }
func (a *answer) WriteHeader(code int) { a.code = code }
