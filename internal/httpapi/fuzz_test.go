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

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metascheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	kwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// FuzzRoute checks that what a path names is what its canonical path names.
func FuzzRoute(f *testing.F) {
	for _, p := range []string{"/", "/api", "/api/v1", "/api/v1/pods", "/api/v1/namespaces/x/pods/y/log", "/api/v1/namespaces/x", "/api/v1/namespaces/x/status",
		"/apis/apps/v1/namespaces/a/deployments/b/scale", "/api/v1/watch/pods", "/api/v1/watch/namespaces/x/pods/y", "/api/v1/nodes/n/proxy/a/b//c", "/apis//v1/pods", "/api/v1/pods/", "//"} {
		f.Add(p)
	}
	c := newCatalog(grouped(), nil, nil)
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
		h := Serve(s, Config{Groups: grouped, Authenticate: byName, Log: slog.New(slog.DiscardHandler)})
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

// FuzzListOptions reads queries as apimachinery's codec of parameters does.
func FuzzListOptions(f *testing.F) {
	for _, q := range []string{"", "watch", "watch=0&limit=3", "labelSelector=a+in+(b,c)&fieldSelector=metadata.name%3Dx", "resourceVersion=7&resourceVersionMatch=Exact",
		"sendInitialEvents=true&resourceVersionMatch=NotOlderThan&watch=1", "timeoutSeconds=9&allowWatchBookmarks=True", "continue=x&limit=-1", "limit=1&limit=x"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		r := &api.Request{Verb: api.List, Resource: core.ConfigMap.Def()}
		if isTrue(query, "watch") {
			r.Verb = api.Watch
		}
		err = listOptions(r, values)
		if err != nil && !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err) {
			t.Fatalf("%q: %v", query, err)
		}
		var o internalversion.ListOptions
		werr := metascheme.ParameterCodec.DecodeParameters(values, metav1.SchemeGroupVersion, &o)
		if werr != nil {
			if err == nil {
				t.Fatalf("%q: taken, apimachinery says %v", query, werr)
			}
			return
		}
		if plain := values.Encode() == query; plain && o.Watch != (r.Verb == api.Watch) {
			t.Fatalf("%q: %s, apimachinery says %v", query, r.Verb, o.Watch)
		}
		if err != nil {
			return
		}
		if o.Limit > 0 && r.At.Limit != o.Limit || r.At.Continue != o.Continue || r.At.ResourceVersion != o.ResourceVersion || r.At.Bookmarks != o.AllowWatchBookmarks {
			t.Fatalf("%q: %+v, apimachinery has %+v", query, r.At, o)
		}
		if l := o.LabelSelector; l != nil && !l.Empty() && (r.Select.Labels == nil || l.String() != r.Select.Labels.String()) {
			t.Fatalf("%q: %v, apimachinery has %v", query, r.Select.Labels, l)
		}
		again := &api.Request{Verb: r.Verb, Resource: r.Resource, Select: r.Select, At: r.At}
		if err := listOptions(again, queryOf(t, again)); err != nil {
			t.Fatalf("%q: as a client sends it: %v", query, err)
		}
	})
}

// queryOf is the query of a client that asks the same.
func queryOf(t *testing.T, r *api.Request) url.Values {
	q, err := url.ParseQuery(query(r).Encode())
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// FuzzDeleteOptions reads bodies of deletes as apimachinery does.
func FuzzDeleteOptions(f *testing.F) {
	o := &metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, Preconditions: metav1.NewUIDPreconditions("u"), DryRun: []string{"All"}}
	js, _ := json.Marshal(o)
	pb, _ := encode(o, o.GroupVersionKind(), api.MediaProtobuf)
	cb, _ := api.EncodeCBOR(o)
	for i, b := range [][]byte{js, []byte("gracePeriodSeconds: 3\n"), pb, cb} {
		f.Add(uint8(i), b)
	}
	types := []string{api.MediaJSON, api.MediaYAML, api.MediaProtobuf, api.MediaCBOR}
	serializers := map[string]runtime.Decoder{}
	for _, info := range scheme.Codecs.SupportedMediaTypes() {
		serializers[info.MediaType] = info.Serializer
	}
	serializers[api.MediaCBOR] = cbor.NewSerializer(scheme.Scheme, scheme.Scheme)
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		typ := types[which%4]
		var got metav1.DeleteOptions
		err := decodeDeleteOptions(typ, body, &got)
		want := &metav1.DeleteOptions{}
		kind := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
		o, as, werr := serializers[typ].Decode(body, &kind, want)
		if as == nil || as.Kind != "DeleteOptions" || o != want {
			return // another kind, or a group that is not known there
		}
		if (err == nil) != (werr == nil) {
			t.Fatalf("%s %q: %v, apimachinery says %v", typ, body, err, werr)
		}
		want.TypeMeta = got.TypeMeta
		if err == nil && !equality.Semantic.DeepEqual(*want, got) {
			t.Fatalf("%s %q: %+v, apimachinery has %+v", typ, body, got, want)
		}
	})
}

// FuzzNegotiate reads Accept headers as the autonegotiation of Kubernetes does.
func FuzzNegotiate(f *testing.F) {
	for _, a := range []string{"*/*", "application/json;q=0.3, application/yaml", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", ";;;", "application/cbor-seq"} {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		req := &http.Request{URL: &url.URL{}, Header: http.Header{"Accept": {accept}}}
		m, ok := negotiate(req, anyMedia)
		if m.as != asItself || contentTypes[m.typ] == nil {
			t.Fatalf("%q: %+v", accept, m)
		}
		if !ok && m.typ != api.MediaJSON {
			t.Fatalf("%q: nothing to be had, and yet %s", accept, m.typ)
		}
	})
}
