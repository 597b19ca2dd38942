package kubeletapi

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAskOf(t *testing.T) {
	for _, tt := range []struct{ method, path, want string }{
		{"GET", "/metrics", "get metrics"},
		{"GET", "/metrics/cadvisor", "get metrics"},
		{"HEAD", "/metrics/resource?x=1", "get metrics"},
		{"GET", "/stats/summary", "get stats"},
		{"GET", "/logs/kern.log", "get log"},
		{"GET", "/spec/", "get spec"},
		{"POST", "/checkpoint/ns/pod/c", "create checkpoint"},
		{"GET", "/pods", "get pods proxy"},
		{"GET", "/runningpods/", "get pods proxy"},
		{"GET", "/healthz", "get healthz proxy"},
		{"GET", "/healthz/ping", "get healthz proxy"},
		{"GET", "/configz", "get configz proxy"},
		{"GET", "/containerLogs/ns/pod/c", "get proxy"},
		{"GET", "/metricsandmore", "get proxy"},
		{"GET", "/", "get proxy"},
		{"GET", "//metrics", "get proxy"},
		{"GET", "/%6detrics", "get metrics"},
		{"GET", "/metrics%2F..%2Fexec/ns/pod/c", "get metrics"}, // which Serve takes for no path that it has
		{"POST", "/run/ns/pod/c", "create proxy"},
		{"POST", "/exec/ns/pod/c", "create proxy"},
		{"GET", "/exec/ns/pod/c", "create proxy"},
		{"GET", "/%65xec/ns/pod/c", "create proxy"},
		{"GET", "/attach/ns/pod/uid/c", "create proxy"},
		{"GET", "/portForward/ns/pod", "create proxy"},
		{"PUT", "/x", "update proxy"},
		{"PATCH", "/x", "patch proxy"},
		{"DELETE", "/x", "delete proxy"},
		{"OPTIONS", "/metrics", " metrics"},
	} {
		a := AskOf(httptest.NewRequest(tt.method, tt.path, nil))
		if got := a.Verb + " " + strings.Join(a.Subs, " "); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.method, tt.path, got, tt.want)
		}
	}
}

// What is judged as harmless leads nowhere else, however its path is written.
func TestServeTakesPathsAsTheyAreJudged(t *testing.T) {
	h := Serve(nil) // whoever got through to it would panic
	for _, path := range []string{"/metrics/../exec/ns/pod/c", "/metrics%2F..%2Fexec/ns/pod/c", "/metrics%2F../exec/ns/pod/c",
		"/stats/%2e%2e/run/ns/pod/c"} {
		for _, method := range []string{"GET", "POST", "CONNECT"} {
			r := httptest.NewRequest("GET", path, nil)
			r.Method = method
			w := httptest.NewRecorder()
			func() {
				defer func() {
					if p := recover(); p != nil {
						t.Errorf("%s %s arrived, judged as %v: %v", method, path, AskOf(r), p)
					}
				}()
				h.ServeHTTP(w, r)
			}()
			if w.Code < 300 {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
}
