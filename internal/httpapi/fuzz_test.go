package httpapi

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kwatch "k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// FuzzRoute checks that what a path names is what its canonical path names.
func FuzzRoute(f *testing.F) {
	for _, p := range []string{"/", "/api", "/api/v1", "/api/v1/pods", "/api/v1/namespaces/x/pods/y/log", "/api/v1/namespaces/x", "/api/v1/namespaces/x/status",
		"/apis/apps/v1/namespaces/a/deployments/b/scale", "/api/v1/watch/pods", "/api/v1/watch/namespaces/x/pods/y", "/api/v1/nodes/n/proxy/a/b//c", "/apis//v1/pods", "/api/v1/pods/", "//"} {
		f.Add(p)
	}
	c := newCatalog(builtin())
	f.Fuzz(func(t *testing.T, path string) {
		got := c.route(path)
		if got.res == nil {
			return
		}
		again := got.res.Path(got.ns)
		for _, part := range []string{got.name, got.sub} {
			if part != "" {
				again += "/" + part
			}
		}
		if got.watch {
			again = strings.Replace(again, got.res.GroupVersion().Version+"/", got.res.GroupVersion().Version+"/watch/", 1)
		}
		if strings.Contains(got.ns+got.name+got.sub, "/") {
			t.Fatalf("%q has a part with a slash: %+v", path, got)
		}
		if c.route(again) != got {
			t.Fatalf("%q names %+v, but %q names %+v", path, got, again, c.route(again))
		}
	})
}

// FuzzServe throws anything at the server: it must never fail on its own
// account, and every refusal must be a Status.
func FuzzServe(f *testing.F) {
	f.Add("GET", "/api/v1/namespaces/default/configmaps/a", "", "application/yaml", "", []byte(nil))
	f.Add("GET", "/api/v1/configmaps", "limit=1&fieldSelector=metadata.name=a&labelSelector=a in (b)&resourceVersionMatch=Exact", "application/json;as=Table;g=meta.k8s.io;v=v1", "", []byte(nil))
	f.Add("POST", "/api/v1/namespaces/default/configmaps", "dryRun=All&fieldManager=x", "application/vnd.kubernetes.protobuf", "application/json", []byte(`{"metadata":{"name":"b"}}`))
	f.Add("POST", "/api/v1/namespaces/default/configmaps", "", "", "application/vnd.kubernetes.protobuf", []byte("k8s\x00\x0a\x02\x08\x01"))
	f.Add("DELETE", "/api/v1/namespaces/default/configmaps/a", "gracePeriodSeconds=-1", "", "application/json", []byte(`{"kind":"DeleteOptions","preconditions":{"uid":"x"}}`))
	f.Add("DELETE", "/api/v1/namespaces/default/configmaps/a", "", "", "application/vnd.kubernetes.protobuf", []byte("k8s\x00"))
	f.Add("PATCH", "/api/v1/namespaces/default/configmaps/a", "force=true", "*/*;q=0.1", "application/apply-patch+yaml", []byte(`{}`))
	f.Add("GET", "/apis", "", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "", []byte(nil))
	f.Add("GET", "/openapi/v3/apis/apps/v1", "hash=x", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, method, path, query, accept, typ string, body []byte) {
		if strings.Contains(query, "watch") || strings.Contains(path, "/watch") {
			return // does not end
		}
		s := newShelf()
		s.put(core.ConfigMap.Def(), configMap("a", "1"), kwatch.Added)
		h := Serve(s, Config{Kinds: builtin, Authenticate: byName, Log: slog.New(slog.DiscardHandler)})
		req := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{"X-Test-User": {"u"}},
			Body: http.NoBody, ContentLength: int64(len(body))}
		if len(body) > 0 {
			req.Body = readCloser{bytes.NewReader(body)}
		}
		if accept != "" {
			req.Header.Set("Accept", accept)
		}
		if typ != "" {
			req.Header.Set("Content-Type", typ)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code >= 400 && w.Header().Get("Content-Type") == api.MediaJSON {
			var st metav1.Status
			if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil || st.Kind != "Status" || int(st.Code) != w.Code {
				t.Fatalf("%d with %s, %v", w.Code, w.Body, err)
			}
		}
	})
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// FuzzDial feeds answers to the client's readers.
func FuzzDial(f *testing.F) {
	f.Add([]byte(`{"kind":"ConfigMapList","items":[{"metadata":{"name":"a"}}]}`), false)
	b, err := api.NewItem(core.ConfigMap.Def(), 7, nil, configMap("a", "1")).Protobuf(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, true)
	f.Fuzz(func(t *testing.T, b []byte, protobuf bool) {
		typ := api.MediaJSON
		if protobuf {
			typ = api.MediaProtobuf
		}
		r := &api.Request{Verb: api.Get, Resource: core.ConfigMap.Def()}
		if l, err := readList(r.Resource, typ, b); err == nil {
			for _, i := range l.Items {
				if _, err := i.JSON(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = readResult(r, typ, b, &api.Response{}) // must not panic
	})
}
