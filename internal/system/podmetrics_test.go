package system

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/kinds/metrics"
)

// TestMetricsFrom checks that metrics are asked for as the controllers, and that
// what goes wrong is told.
func TestMetricsFrom(t *testing.T) {
	h := api.HandlerFunc(func(_ context.Context, r *api.Request) (*api.Response, error) {
		if r.Resource.Group != "custom.metrics.k8s.io" {
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
	const path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/rate"
	got, err := m.Ask(t.Context(), path, url.Values{"labelSelector": {"a=b"}})
	if want := "system:kube-controller-manager " + path + " a=b"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := m.Ask(t.Context(), path, nil); err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Errorf("a refusal became %v", err)
	}
	if _, err := m.Ask(t.Context(), "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/x", nil); !apierrors.IsNotFound(err) {
		t.Errorf("that nobody answers became %v", err)
	}
	if _, err := m.Ask(t.Context(), "/apis/x", nil); err == nil || !strings.Contains(err.Error(), "no path of a resource") {
		t.Errorf("no path became %v", err)
	}
}

// TestMetricsOfPods checks that what pods use is the same to the autoscaler whoever
// measures it, and that what this process has measured is not written and read again.
func TestMetricsOfPods(t *testing.T) {
	mine := &metrics.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Window: metav1.Duration{Duration: 15 * time.Second},
		Timestamp:  metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
		Containers: []metrics.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}}}}
	const theirs = `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[{"metadata":{"name":"a","namespace":"default"},
		"timestamp":"2026-01-02T03:04:05Z","window":"15s","containers":[{"name":"c","usage":{"cpu":"250m"}}]}]}`
	var asked *api.Request
	for name, resp := range map[string]*api.Response{
		"this process": {List: &api.ItemList{Items: []*api.Item{api.NewItem(metrics.Pods.Def(), 0, nil, mine)}}},
		"metrics-server": {Connect: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods" || r.URL.Query().Get("labelSelector") != "a=b" {
				w.WriteHeader(http.StatusNotFound)
			}
			fmt.Fprint(w, theirs)
		})},
	} {
		m := metricsFrom(api.HandlerFunc(func(_ context.Context, r *api.Request) (*api.Response, error) {
			asked = r
			return resp, nil
		}))
		got, err := m.Pods(t.Context(), "default", labels.SelectorFromSet(labels.Set{"a": "b"}))
		if err != nil || len(got) != 1 || got[0].Name != "a" || !got[0].Timestamp.Equal(&mine.Timestamp) || got[0].Window != mine.Window ||
			got[0].Containers[0].Usage.Cpu().MilliValue() != 250 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if name == "this process" && err == nil && got[0] != mine {
			t.Error("it was made anew")
		}
		if asked.User.Name != api.UserControllers || asked.Namespace != "default" || asked.Select.Labels.String() != "a=b" {
			t.Errorf("%s was asked %+v", name, asked)
		}
	}
	m := metricsFrom(api.HandlerFunc(func(context.Context, *api.Request) (*api.Response, error) {
		return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "no JSON") })}, nil
	}))
	if _, err := m.Pods(t.Context(), "default", labels.Everything()); err == nil || !strings.HasPrefix(err.Error(), "/apis/metrics.k8s.io/") {
		t.Errorf("what cannot be read became %v", err)
	}
}
