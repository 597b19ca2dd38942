package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	kwatch "k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
		Data: map[string]string{"k": value}}
}

// bothSides runs a test on a Handler and on the same Handler over the wire.
func bothSides(t *testing.T, f func(t *testing.T, h api.Handler, s *shelf)) {
	t.Run("in process", func(t *testing.T) {
		s := newShelf()
		f(t, s, s)
	})
	t.Run("over the wire", func(t *testing.T) {
		s := newShelf()
		f(t, serve(t, s, Config{}).dial(), s)
	})
}

func TestRoundTrip(t *testing.T) {
	bothSides(t, func(t *testing.T, h api.Handler, s *shelf) {
		ctx := t.Context()
		made, err := core.ConfigMap.Create(ctx, h, configMap("a", "1"))
		if err != nil {
			t.Fatal(err)
		}
		if made.ResourceVersion != "1" || made.Kind != "ConfigMap" || made.Data["k"] != "1" {
			t.Fatalf("created %+v", made)
		}
		_, err = core.ConfigMap.Create(ctx, h, configMap("a", "1"))
		if !apierrors.IsAlreadyExists(err) {
			t.Fatalf("a second create: %v", err)
		}
		got, err := core.ConfigMap.Get(ctx, h, "default", "a")
		if err != nil || !equality.Semantic.DeepEqual(got, made) {
			t.Fatalf("got %+v, %v", got, err)
		}
		_, err = core.ConfigMap.Get(ctx, h, "default", "nobody")
		if !apierrors.IsNotFound(err) || err.Error() != `configmaps "nobody" not found` {
			t.Fatalf("absent: %v", err)
		}
		changed := got.DeepCopy()
		changed.Data["k"] = "2"
		if got, err = core.ConfigMap.Update(ctx, h, changed); err != nil || got.Data["k"] != "2" || got.ResourceVersion != "2" {
			t.Fatalf("updated %+v, %v", got, err)
		}
		for i := range 5 {
			if _, err := core.ConfigMap.Create(ctx, h, configMap(fmt.Sprint("b", i), "x")); err != nil {
				t.Fatal(err)
			}
		}
		all, err := core.ConfigMap.List(ctx, h, "default", api.Selectors{})
		if err != nil || len(all) != 6 || all[0].Name != "a" || all[5].Data["k"] != "x" || all[3].Kind != "ConfigMap" {
			t.Fatalf("list %+v, %v", all, err)
		}
		some, err := core.ConfigMap.List(ctx, h, "", api.WithLabels(map[string]string{"app": "b3"}))
		if err != nil || len(some) != 1 || some[0].Name != "b3" {
			t.Fatalf("by label %+v, %v", some, err)
		}
		some, err = core.ConfigMap.List(ctx, h, "", api.WithField("metadata.name", "b4"))
		if err != nil || len(some) != 1 || some[0].Name != "b4" {
			t.Fatalf("by field %+v, %v", some, err)
		}
		for _, none := range []api.Selectors{{Labels: labels.Nothing()}, {Fields: fields.Nothing()}} {
			if some, err = core.ConfigMap.List(ctx, h, "", none); err != nil || len(some) != 0 {
				t.Fatalf("nothing: %+v, %v", some, err)
			}
		}
		uid, grace := "u-1", int64(7)
		orphan := metav1.DeletePropagationOrphan
		if err := core.ConfigMap.Delete(ctx, h, "default", "a", api.Options{ResourceVersion: &uid, GracePeriod: &grace, Propagation: &orphan, DryRun: true}); err != nil {
			t.Fatal(err)
		}
		o := s.last.Options
		if *o.ResourceVersion != "u-1" || *o.GracePeriod != 7 || *o.Propagation != orphan || !o.DryRun {
			t.Fatalf("delete options arrived as %+v", o)
		}
	})
}

func TestWatchRoundTrip(t *testing.T) {
	bothSides(t, func(t *testing.T, h api.Handler, s *shelf) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		resp, err := h.Handle(ctx, &api.Request{Verb: api.Watch, Resource: core.ConfigMap.Def(), Namespace: "default", At: api.Version{Bookmarks: true}})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			o, _ := core.ConfigMap.Create(ctx, h, configMap("a", "1"))
			core.ConfigMap.Update(ctx, h, o.DeepCopy())
			core.ConfigMap.Delete(ctx, h, "default", "a", api.Options{})
		}()
		var seen []string
		for e, err := range resp.Events {
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == kwatch.Bookmark {
				if !e.InitialEnd || e.Item != nil {
					t.Fatalf("bookmark %+v", e)
				}
				continue
			}
			seen = append(seen, fmt.Sprint(e.Type, " ", e.Revision, " ", e.Item.Object().GetName(), " ", e.Item.Object().GetResourceVersion()))
			if len(seen) == 3 {
				break
			}
		}
		if got, want := strings.Join(seen, "; "), "ADDED 1 a 1; MODIFIED 2 a 2; DELETED 3 a 3"; got != want {
			t.Fatalf("saw %s, want %s", got, want)
		}
		resp, err = h.Handle(ctx, &api.Request{Verb: api.Watch, Resource: core.ConfigMap.Def(), At: api.Version{ResourceVersion: "666"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range resp.Events {
			if !apierrors.IsResourceExpired(err) {
				t.Fatalf("an expired watch ended with %v", err)
			}
		}
	})
}

// call sends one request and returns the answer and its body.
func (r *rig) call(method, path, accept, body string, headers ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, string(b)
}

func TestLists(t *testing.T) {
	s := newShelf()
	rig := serve(t, s, Config{})
	const n = 300
	for i := range n {
		s.put(core.ConfigMap.Def(), configMap(fmt.Sprintf("cm-%03d", i), strings.Repeat("x", 1000)), kwatch.Added)
	}
	for _, accept := range []string{api.MediaJSON, api.MediaYAML, api.MediaProtobuf, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
		"application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"} {
		for _, zip := range []string{"gzip", "identity"} {
			resp, body := rig.call("GET", "/api/v1/configmaps", accept, "", "Accept-Encoding", zip)
			if got := resp.Header.Get("Content-Encoding"); (got == "gzip") != (zip == "gzip") && len(body) > gzipFrom {
				t.Errorf("%s, %s: Content-Encoding %q of %d bytes", accept, zip, got, len(body))
			}
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != mediaOf(accept) {
				t.Errorf("%s: %d %s", accept, resp.StatusCode, resp.Header.Get("Content-Type"))
			}
		}
	}
	_, body := rig.call("GET", "/api/v1/configmaps", "", "")
	var l corev1.ConfigMapList
	if err := json.Unmarshal([]byte(body), &l); err != nil {
		t.Fatal(err)
	}
	if len(l.Items) != n || l.Kind != "ConfigMapList" || l.APIVersion != "v1" || l.ResourceVersion != fmt.Sprint(n) || l.Items[7].Name != "cm-007" {
		t.Fatalf("%d items of %s", len(l.Items), l.Kind)
	}
	if l.Items[7].Kind != "" || strings.Contains(body, `"kind":"ConfigMap"`) {
		t.Error("the items of a list name their kind")
	}
	_, body = rig.call("GET", "/api/v1/configmaps", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "")
	var p metav1.PartialObjectMetadataList
	if err := json.Unmarshal([]byte(body), &p); err != nil || len(p.Items) != n || p.Kind != "PartialObjectMetadataList" || p.Items[0].Kind != "PartialObjectMetadata" {
		t.Fatalf("partial list: %v, %d items, %s", err, len(p.Items), p.Kind)
	}
	_, body = rig.call("GET", "/api/v1/pods", "", "")
	if want := `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"300"},"items":[]}` + "\n"; body != want {
		t.Errorf("empty list %s", body)
	}
}

func TestTables(t *testing.T) {
	s := newShelf()
	rig := serve(t, s, Config{})
	s.put(core.ConfigMap.Def(), configMap("a", "1"), kwatch.Added)
	const accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
	for path, wantObject := range map[string]string{
		"/api/v1/namespaces/default/configmaps":                        "PartialObjectMetadata",
		"/api/v1/namespaces/default/configmaps/a":                      "PartialObjectMetadata",
		"/api/v1/namespaces/default/configmaps?includeObject=Object":   "ConfigMap",
		"/api/v1/namespaces/default/configmaps?includeObject=None":     "",
		"/api/v1/namespaces/default/configmaps/a?includeObject=Object": "ConfigMap",
	} {
		_, body := rig.call("GET", path, accept, "")
		var tab metav1.Table
		if err := json.Unmarshal([]byte(body), &tab); err != nil {
			t.Fatalf("%s: %v in %s", path, err, body)
		}
		if tab.Kind != "Table" || tab.APIVersion != "meta.k8s.io/v1" || len(tab.Rows) != 1 || tab.ResourceVersion != "1" {
			t.Fatalf("%s: %s", path, body)
		}
		if len(tab.ColumnDefinitions) != 3 || tab.ColumnDefinitions[0].Name != "Name" || tab.ColumnDefinitions[0].Format != "name" {
			t.Errorf("%s: columns %+v", path, tab.ColumnDefinitions)
		}
		if c := tab.Rows[0].Cells; c[0] != "a" || c[1] != 1.0 {
			t.Errorf("%s: cells %v", path, c)
		}
		var o metav1.PartialObjectMetadata
		if raw := tab.Rows[0].Object.Raw; string(raw) != "null" && raw != nil {
			if err := json.Unmarshal(raw, &o); err != nil || o.Name != "a" {
				t.Errorf("%s: object %s", path, raw)
			}
		}
		if o.Kind != wantObject {
			t.Errorf("%s: a row's object is a %q, want %q", path, o.Kind, wantObject)
		}
	}
	resp, body := rig.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json;as=Table;v=v1;g=meta.k8s.io", `{}`)
	if resp.StatusCode != http.StatusNotAcceptable || !strings.Contains(body, `"reason":"NotAcceptable"`) {
		t.Errorf("a review as a table: %d %s", resp.StatusCode, body)
	}
}

func TestTableWatch(t *testing.T) {
	s := newShelf()
	rig := serve(t, s, Config{})
	s.put(core.ConfigMap.Def(), configMap("a", "1"), kwatch.Added)
	s.put(core.ConfigMap.Def(), configMap("b", "1"), kwatch.Added)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", rig.URL+"/api/v1/configmaps?watch=true", nil)
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	resp, err := rig.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := json.NewDecoder(resp.Body)
	for i := range 2 {
		var e struct {
			Type   string
			Object metav1.Table
		}
		if err := in.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Type != "ADDED" || len(e.Object.Rows) != 1 || (e.Object.ColumnDefinitions != nil) != (i == 0) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
}

func TestErrors(t *testing.T) {
	s := newShelf()
	rig := serve(t, s, Config{MaxBody: 4096})
	s.put(core.ConfigMap.Def(), configMap("a", "1"), kwatch.Added)
	cm := "/api/v1/namespaces/default/configmaps"
	for _, c := range []struct {
		method, path, body string
		code               int
		says               string
		headers            []string
	}{
		{"GET", cm + "/nobody", "", 404, `configmaps \"nobody\" not found`, nil},
		{"GET", "/api/v1/namespaces/default/nosuch", "", 404, "could not find the requested resource", nil},
		{"GET", "/denied", "", 403, "Forbidden", nil},
		{"GET", cm + "?fieldSelector=spec.x%3D1", "", 400, `\"spec.x\" is not a known field selector`, nil},
		{"GET", cm + "?fieldSelector=a", "", 400, "invalid selector", nil},
		{"GET", cm + "?labelSelector=a%3D%3D%3D", "", 400, "BadRequest", nil},
		{"GET", cm + "?limit=x", "", 400, "BadRequest", nil},
		{"GET", cm + "?resourceVersionMatch=Exact", "", 422, "resourceVersionMatch is forbidden unless resourceVersion is provided", nil},
		{"GET", cm + "?watch=1&sendInitialEvents=true", "", 422, "sendInitialEvents requires setting resourceVersionMatch", nil},
		{"POST", cm + "?dryRun=some", "{}", 422, `dryRun: Unsupported value`, nil},
		{"POST", cm + "?fieldValidation=odd", "{}", 422, `fieldValidation: Unsupported value`, nil},
		{"POST", cm, "{}", 415, "UnsupportedMediaType", []string{"Content-Type", "text/plain"}},
		{"PATCH", cm + "/a", "{}", 415, "application/apply-patch+yaml", []string{"Content-Type", "application/json"}},
		{"PATCH", cm + "/a?force=true", "{}", 422, "may not be specified for non-apply patch", []string{"Content-Type", "application/merge-patch+json"}},
		{"PATCH", cm + "/a", "{}", 422, "fieldManager: Required value", []string{"Content-Type", "application/apply-patch+yaml"}},
		{"POST", cm, strings.Repeat(" ", 5000), 413, "RequestEntityTooLarge", nil},
		{"POST", "/api/v1/configmaps", "{}", 405, "MethodNotAllowed", nil},
		{"POST", cm + "/a", "{}", 405, "MethodNotAllowed", nil},
		{"PUT", cm, "{}", 405, "MethodNotAllowed", nil},
		{"BREW", cm, "", 405, "MethodNotAllowed", nil},
		{"GET", cm, "", 406, "only the following media types are accepted", []string{"Accept", "text/html"}},
		{"GET", cm + "?watch=1", "", 406, "NotAcceptable", []string{"Accept", "application/yaml"}},
		{"GET", cm, "", 403, "impersonation", []string{"Impersonate-User", "root"}},
		{"DELETE", cm + "/a", `{"kind":"Pod"}`, 400, "cannot be converted to DeleteOptions", nil},
		{"DELETE", cm + "/a?propagationPolicy=odd", ``, 422, "propagationPolicy", nil},
		{"GET", "/api/v1/nodes/n/proxy2", "", 404, "NotFound", nil},
		{"GET", "/api/v1/namespaces/x/nodes", "", 404, "NotFound", nil},
		{"GET", "/api/v1/pods/x", "", 404, "NotFound", nil},
		{"GET", "/api/v1//pods", "", 404, "NotFound", nil},
	} {
		resp, body := rig.call(c.method, c.path, "", c.body, c.headers...)
		if resp.StatusCode != c.code || !strings.Contains(body, c.says) || !strings.Contains(body, `"kind":"Status"`) {
			t.Errorf("%s %s: %d %s, want %d and %q", c.method, c.path, resp.StatusCode, body, c.code, c.says)
		}
	}
}

func TestAuthentication(t *testing.T) {
	s := newShelf()
	rig := serve(t, s, Config{})
	ask := func(path string, headers ...string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", rig.URL+path, nil)
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := rig.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, body := ask("/api/v1/pods"); code != 401 || !strings.Contains(body, `"reason":"Unauthorized"`) {
		t.Errorf("an unknown client: %d %s", code, body)
	}
	if code, _ := ask("/livez", "Authorization", "Bearer wrong"); code != 401 {
		t.Errorf("wrong credentials on an open path: %d", code)
	}
	for _, p := range []string{"/livez", "/readyz", "/healthz", "/version"} {
		code, _ := ask(p)
		if code != 200 || s.last.User.Name != api.UserAnonymous || s.last.Path != p || s.last.Verb != "get" {
			t.Errorf("%s: %d as %q", p, code, s.last.User.Name)
		}
	}
	if _, err := core.Pod.List(t.Context(), api.As(api.User{Name: "jane"}, rig.dial()), "", api.Selectors{}); err != nil || s.last.User.Name != "jane" {
		t.Errorf("list as %q, %v", s.last.User.Name, err)
	}
}

func TestHeadersAndForms(t *testing.T) {
	s := newShelf()
	rig := serve(t, s, Config{})
	resp, body := rig.call("POST", "/api/v1/namespaces/default/configmaps?fieldManager=me&dryRun=All&fieldValidation=Warn", "", `{"metadata":{"name":"a"},"data":{"k":"v"}}`,
		"Audit-Id", "mine")
	if resp.StatusCode != 201 || resp.Header.Get("Warning") != `299 - "say \"hi\""` || resp.Header.Get("Audit-Id") != "mine" {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	if o := s.last.Options; o.FieldManager != "me" || !o.DryRun || o.FieldValidation != "Warn" {
		t.Errorf("options %+v", o)
	}
	rig.call("PUT", "/api/v1/namespaces/default/configmaps/a", "", `{"metadata":{"name":"a"}}`, "User-Agent", "kubectl/v1.37")
	if m := s.last.Options.FieldManager; m != "kubectl" {
		t.Errorf("field manager %q", m)
	}
	resp, body = rig.call("GET", "/api/v1/namespaces/default/configmaps/a", "", "")
	if len(resp.Header.Get("Audit-Id")) != 36 || resp.Header.Get("Content-Type") != "application/json" || !strings.HasPrefix(body, `{"kind":"ConfigMap",`) {
		t.Errorf("%v %s", resp.Header, body)
	}
	_, body = rig.call("GET", "/api/v1/namespaces/default/configmaps/a?pretty=true", "", "")
	if !strings.HasPrefix(body, "{\n  \"kind\"") {
		t.Errorf("not pretty: %s", body)
	}
	_, body = rig.call("GET", "/api/v1/namespaces/default/configmaps/a", "application/yaml", "")
	if !strings.HasPrefix(body, "apiVersion: v1\n") {
		t.Errorf("not YAML: %s", body)
	}
	resp, body = rig.call("HEAD", "/api/v1/namespaces/default/configmaps/a", "", "")
	if resp.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d %q", resp.StatusCode, body)
	}
	_, body = rig.call("GET", "/api/v1/namespaces/default/pods/p/log?follow=true", "*/*", "")
	if body != "stream of p follow=true" {
		t.Errorf("log: %s", body)
	}
	resp, body = rig.call("GET", "/api/v1/watch/namespaces/default/configmaps/a?timeoutSeconds=1", "", "")
	if resp.StatusCode != 200 || strings.Count(body, "\n") != 2 || s.last.Select.Fields.String() != "metadata.name=a" {
		t.Errorf("old watch path: %s", body)
	}
}

func TestWatchEndsOnShutdown(t *testing.T) {
	s := newShelf()
	rig := serve(t, s, Config{})
	resp, err := rig.client().Get(rig.URL + "/api/v1/configmaps?watch=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := rig.Config.Shutdown(ctx); err != nil {
		t.Fatalf("shutdown with a watch open: %v", err)
	}
	if b, err := io.ReadAll(bufio.NewReader(resp.Body)); err != nil || len(bytes.TrimSpace(b)) != 0 {
		t.Fatalf("the watch ended with %q, %v", b, err)
	}
}

func TestHealth(t *testing.T) {
	sick := fmt.Errorf("secret reason")
	var ill error
	rig := serve(t, newShelf(), Config{Checks: []Check{
		{Name: "store", Probe: func(context.Context) error { return nil }},
		{Name: "sync", Ready: true, Probe: func(context.Context) error { return ill }},
	}})
	for path, want := range map[string]string{
		"/readyz?verbose":                     "[+]ping ok\n[+]store ok\n[+]sync ok\n[+]shutdown ok\nreadyz check passed\n",
		"/livez?verbose":                      "[+]ping ok\n[+]store ok\nlivez check passed\n",
		"/healthz?verbose=":                   "[+]ping ok\n[+]store ok\n[+]sync ok\nhealthz check passed\n",
		"/livez?verbose&exclude=store":        "[+]ping ok\n[+]store excluded: ok\nlivez check passed\n",
		"/livez?verbose&exclude=a&exclude=no": "[+]ping ok\n[+]store ok\nwarn: some health checks cannot be excluded: no matches for \"a\",\"no\"\nlivez check passed\n",
		"/livez":                              "ok",
		"/livez/ping":                         "ok",
		"/readyz/shutdown":                    "ok",
	} {
		if resp, body := rig.call("GET", path, "", ""); body != want || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	ill = sick
	if resp, body := rig.call("GET", "/readyz", "", ""); body != "[+]ping ok\n[+]store ok\n[-]sync failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n" || resp.StatusCode != 500 {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	for path, want := range map[string]int{"/livez": 200, "/readyz/store": 200, "/readyz/sync": 500, "/livez/sync": 404, "/readyz?exclude=sync": 200, "/readyz/nothing": 404} {
		if resp, body := rig.call("GET", path, "", ""); resp.StatusCode != want || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}
