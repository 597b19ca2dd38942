package system

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/controllers"
)

// metricsFrom asks servers behind h for metrics, as the controllers.
func metricsFrom(h api.Handler) controllers.Metrics {
	h = api.As(api.User{Name: api.UserControllers, Groups: []string{api.GroupAuthenticated}}, h)
	return func(ctx context.Context, path string, query url.Values) ([]byte, error) {
		parts := strings.Split(strings.TrimPrefix(path, "/apis/"), "/")
		if len(parts) < 3 {
			return nil, fmt.Errorf("%s is no path of a resource", path)
		}
		gvr := schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[len(parts)-1]}
		resp, err := h.Handle(ctx, &api.Request{Verb: api.List, Resource: &api.Resource{GroupVersionResource: gvr}})
		if err != nil {
			return nil, err
		}
		if resp.Connect == nil {
			return nil, apierrors.NewNotFound(gvr.GroupResource(), "")
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

// An answer takes in what a handler writes.
type answer struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (a *answer) Header() http.Header  { return a.header }
func (a *answer) WriteHeader(code int) { a.code = code }
