package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kdiscovery "k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"proa/internal/api"
)

func decode[T any](t *testing.T, body string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %.300s", err, body)
	}
	return v
}

func TestDiscovery(t *testing.T) {
	rig := serve(t, newShelf(), Config{})
	_, body := rig.call("GET", "/api", "", "")
	if v := decode[metav1.APIVersions](t, body); !slices.Equal(v.Versions, []string{"v1"}) || v.Kind != "APIVersions" {
		t.Errorf("/api: %s", body)
	}
	_, body = rig.call("GET", "/apis", "", "")
	groups := decode[metav1.APIGroupList](t, body)
	var names []string
	for _, g := range groups.Groups {
		names = append(names, g.PreferredVersion.GroupVersion)
	}
	if names[0] != "apiregistration.k8s.io/v1" || names[1] != "apps/v1" || !slices.Contains(names, "rbac.authorization.k8s.io/v1") || slices.Contains(names, "v1") {
		t.Errorf("/apis: %v", names)
	}
	_, body = rig.call("GET", "/apis/apps", "", "")
	if g := decode[metav1.APIGroup](t, body); g.Name != "apps" || g.Kind != "APIGroup" || len(g.Versions) != 1 {
		t.Errorf("/apis/apps: %s", body)
	}
	for _, path := range []string{"/api/v2", "/apis/nobody", "/apis/apps/v7", "/apis/apps/v1/x/y/z/a"} {
		if resp, body := rig.call("GET", path, "", ""); resp.StatusCode != 404 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	_, body = rig.call("GET", "/apis/apps/v1", "", "")
	byName := map[string]metav1.APIResource{}
	for _, r := range decode[metav1.APIResourceList](t, body).APIResources {
		byName[r.Name] = r
	}
	if d := byName["deployments"]; d.Kind != "Deployment" || d.SingularName != "deployment" || !d.Namespaced || !slices.Contains(d.Verbs, "watch") ||
		!slices.Equal(d.ShortNames, []string{"deploy"}) || !slices.Contains(d.Categories, "all") {
		t.Errorf("deployments: %+v", d)
	}
	if s := byName["deployments/scale"]; s.Kind != "Scale" || s.Group != "autoscaling" || s.Version != "v1" || !slices.Equal(s.Verbs, []string{"get", "patch", "update"}) {
		t.Errorf("deployments/scale: %+v", s)
	}
	if s := byName["deployments/status"]; s.Kind != "Deployment" || s.Group != "" {
		t.Errorf("deployments/status: %+v", s)
	}
}

func TestAggregatedDiscovery(t *testing.T) {
	rig := serve(t, newShelf(), Config{})
	const accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
	resp, body := rig.call("GET", "/apis", accept, "")
	if got := resp.Header.Get("Content-Type"); got != "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" {
		t.Errorf("Content-Type %s", got)
	}
	if got := resp.Header.Get("Vary"); got != "Accept" {
		t.Errorf("Vary %s", got)
	}
	l := decode[discoveryv2.APIGroupDiscoveryList](t, body)
	if l.Kind != "APIGroupDiscoveryList" || l.APIVersion != "apidiscovery.k8s.io/v2" || l.Items[0].Name != "apiregistration.k8s.io" || l.Items[1].Name != "apps" {
		t.Errorf("%.300s", body)
	}
	tag := resp.Header.Get("ETag")
	if resp, _ := rig.call("GET", "/apis", accept, "", "If-None-Match", tag); resp.StatusCode != http.StatusNotModified {
		t.Errorf("asked again with %s: %d", tag, resp.StatusCode)
	}
	resp, body = rig.call("GET", "/api", accept, "")
	core := decode[discoveryv2.APIGroupDiscoveryList](t, body)
	if resp.StatusCode != 200 || len(core.Items) != 1 || core.Items[0].Name != "" || core.Items[0].Versions[0].Version != "v1" {
		t.Fatalf("/api: %.300s", body)
	}
	i := slices.IndexFunc(core.Items[0].Versions[0].Resources, func(r discoveryv2.APIResourceDiscovery) bool { return r.Resource == "pods" })
	pods := core.Items[0].Versions[0].Resources[i]
	if pods.Scope != discoveryv2.ScopeNamespace || pods.ResponseKind.Kind != "Pod" || len(pods.Subresources) < 3 {
		t.Errorf("pods: %+v", pods)
	}
}

// TestDiscoveryForms asks for the documents in every form they come in.
func TestDiscoveryForms(t *testing.T) {
	rig := serve(t, newShelf(), Config{})
	const all = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	const beta = ";g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
	for _, c := range []struct{ path, accept, typ, begins string }{
		{"/api", "", "application/json", `{"kind":"APIVersions","versions":["v1"],`},
		{"/api/v1", "", "application/json", `{"kind":"APIResourceList","groupVersion":"v1",`},
		{"/apis", "", "application/json", `{"kind":"APIGroupList","apiVersion":"v1",`},
		{"/apis/", "*/*", "application/json", `{"kind":"APIGroupList","apiVersion":"v1",`},
		{"/apis/batch", "", "application/json", `{"kind":"APIGroup","apiVersion":"v1","name":"batch",`},
		{"/apis/batch/v1", "", "application/json", `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"batch/v1",`},
		{"/apis", "application/yaml", "application/yaml", "apiVersion: v1\ngroups:"},
		{"/apis", "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf", "k8s\x00\n\x12\n\x02v1\x12\fAPIGroupList"},
		{"/apis", "application/json" + all, "application/json" + all, `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2",`},
		{"/apis", "application/json" + beta, "application/json" + beta, `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2beta1",`},
		{"/apis", "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList", "application/json" + all, `{"kind":"APIGroupDiscoveryList"`},
		{"/apis", "application/vnd.kubernetes.protobuf" + all, "application/vnd.kubernetes.protobuf" + all, "k8s\x00\n/\n\x16apidiscovery.k8s.io/v2\x12\x15APIGroupDiscoveryList"},
		{"/apis", "application/yaml" + all, "application/yaml" + all, "apiVersion: apidiscovery.k8s.io/v2\n"},
		// What is asked for first, or more urgently, is answered.
		{"/apis", "application/json,application/json" + all, "application/json", `{"kind":"APIGroupList"`},
		{"/apis", "application/json;q=0.5,application/json" + all, "application/json" + all, `{"kind":"APIGroupDiscoveryList"`},
		// Versions and groups of it that there are none of.
		{"/apis", "application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json", "application/json", `{"kind":"APIGroupList"`},
		{"/apis", "application/json;g=meta.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", "application/json", `{"kind":"APIGroupList"`},
		// Below the roots there is no such document.
		{"/apis/batch", "application/json" + all + ",application/json", "application/json", `{"kind":"APIGroup"`},
	} {
		resp, body := rig.call("GET", c.path, c.accept, "")
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != c.typ || !strings.HasPrefix(body, c.begins) || resp.Header.Get("Vary") == "" {
			t.Errorf("%s as %q: %d %s Vary %q %.100q", c.path, c.accept, resp.StatusCode, got, resp.Header.Get("Vary"), body)
		}
	}
	tags := map[string]string{}
	for _, v := range []string{all, beta} {
		resp, _ := rig.call("GET", "/apis", "application/json"+v, "")
		tags[resp.Header.Get("ETag")] = v
	}
	if len(tags) != 2 {
		t.Errorf("two documents have one ETag: %v", tags)
	}
	for tag, v := range tags {
		if resp, body := rig.call("GET", "/apis", "application/json"+v, "", "If-None-Match", tag); resp.StatusCode != 304 || body != "" {
			t.Errorf("not changed: %d %.100s", resp.StatusCode, body)
		}
	}
	for _, path := range []string{"/api", "/api/v1", "/apis", "/apis/batch", "/apis/batch/v1"} {
		if resp, _ := rig.call("POST", path, "", "{}"); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET" {
			t.Errorf("POST %s: %d", path, resp.StatusCode)
		}
	}
}

// TestDiscoveryOfVersions looks at kinds that are served in several.
func TestDiscoveryOfVersions(t *testing.T) {
	rig := serve(t, newShelf(), Config{})
	_, body := rig.call("GET", "/apis/autoscaling", "", "")
	g := decode[metav1.APIGroup](t, body)
	if g.PreferredVersion.Version != "v2" || len(g.Versions) != 2 || g.Versions[0].Version != "v2" || g.Versions[1].Version != "v1" {
		t.Errorf("autoscaling: %s", body)
	}
	// The hashes are those of Kubernetes for the same stored versions.
	for path, want := range map[string]string{
		"/api/v1 pods": "xPOwRZ+Yhw8=", "/api/v1 events": "r2yiGXH7wu8=", "/apis/events.k8s.io/v1 events": "r2yiGXH7wu8=",
		"/apis/apps/v1 deployments": "8aSe+NMegvE=", "/api/v1 bindings": "", "/api/v1 componentstatuses": "", "/api/v1 pods/status": "",
	} {
		path, name, _ := strings.Cut(path, " ")
		_, body := rig.call("GET", path, "", "")
		found := false
		for _, r := range decode[metav1.APIResourceList](t, body).APIResources {
			if r.Name == name {
				found = true
				if r.StorageVersionHash != want {
					t.Errorf("%s %s: hash %q, want %q", path, name, r.StorageVersionHash, want)
				}
			}
		}
		if !found {
			t.Errorf("%s has no %s", path, name)
		}
	}
	of := func(path string) (r metav1.APIResource) {
		_, body := rig.call("GET", path, "", "")
		for _, r := range decode[metav1.APIResourceList](t, body).APIResources {
			if r.Name == "horizontalpodautoscalers" {
				return r
			}
		}
		return r
	}
	v1, v2 := of("/apis/autoscaling/v1"), of("/apis/autoscaling/v2")
	if v1.StorageVersionHash == "" || v1.StorageVersionHash != v2.StorageVersionHash || !slices.Equal(v1.ShortNames, []string{"hpa"}) ||
		!slices.Equal(v1.Categories, []string{"all"}) || !slices.Equal(v1.Verbs, v2.Verbs) || len(v1.Verbs) != 8 {
		t.Errorf("v1 %+v\nv2 %+v", v1, v2)
	}
}

// TestCatalogChanges checks that a new list of kinds is seen at once.
func TestCatalogChanges(t *testing.T) {
	kinds := builtin()[:3]
	rig := serve(t, newShelf(), Config{Groups: func() []*api.Group { return api.Grouped(kinds) }})
	if resp, _ := rig.call("GET", "/apis/apps/v1/deployments", "", ""); resp.StatusCode != 404 {
		t.Errorf("before: %d", resp.StatusCode)
	}
	_, before := rig.call("GET", "/openapi/v3", "", "")
	kinds = builtin()
	if resp, _ := rig.call("GET", "/apis/apps/v1/deployments", "", ""); resp.StatusCode != 200 {
		t.Errorf("after: %d", resp.StatusCode)
	}
	if _, after := rig.call("GET", "/openapi/v3", "", ""); after == before {
		t.Error("OpenAPI has not changed")
	}
}

// TestClientGo runs the client library that the world uses.
func TestClientGo(t *testing.T) {
	s := newShelf()
	rig := serve(t, s, Config{})
	for _, typ := range []string{api.MediaJSON, api.MediaProtobuf} {
		c := kubernetes.New(mustREST(t, rig, typ))
		made, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("x-"+typ[12:15], "1"), metav1.CreateOptions{})
		if err != nil || made.ResourceVersion == "" {
			t.Fatalf("%s: %+v, %v", typ, made, err)
		}
		l, err := c.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(l.Items) == 0 || l.ResourceVersion == "" {
			t.Fatalf("%s: %+v, %v", typ, l, err)
		}
		w, err := c.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{AllowWatchBookmarks: true})
		if err != nil {
			t.Fatal(err)
		}
		if e := <-w.ResultChan(); e.Type != "ADDED" || e.Object.(*corev1.ConfigMap).Data["k"] != "1" {
			t.Fatalf("%s: %+v", typ, e)
		}
		w.Stop()
	}
	d := kdiscovery.NewDiscoveryClient(mustREST(t, rig, api.MediaJSON))
	if _, lists, err := d.ServerGroupsAndResources(); err != nil || len(lists) < 5 {
		t.Fatalf("discovery: %d, %v", len(lists), err)
	}
	if v, err := d.ServerVersion(); err != nil || v.GitVersion != "v1.37.2+proa" || v.Major != "1" || v.Minor != "37" {
		t.Fatalf("version %+v, %v", v, err)
	}
	paths, err := d.OpenAPIV3().Paths()
	if err != nil || paths["apis/apps/v1"] == nil {
		t.Fatalf("OpenAPI paths %v, %v", paths, err)
	}
	if doc, err := paths["apis/apps/v1"].Schema(api.MediaJSON); err != nil || !strings.Contains(string(doc), `"io.k8s.api.apps.v1.Deployment"`) {
		t.Fatalf("OpenAPI document of %d bytes, %v", len(doc), err)
	}
	if doc, err := d.OpenAPISchema(); err != nil || doc.GetSwagger() != "2.0" { // in protobuf
		t.Fatalf("OpenAPI v2: %v, %v", doc.GetSwagger(), err)
	}
}

func mustREST(t *testing.T, rig *rig, typ string) rest.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: rig.URL, ContentConfig: rest.ContentConfig{ContentType: typ, AcceptContentTypes: typ}}, rig.client())
	if err != nil {
		t.Fatal(err)
	}
	return c.CoreV1().RESTClient()
}
