package kubeletapi

import (
	"net/http/httptest"
	"testing"

	"proa/internal/api"
)

// What follows the proxy in a path is found whatever the objects are called.
func TestRest(t *testing.T) {
	for _, c := range []struct{ path, name, want string }{
		{"/api/v1/namespaces/a/pods/p/proxy/x/y", "p", "/x/y"},
		{"/api/v1/namespaces/a/pods/p:8080/proxy/", "p:8080", "/"},
		{"/api/v1/namespaces/a/pods/p/proxy", "p", "/"},
		{"/api/v1/namespaces/proxy-a/pods/proxy-1/proxy/proxy/z", "proxy-1", "/proxy/z"},
		{"/api/v1/namespaces/proxy/pods/proxy/proxy/z", "proxy", "/z"},
		{"/api/v1/nodes/proxy/proxy/metrics", "proxy", "/metrics"},
	} {
		r := &api.Request{Name: c.name, Sub: "proxy", HTTP: httptest.NewRequest("GET", c.path, nil)}
		if got := rest(r); got != c.want {
			t.Errorf("%s: %q, want %q", c.path, got, c.want)
		}
	}
}
