package system

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
)

// TestMetricsFrom checks that metrics are asked for as the controllers, and that
// what goes wrong is told.
func TestMetricsFrom(t *testing.T) {
	h := api.HandlerFunc(func(_ context.Context, r *api.Request) (*api.Response, error) {
		if r.Resource.Group != "metrics.k8s.io" {
			return nil, apierrors.NewNotFound(r.Resource.GroupResource(), "")
		}
		return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Query().Get("labelSelector") == "" {
				w.WriteHeader(http.StatusBadGateway)
			}
			fmt.Fprint(w, r.User.Name, " ", req.URL.Path, " ", req.URL.Query().Get("labelSelector"))
		})}, nil
	})
	m := metricsFrom(h)
	got, err := m(t.Context(), "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", url.Values{"labelSelector": {"a=b"}})
	if want := "system:kube-controller-manager /apis/metrics.k8s.io/v1beta1/namespaces/default/pods a=b"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := m(t.Context(), "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", nil); err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Errorf("a refusal became %v", err)
	}
	if _, err := m(t.Context(), "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/x", nil); !apierrors.IsNotFound(err) {
		t.Errorf("that nobody answers became %v", err)
	}
}
