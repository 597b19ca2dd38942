package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/api/remote"
)

var (
	fruitV1  = schema.GroupVersion{Group: "fruit.example.com", Version: "v1"}
	fruitV2  = schema.GroupVersion{Group: "fruit.example.com", Version: "v2"}
	batchV1  = schema.GroupVersion{Group: "batch", Version: "v1"}
	eagerV1  = schema.GroupVersion{Group: "eager.example.com", Version: "v1"}
	farPlain = discoveryv2.DiscoveryFreshnessCurrent
)

func farVersion(gv schema.GroupVersion, hash string, resources ...string) *remote.Version {
	v := &remote.Version{GroupVersion: gv, OpenAPI: hash, Discovery: discoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: farPlain}}
	for _, r := range resources {
		v.Discovery.Resources = append(v.Discovery.Resources, discoveryv2.APIResourceDiscovery{Resource: r, Scope: discoveryv2.ScopeNamespace, ResponseKind: &metav1.GroupVersionKind{}})
	}
	return v
}

// farCatalog serves fruit twice, v1 preferred, takes batch/v1 over, and puts a group before all others.
func farCatalog() *remote.Catalog {
	return &remote.Catalog{
		Versions: map[schema.GroupVersion]*remote.Version{
			fruitV1: farVersion(fruitV1, "ABC", "apples"), fruitV2: farVersion(fruitV2, ""), batchV1: farVersion(batchV1, "", "batches"),
			eagerV1: farVersion(eagerV1, ""),
		},
		Priorities: map[schema.GroupVersion]remote.Priority{fruitV1: {Group: 10, Version: 20}, fruitV2: {Group: 2000, Version: 10}, eagerV1: {Group: 19000, Version: 1}},
	}
}

func TestElsewhere(t *testing.T) {
	c := newCatalog(grouped(), farCatalog(), nil)
	for _, q := range []struct{ method, path, query, want string }{
		{"GET", "/apis/fruit.example.com/v1/apples", "", "list apples"},
		{"GET", "/apis/fruit.example.com/v1/apples/", "", "list apples"},
		{"HEAD", "/apis/fruit.example.com/v1/apples", "watch=false", "list apples"},
		{"GET", "/apis/fruit.example.com/v1/apples", "watch", "watch apples"},
		{"GET", "/apis/fruit.example.com/v1/apples", "watch=0&watch=1", "list apples"},
		{"GET", "/apis/fruit.example.com/v1/namespaces/a/apples", "watch=true", "watch apples in a"},
		{"GET", "/apis/fruit.example.com/v1/namespaces/a/apples/x", "watch=true", "get apples in a named x"},
		{"PUT", "/apis/fruit.example.com/v1/namespaces/a/apples/x/status", "", "update apples/status in a named x"},
		{"POST", "/apis/fruit.example.com/v1/namespaces/a/apples/x/exec/more/here", "", "create apples/exec in a named x"},
		{"PATCH", "/apis/fruit.example.com/v1/apples/x", "", "patch apples named x"},
		{"DELETE", "/apis/fruit.example.com/v1/apples/x", "", "delete apples named x"},
		{"DELETE", "/apis/fruit.example.com/v1/namespaces/a/apples", "", "deletecollection apples in a"},
		{"GET", "/apis/fruit.example.com/v1/namespaces", "", "list namespaces"},
		{"GET", "/apis/fruit.example.com/v1/namespaces/a", "", "get namespaces in a named a"},
		{"PUT", "/apis/fruit.example.com/v1/namespaces/a/finalize", "", "update namespaces/finalize in a named a"},
		{"GET", "/apis/fruit.example.com/v1/watch/namespaces/a/apples", "", "watch apples in a"},
		{"GET", "/apis/fruit.example.com/v1/watch/apples/x", "", "watch apples named x"},
		{"DELETE", "/apis/fruit.example.com/v1/proxy/apples/x/y", "", "proxy apples named x"},
		{"GET", "/apis/fruit.example.com/v1/watch", "", "watch "},
		{"GET", "/apis/fruit.example.com/v1//apples", "", "get  named apples"},
		{"OPTIONS", "/apis/fruit.example.com/v1/apples", "", " apples"},
		{"GET", "/apis/batch/v1/jobs", "", "list jobs"},
		{"GET", "/apis/fruit.example.com/v1", "", "none"},
		{"GET", "/apis/fruit.example.com/v1/", "", "none"},
		{"GET", "/apis/fruit.example.com/v3/apples", "", "none"},
		{"GET", "/apis//fruit.example.com/v1/apples", "", "none"},
		{"GET", "//apis/fruit.example.com/v1/apples", "", "none"},
		{"GET", "/api/v1/pods", "", "none"},
	} {
		req := httptest.NewRequest(q.method, "/", nil)
		req.URL.RawQuery = q.query
		got := "none"
		if to, ok := c.elsewhere(q.path); ok {
			got = string(farVerb(req, &to)) + " " + to.res.Resource.Resource
			if to.sub != "" {
				got += "/" + to.sub
			}
			if to.ns != "" {
				got += " in " + to.ns
			}
			if to.name != "" {
				got += " named " + to.name
			}
		}
		if got != q.want {
			t.Errorf("%s %s?%s: %q, want %q", q.method, q.path, q.query, got, q.want)
		}
	}
}

// passer stands in for the aggregator: it answers what is served elsewhere.
type passer struct {
	*shelf
	last *api.Request
	gone bool
}

func (p *passer) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	if r.Resource == nil || r.Resource.New != nil {
		return p.shelf.Handle(ctx, r)
	}
	p.last = r
	switch {
	case p.gone:
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	case r.Name == "dead":
		return nil, apierrors.NewServiceUnavailable("it is dead")
	}
	return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, "far ", req.URL.Path)
	})}, nil
}

func TestPassOn(t *testing.T) {
	p := &passer{shelf: newShelf()}
	far := farCatalog()
	rig := serve(t, p, Config{Remote: func() *remote.Catalog { return far }})
	resp, body := rig.call("GET", "/apis/fruit.example.com/v1/namespaces/a/apples?fieldSelector=metadata.name%3Dx&labelSelector=a%3Db", "", "")
	if resp.StatusCode != http.StatusTeapot || body != "far /apis/fruit.example.com/v1/namespaces/a/apples" || resp.Header.Get("Audit-Id") == "" {
		t.Errorf("%d %s %v", resp.StatusCode, body, resp.Header)
	}
	if r := p.last; r.Verb != api.List || r.Namespace != "a" || r.Select.Fields.String() != "metadata.name=x" || r.Select.Labels.String() != "a=b" || r.HTTP == nil {
		t.Errorf("%+v", r)
	}
	if rig.call("GET", "/apis/fruit.example.com/v1/apples?fieldSelector=metadata.name%3D..", "", ""); p.last.Select.Fields != nil && !p.last.Select.Fields.Empty() {
		t.Errorf("a name that is none decides: %v", p.last.Select.Fields)
	}
	if resp, body := rig.call("GET", "/apis/fruit.example.com/v1/apples/dead", "", ""); resp.StatusCode != 503 || !strings.Contains(body, `"message":"it is dead"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	p.last = nil
	for _, path := range []string{"/apis/fruit.example.com/v1//apples", "/apis/fruit.example.com/v1/watch", "/apis/fruit.example.com/v1/watch//apples"} {
		if resp, body := rig.call("GET", path, "", ""); resp.StatusCode != 400 || p.last != nil {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	p.gone = true
	if resp, _ := rig.call("GET", "/apis/fruit.example.com/v1/apples/x", "", ""); resp.StatusCode != 404 {
		t.Errorf("gone: %d", resp.StatusCode)
	}
}

func TestFarDiscovery(t *testing.T) {
	far := atomic.Pointer[remote.Catalog]{}
	far.Store(farCatalog())
	rig := serve(t, newShelf(), Config{Remote: far.Load})
	_, body := rig.call("GET", "/apis", "", "")
	groups := decode[metav1.APIGroupList](t, body)
	var names []string
	for _, g := range groups.Groups {
		names = append(names, g.Name)
	}
	if names[0] != "apiregistration.k8s.io" || names[1] != "eager.example.com" || names[2] != "apps" || slices.Index(names, "fruit.example.com") < slices.Index(names, "storagemigration.k8s.io") {
		t.Errorf("%v", names)
	}
	fruit := groups.Groups[slices.Index(names, "fruit.example.com")]
	if fruit.PreferredVersion.Version != "v1" || len(fruit.Versions) != 2 {
		t.Errorf("%+v", fruit)
	}
	const accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	find := func(group string) (out []string) {
		_, body := rig.call("GET", "/apis", accept, "")
		for _, g := range decode[discoveryv2.APIGroupDiscoveryList](t, body).Items {
			for _, v := range g.Versions {
				for _, r := range v.Resources {
					if g.Name == group {
						out = append(out, fmt.Sprint(v.Version, " ", r.Resource, " ", v.Freshness))
					}
				}
			}
		}
		return out
	}
	if got := find("batch"); !slices.Equal(got, []string{"v1 batches Current"}) {
		t.Errorf("what another server has taken over: %v", got)
	}
	next := farCatalog()
	delete(next.Versions, batchV1)
	v := farVersion(fruitV1, "ABC", "apples")
	v.Discovery.Freshness = discoveryv2.DiscoveryFreshnessStale
	next.Versions[fruitV1] = v
	far.Store(next)
	if got := find("batch"); len(got) < 2 || !slices.Contains(got, "v1 jobs Current") {
		t.Errorf("given back: %v", got)
	}
	if got := find("fruit.example.com"); !slices.Equal(got, []string{"v1 apples Stale"}) {
		t.Errorf("%v", got)
	}
	_, body = rig.call("GET", "/openapi/v3", "", "")
	paths := decode[struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}](t, body).Paths
	if got := paths["apis/fruit.example.com/v1"].ServerRelativeURL; got != "/openapi/v3/apis/fruit.example.com/v1?hash=ABC" {
		t.Errorf("%q", got)
	}
	if _, ok := paths["apis/fruit.example.com/v2"]; ok || paths["apis/apps/v1"].ServerRelativeURL == "" {
		t.Errorf("%v", paths)
	}
}

// A group that nothing happens to is the same before and after.
func TestFarShares(t *testing.T) {
	src := grouped()
	far := farCatalog()
	before := newCatalog(src, far, nil)
	next := farCatalog()
	for gv, v := range far.Versions {
		next.Versions[gv] = v
	}
	next.Versions[fruitV1] = farVersion(fruitV1, "NEW", "apples")
	after := newCatalog(src, next, before)
	if !after.of(src, next) || after.of(src, far) {
		t.Error("the catalog does not know what it is of")
	}
	for _, name := range []string{"apps", "batch", "eager.example.com"} {
		if before.group(name) != after.group(name) {
			t.Errorf("%s is made anew", name)
		}
	}
	if before.group(fruitV1.Group) == after.group(fruitV1.Group) {
		t.Error("a changed group is the same")
	}
	if g := newCatalog(src, nil, after); g.group(fruitV1.Group) != nil || len(g.groups) != len(src) {
		t.Error("a group that nobody serves stays")
	}
}

func TestFarOpenAPI2(t *testing.T) {
	var doc atomic.Pointer[string]
	set := func(s string) { doc.Store(&s) }
	far := farCatalog()
	far.Versions[fruitV1].V2 = func(context.Context) ([]byte, string) { return []byte(*doc.Load()), *doc.Load() }
	far.Versions[eagerV1].V2 = func(context.Context) ([]byte, string) { return nil, "" }
	set(`{"paths":{"/apis/fruit.example.com/v1/apples":{"get":{"description":"list apples"}},"/apis/else/v1/x":{}},"definitions":{}}`)
	rig := serve(t, newShelf(), Config{Remote: func() *remote.Catalog { return far }})
	resp, body := rig.call("GET", "/openapi/v2", "", "")
	paths := decode[struct{ Paths map[string]json.RawMessage }](t, body).Paths
	if string(paths["/apis/fruit.example.com/v1/apples"]) != `{"get":{"description":"list apples"}}` || paths["/apis/else/v1/x"] != nil || paths["/apis/apps/v1/deployments"] == nil {
		t.Errorf("%d %s", len(paths), paths["/apis/fruit.example.com/v1/apples"])
	}
	tag := resp.Header.Get("ETag")
	if resp, _ := rig.call("GET", "/openapi/v2", "", "", "If-None-Match", tag); resp.StatusCode != http.StatusNotModified {
		t.Errorf("asked again: %d", resp.StatusCode)
	}
	set(`broken`)
	resp, body = rig.call("GET", "/openapi/v2", "", "", "If-None-Match", tag)
	paths = decode[struct{ Paths map[string]json.RawMessage }](t, body).Paths
	if resp.StatusCode != 200 || paths["/apis/fruit.example.com/v1/apples"] != nil || paths["/apis/apps/v1/deployments"] == nil {
		t.Errorf("with a broken one: %d, %d paths", resp.StatusCode, len(paths))
	}
	set(`{"paths":{"/apis/fruit.example.com/v1/apples":{"get":{"responses":7}}}}`)
	if resp, body := rig.call("GET", "/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", ""); resp.StatusCode != 200 || len(body) < 1000 {
		t.Errorf("protobuf with one that is not as it should be: %d, %d bytes", resp.StatusCode, len(body))
	}
}
