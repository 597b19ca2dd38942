package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// echo answers exec with an upgrade to a protocol that sends back what it gets.
func echo(_ context.Context, r *api.Request) (*api.Response, error) {
	return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Upgrade") != "echo" {
			http.Error(w, "upgrade to echo, please", http.StatusBadRequest)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello %s %s\n", r.Name, req.URL.Query().Get("command"))
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprintf(rw, "you said %s", line)
		rw.Flush()
	})}, nil
}

// upgrade asks url for an exec, and talks over what it gets.
func upgrade(t *testing.T, c *http.Client, url string) {
	t.Helper()
	if tr, ok := c.Transport.(*http.Transport); ok {
		c = &http.Client{Transport: http1(tr)}
	}
	req, _ := http.NewRequestWithContext(t.Context(), "POST", url+"/api/v1/namespaces/default/pods/p/exec?command=ls", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	req.Header.Set("X-Test-User", "tester")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%d %s", resp.StatusCode, b)
	}
	both := resp.Body.(io.ReadWriteCloser)
	in := bufio.NewReader(both)
	if line, _ := in.ReadString('\n'); line != "hello p ls\n" {
		t.Fatalf("got %q", line)
	}
	fmt.Fprintf(both, "good day\n")
	if line, _ := in.ReadString('\n'); line != "you said good day\n" {
		t.Fatalf("got %q", line)
	}
}

func TestUpgrade(t *testing.T) {
	front := serve(t, api.HandlerFunc(echo), Config{})
	upgrade(t, front.Client(), front.URL)
}

// TestUpgradeThroughDial runs an upgrade through a server that asks another one.
func TestUpgradeThroughDial(t *testing.T) {
	back := serve(t, api.HandlerFunc(echo), Config{Authenticate: func(*http.Request) (api.User, bool, error) {
		return api.User{Name: "front"}, true, nil
	}})
	front := serve(t, Dial(back.URL, back.Client()), Config{})
	upgrade(t, front.Client(), front.URL)
}

// TestRealServer runs the API server itself on both sides of the wire.
func TestRealServer(t *testing.T) {
	for name, wire := range map[string]bool{"in process": false, "over the wire": true} {
		t.Run(name, func(t *testing.T) {
			var h api.Handler = realServer(t)
			if wire {
				h = serve(t, h, Config{}).dial()
			}
			h = api.As(api.User{Name: "tester"}, h)
			ctx := t.Context()
			if _, err := core.Namespace.Create(ctx, h, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil {
				t.Fatal(err)
			}
			made, err := apps.Deployment.Create(ctx, h, deployment("web"))
			if err != nil || made.Spec.RevisionHistoryLimit == nil || made.UID == "" {
				t.Fatalf("created %+v, %v", made, err)
			}
			bad := deployment("bad")
			bad.Name = "Not_A_Name"
			if _, err = apps.Deployment.Create(ctx, h, bad); !apierrors.IsInvalid(err) {
				t.Fatalf("an invalid deployment: %v", err)
			}
			got, err := apps.Deployment.Patch(ctx, h, "default", "web", "", types.StrategicMergePatchType, []byte(`{"spec":{"replicas":7}}`))
			if err != nil || *got.Spec.Replicas != 7 || got.Generation != 2 {
				t.Fatalf("patched %+v, %v", got, err)
			}
			stale := made.DeepCopy()
			stale.Labels = map[string]string{"a": "b"}
			if _, err = apps.Deployment.Update(ctx, h, stale); !apierrors.IsConflict(err) {
				t.Fatalf("a stale update: %v", err)
			}
			fresh := got.DeepCopy()
			fresh.Status.Replicas = 3
			if got, err = apps.Deployment.UpdateStatus(ctx, h, fresh); err != nil || got.Status.Replicas != 3 || got.Generation != 2 {
				t.Fatalf("status %+v, %v", got, err)
			}
			resp, err := h.Handle(ctx, &api.Request{Verb: api.Get, Resource: apps.Deployment.Def(), Namespace: "default", Name: "web", Sub: "scale"})
			if err != nil {
				t.Fatal(err)
			}
			if s, ok := resp.Result().(*autoscalingv1.Scale); !ok || s.Spec.Replicas != 7 || s.Status.Replicas != 3 {
				t.Fatalf("scale %+v", resp.Result())
			}
			uid := types.UID("other")
			if err := apps.Deployment.Delete(ctx, h, "default", "web", api.Options{UID: &uid}); !apierrors.IsConflict(err) {
				t.Fatalf("delete of another: %v", err)
			}
			if err := apps.Deployment.Delete(ctx, h, "default", "web", api.Options{}); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Handle(ctx, &api.Request{Verb: api.Get, Path: "/no/such"}); !apierrors.IsNotFound(err) {
				t.Fatalf("a path that is not there: %v", err)
			}
		})
	}
}

// TestFollow runs the typed client's list and watch over the wire.
func TestFollow(t *testing.T) {
	s := newShelf()
	h := serve(t, s, Config{}).dial()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := core.ConfigMap.Create(ctx, h, configMap("a", "1")); err != nil {
		t.Fatal(err)
	}
	n := 0
	for c := range core.ConfigMap.Follow(ctx, h, "", api.Selectors{}, func(err error) { t.Error(err) }) {
		switch {
		case c.Reset:
			if len(c.All) != 1 {
				t.Fatalf("reset to %d", len(c.All))
			}
		case c.Type == "BOOKMARK":
			continue
		case c.Object.Name != fmt.Sprint("n", n-1):
			t.Fatalf("change %d is of %s", n, c.Object.Name)
		}
		if n == 20 {
			return
		}
		if _, err := core.ConfigMap.Create(ctx, h, configMap(fmt.Sprint("n", n), "1")); err != nil {
			t.Fatal(err)
		}
		n++
	}
}

func TestPanicIsAnError(t *testing.T) {
	rig := serve(t, api.HandlerFunc(func(context.Context, *api.Request) (*api.Response, error) { panic("oh no") }), Config{})
	resp, body := rig.call("GET", "/api/v1/pods", "", "")
	if resp.StatusCode != 500 || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestRetryAfter(t *testing.T) {
	rig := serve(t, api.HandlerFunc(func(context.Context, *api.Request) (*api.Response, error) {
		return nil, apierrors.NewTooManyRequests("slow down", 7)
	}), Config{})
	resp, _ := rig.call("GET", "/api/v1/pods", "", "")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	_, err := core.Pod.List(t.Context(), rig.dial(), "", api.Selectors{})
	if s, ok := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !ok || s != 7 {
		t.Errorf("through Dial: %v", err)
	}
}

// TestHTTP1 checks that what cannot speak HTTP/2 is served too, watches included.
func TestHTTP1(t *testing.T) {
	s := newShelf()
	ts := httptest.NewServer(Serve(s, Config{Groups: grouped, Authenticate: byName}))
	defer ts.Close()
	h := Dial(ts.URL, &http.Client{Transport: asUser{http.DefaultTransport}})
	if _, err := core.ConfigMap.Create(t.Context(), h, configMap("a", "1")); err != nil {
		t.Fatal(err)
	}
	resp, err := h.Handle(t.Context(), &api.Request{Verb: api.Watch, Resource: core.ConfigMap.Def()})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range resp.Events {
		if err != nil || e.Item.Object().GetName() != "a" {
			t.Fatalf("%+v, %v", e, err)
		}
		break
	}
}
