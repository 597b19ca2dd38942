package system

import (
	"bytes"
	"context"
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

// metricsFrom asks for metrics as the controllers: other servers behind h, or h itself.
func metricsFrom(h api.Handler) controllers.Metrics {
	h = api.As(api.User{Name: api.UserControllers, Groups: []string{api.GroupAuthenticated}}, h)
	return func(ctx context.Context, path string, query url.Values) ([]byte, error) {
		r, err := metricsRequest(path, query)
		if err != nil {
			return nil, err
		}
		resp, err := h.Handle(ctx, r)
		if err != nil {
			return nil, err
		}
		if resp.List != nil {
			return listText(resp.List)
		}
		if resp.Connect == nil {
			return nil, apierrors.NewNotFound(r.Resource.GroupResource(), "")
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
}

// metricsRequest is the list that a path and a query ask for. Another server reads
// both itself.
func metricsRequest(path string, query url.Values) (*api.Request, error) {
	parts := strings.Split(strings.TrimPrefix(path, "/apis/"), "/")
	if len(parts) < 3 {
		return nil, fmt.Errorf("%s is no path of a resource", path)
	}
	gvr := schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[len(parts)-1]}
	r := &api.Request{Verb: api.List, Resource: &api.Resource{GroupVersionResource: gvr}}
	if i := slices.Index(parts, "namespaces"); i >= 0 && i+1 < len(parts) {
		r.Namespace = parts[i+1]
	}
	if own := metrics.Pods.Def(); gvr == own.GroupVersionResource {
		sel, err := labels.Parse(query.Get("labelSelector"))
		if err != nil {
			return nil, err
		}
		r.Resource, r.Select.Labels = own, sel
	}
	return r, nil
}

// listText is a list as JSON, as far as it is read here.
func listText(l *api.ItemList) ([]byte, error) {
	out := bytes.NewBufferString(`{"items":[`)
	for i, item := range l.Items {
		if i > 0 {
			out.WriteByte(',')
		}
		b, err := item.JSON()
		if err != nil {
			return nil, err
		}
		out.Write(b)
	}
	out.WriteString("]}")
	return out.Bytes(), nil
}

// An answer takes in what a handler writes.
type answer struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (a *answer) Header() http.Header  { return a.header }
func (a *answer) WriteHeader(code int) { a.code = code }
