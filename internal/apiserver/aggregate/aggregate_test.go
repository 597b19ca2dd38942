package aggregate_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/apiserver/aggregate"
	"proa/internal/kinds/apiregistration"
	"proa/internal/kinds/core"
)

var fruit = schema.GroupVersion{Group: "fruit.example.com", Version: "v1"}

func ok(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }

func TestAvailability(t *testing.T) {
	w := newWorld(t, nil)
	const name = "v1.fruit.example.com"
	var status atomic.Int32
	status.Store(500)
	ext := w.extension("fruit", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(int(status.Load())) }))
	w.register(apiService(fruit, "fruit", w.ca.PEM))
	w.condition(name, `False ServiceNotFound service/fruit in "a" is not present`)
	w.service("fruit", 8443)
	w.condition(name, `False ServicePortError service/fruit in "a" is not listening on port 443`)
	if err := core.Service.Delete(t.Context(), w.server, "a", "fruit", api.Options{}); err != nil {
		t.Fatal(err)
	}
	w.service("fruit", 443)
	w.condition(name, `False EndpointsNotFound cannot find endpointslices for service/fruit in "a"`)
	w.endpoints("fruit", nil)
	w.condition(name, `False MissingEndpoints endpointslices for service/fruit in "a" have no addresses with port name "https"`)
	w.endpoints("fruit", ext)
	const url = "https://fruit.a.svc:443/apis/fruit.example.com/v1"
	w.condition(name, "False FailedDiscoveryCheck failing or missing response from "+url+": bad status from "+url+": 500")

	resp, err := http.Get(w.url + "/apis/fruit.example.com/v1/apples")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(string(body), "the API server of fruit.example.com/v1 is not available: FailedDiscoveryCheck") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	status.Store(200)
	w.condition(name, "True Passed all checks passed")
	since := func() time.Time {
		o, err := apiregistration.APIService.Get(t.Context(), w.server, "", name)
		if err != nil {
			t.Fatal(err)
		}
		return apiregistration.Available(o).LastTransitionTime.Time
	}
	if since().IsZero() {
		t.Error("the condition has no time")
	}
	ext.CloseClientConnections()
	ext.Close()
	w.endpoints("fruit", nil)
	w.condition(name, `False MissingEndpoints endpointslices for service/fruit in "a" have no addresses with port name "https"`)
}

func TestPass(t *testing.T) {
	w := newWorld(t, nil)
	w.user = api.User{Name: "ann", UID: "u-1", Groups: []string{"g1", "system:authenticated"}, Extra: map[string][]string{"example.com/Scope%": {"x", "y"}}}
	type seen struct {
		Proto, URI, Host, Certificate string
		Header                        http.Header
	}
	ext := w.extension("fruit", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Audit-Id", "theirs")
		w.Header().Set("X-Theirs", "yes")
		w.WriteHeader(http.StatusAccepted)
		json.NewEncoder(w).Encode(seen{r.Proto, r.RequestURI, r.Host, r.TLS.PeerCertificates[0].Subject.CommonName, r.Header})
	}))
	w.claim(fruit, "fruit", ext)
	req, _ := http.NewRequest("GET", w.url+"/apis/fruit.example.com/v1/namespaces/a/apples/a%20b?watch=0&x=1;watch=1&limit=5", nil)
	for k, v := range map[string]string{"Authorization": "Bearer secret", "X-Remote-User": "root", "X-Remote-Group": "system:masters",
		"X-Remote-Extra-Scopes": "all", "X-Remote-Uid": "0", "Impersonate-User": "root", "X-Forwarded-For": "203.0.113.9", "X-Mine": "kept"} {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got seen
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusAccepted || resp.Header.Get("X-Theirs") != "yes" || !slices.Equal(resp.Header.Values("Audit-Id"), []string{"audit-7"}) {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if got.Proto != "HTTP/2.0" || got.Host != "fruit.a.svc:443" || got.Certificate != aggregate.FrontProxy {
		t.Errorf("%+v", got)
	}
	if want := "/apis/fruit.example.com/v1/namespaces/a/apples/a%20b?limit=5&watch=0"; got.URI != want {
		t.Errorf("%s\nwant %s", got.URI, want)
	}
	want := http.Header{"X-Remote-User": {"ann"}, "X-Remote-Uid": {"u-1"}, "X-Remote-Group": {"g1", "system:authenticated"},
		"X-Mine": {"kept"}, "Audit-Id": {"audit-7"}}
	for name, values := range want {
		if !slices.Equal(got.Header[name], values) {
			t.Errorf("%s: %q, want %q", name, got.Header[name], values)
		}
	}
	for name, values := range got.Header {
		switch {
		case want[name] != nil:
		case strings.EqualFold(name, "X-Remote-Extra-example.com%2FScope%25"):
			if !slices.Equal(values, []string{"x", "y"}) {
				t.Errorf("%s: %q", name, values)
			}
		case strings.HasPrefix(name, "X-Remote-"), name == "Authorization", strings.HasPrefix(name, "Impersonate-"), slices.Contains(values, "203.0.113.9"):
			t.Errorf("%s was passed on: %q", name, values)
		}
	}
}

// A watch is passed on line by line.
func TestWatch(t *testing.T) {
	w := newWorld(t, func(c *aggregate.Config) { c.Timeout = time.Second })
	next := make(chan string)
	ext := w.extension("fruit", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "1" {
			return
		}
		http.NewResponseController(w).Flush()
		for line := range next {
			fmt.Fprintln(w, line)
			http.NewResponseController(w).Flush()
		}
	}))
	w.claim(fruit, "fruit", ext)
	resp, err := http.Get(w.url + "/apis/fruit.example.com/v1/apples?watch=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	end := time.Now().Add(1500 * time.Millisecond) // longer than an answer may take to begin
	for i := 0; i < 3 || time.Now().Before(end); i++ {
		line := fmt.Sprint("event ", i)
		next <- line
		if !lines.Scan() || lines.Text() != line {
			t.Fatalf("%q, want %q", lines.Text(), line)
		}
	}
	close(next)
}

func TestUpgrade(t *testing.T) {
	w := newWorld(t, nil)
	w.user = api.User{Name: "ann"}
	for name, protocol := range map[string]string{"web": "websocket", "spdy": "SPDY/3.1"} {
		gv := schema.GroupVersion{Group: name + ".example.com", Version: "v1"}
		w.claim(gv, name, w.extension(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				return
			}
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello %s\n", r.Header.Get("Upgrade"), r.Header.Get("X-Remote-User"))
			rw.Flush()
			line, _ := rw.ReadString('\n')
			fmt.Fprint(rw, "echo "+line)
			rw.Flush()
		})))
		c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /apis/%s/things/x/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", gv, protocol)
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != protocol {
			t.Fatalf("%v %v", resp, err)
		}
		if line, err := r.ReadString('\n'); err != nil || line != "hello ann\n" {
			t.Errorf("%q %v", line, err)
		}
		fmt.Fprint(c, "one\n")
		if line, err := r.ReadString('\n'); err != nil || line != "echo one\n" {
			t.Errorf("%q %v", line, err)
		}
	}
}

// What would lead a client, or its rights, astray is refused.
func TestRefused(t *testing.T) {
	w := newWorld(t, nil)
	ext := w.extension("fruit", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/away"):
			http.Redirect(w, r, "https://evil.example.com/", http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "/newer") && r.URL.RawQuery == "":
			http.Redirect(w, r, r.URL.Path+"?hash=2", http.StatusMovedPermanently)
		}
	}))
	w.claim(fruit, "fruit", ext)
	noFollow := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for path, want := range map[string]int{"/apples/away": 502, "/apples/newer": 301, "/apples/%2e%2e/pears": 400, "/apples/x": 200} {
		resp, err := noFollow.Get(w.url + "/apis/fruit.example.com/v1" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", path, resp.StatusCode, body, want)
		}
		if want >= 400 {
			var s metav1.Status
			if err := json.Unmarshal(body, &s); err != nil || s.Kind != "Status" || int(s.Code) != want {
				t.Errorf("%s: %s %v", path, body, err)
			}
		}
	}
}

const groupsType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

func TestDiscovery(t *testing.T) {
	w := newWorld(t, nil)
	var sent, unchanged atomic.Int32
	version := func() *discoveryv2.APIVersionDiscovery {
		if v := w.agg.Catalog().Version(fruit); v != nil {
			return &v.Discovery
		}
		return nil
	}
	ext := w.extension("fruit", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/apis":
			if r.Header.Get("If-None-Match") == `"1"` {
				unchanged.Add(1)
				w.WriteHeader(http.StatusNotModified)
				return
			}
			sent.Add(1)
			w.Header().Set("Content-Type", groupsType)
			w.Header().Set("Etag", `"1"`)
			fmt.Fprint(w, `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":[{"metadata":{"name":"fruit.example.com"},"versions":[
				{"version":"v1","freshness":"Current","resources":[{"resource":"apples","scope":"Namespaced","verbs":["get"],"subresources":[{"subresource":"core","verbs":["get"]}]}]},
				{"version":"v2","resources":[{"resource":"pears","scope":"Cluster","verbs":["get"]}]}]}]}`)
		case "/openapi/v3":
			fmt.Fprint(w, `{"paths":{"apis/fruit.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/fruit.example.com/v1?hash=ABC"}}}`)
		case "/openapi/v2":
			fmt.Fprint(w, `{"swagger":"2.0"}`)
		case "/openapi/v3/apis/fruit.example.com/v1":
			fmt.Fprint(w, "the document")
		}
	}))
	w.claim(fruit, "fruit", ext)
	w.until(func() bool { d := version(); return d != nil && d.Freshness == discoveryv2.DiscoveryFreshnessCurrent }, func() string { return fmt.Sprint(version()) })
	d := *version()
	if len(d.Resources) != 1 || d.Resources[0].Resource != "apples" || d.Resources[0].ResponseKind == nil || d.Resources[0].Subresources[0].ResponseKind == nil {
		t.Errorf("%+v", d)
	}
	v := w.agg.Catalog().Version(fruit)
	if v.OpenAPI != "ABC" {
		t.Errorf("hash %q", v.OpenAPI)
	}
	if body, tag := v.V2(t.Context()); string(body) != `{"swagger":"2.0"}` || tag == "" {
		t.Errorf("%s %q", body, tag)
	}
	if p := w.agg.Catalog().Priority(fruit); p.Group != 100 || p.Version != 10 {
		t.Error(p)
	}
	w.until(func() bool { return unchanged.Load() > 1 }, func() string { return "the ETag is not used" })
	if sent.Load() != 1 {
		t.Errorf("the document was sent %d times", sent.Load())
	}
	resp, err := http.Get(w.url + "/openapi/v3/apis/fruit.example.com/v1?hash=ABC")
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "the document" {
		t.Errorf("%s", body)
	}
	resp.Body.Close()
	// Gone, it is remembered.
	w.endpoints("fruit", nil)
	w.until(func() bool { return version().Freshness == discoveryv2.DiscoveryFreshnessStale }, func() string { return fmt.Sprint(version()) })
	if d := version(); len(d.Resources) != 1 || d.Resources[0].Resource != "apples" {
		t.Errorf("%+v", d)
	}
	before := w.agg.Catalog()
	if err := apiregistration.APIService.Delete(t.Context(), w.server, "", "v1.fruit.example.com", api.Options{}); err != nil {
		t.Fatal(err)
	}
	w.until(func() bool { return !w.agg.Catalog().Serves(fruit) }, func() string { return "it is still served" })
	if before == w.agg.Catalog() || !before.Serves(fruit) {
		t.Error("a catalog was changed in place")
	}
}

func TestOldDiscovery(t *testing.T) {
	w := newWorld(t, nil)
	ext := w.extension("fruit", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/apis":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"kind":"APIGroupList","groups":[]}`)
		case "/apis/fruit.example.com/v1":
			fmt.Fprint(w, `{"kind":"APIResourceList","groupVersion":"fruit.example.com/v1","resources":[
				{"name":"pears/scale","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get"]},
				{"name":"pears","singularName":"pear","namespaced":true,"kind":"Pear","verbs":["get","list"],"shortNames":["p"],"categories":["all"]},
				{"name":"apples","namespaced":false,"kind":"Apple","verbs":["list"]}]}`)
		}
	}))
	w.claim(fruit, "fruit", ext)
	w.until(func() bool { return len(w.agg.Catalog().Version(fruit).Discovery.Resources) > 0 }, func() string { return "no discovery" })
	have, err := json.Marshal(w.agg.Catalog().Version(fruit).Discovery)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":"v1","resources":[` +
		`{"resource":"apples","responseKind":{"group":"fruit.example.com","version":"v1","kind":"Apple"},"scope":"Cluster","singularResource":"","verbs":["list"]},` +
		`{"resource":"pears","responseKind":{"group":"fruit.example.com","version":"v1","kind":"Pear"},"scope":"Namespaced","singularResource":"pear","verbs":["get","list"],"shortNames":["p"],"categories":["all"],` +
		`"subresources":[{"subresource":"scale","responseKind":{"group":"autoscaling","version":"v1","kind":"Scale"},"verbs":["get"]}]}],"freshness":"Current"}`
	if string(have) != want {
		t.Errorf("%s\nwant %s", have, want)
	}
}

// hangs answers availability checks and discovery, and holds all other requests
// until the channel is closed.
func hangs(until <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/things") {
			select {
			case <-until:
			case <-r.Context().Done():
			}
		}
		ok(w, r)
	}
}

// Servers that do not answer cost nobody else anything: others are answered
// while the requests to those still wait.
func TestHung(t *testing.T) {
	w := newWorld(t, nil)
	well := schema.GroupVersion{Group: "well.example.com", Version: "v1"}
	w.claim(well, "well", w.extension("well", http.HandlerFunc(ok)))
	hang := make(chan struct{})
	for i := range 8 {
		name := fmt.Sprint("hung", i)
		w.claim(schema.GroupVersion{Group: name + ".example.com", Version: "v1"}, name, w.extension(name, hangs(hang)))
	}
	get := func(group string) (int, error) {
		resp, err := http.Get(w.url + "/apis/" + group + ".example.com/v1/things")
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	var waiting sync.WaitGroup
	var answered atomic.Int32
	for i := range 40 {
		waiting.Go(func() {
			if code, err := get(fmt.Sprint("hung", i%8)); err != nil || code != http.StatusOK {
				t.Errorf("a server that took its time: %d, %v", code, err)
			}
			answered.Add(1)
		})
	}
	for range 200 {
		if code, err := get("well"); err != nil || code != http.StatusOK {
			t.Errorf("the server that is well: %d, %v", code, err)
		}
		if _, err := core.Namespace.List(t.Context(), w.h, "", api.Selectors{}); err != nil {
			t.Error(err)
		}
	}
	if n := answered.Load(); n > 0 {
		t.Errorf("%d of the requests that hang were answered first", n)
	}
	close(hang)
	waiting.Wait()
}

// A server that does not answer in time is given up.
func TestLate(t *testing.T) {
	w := newWorld(t, func(c *aggregate.Config) { c.Timeout = 100 * time.Millisecond })
	hang := make(chan struct{})
	defer close(hang)
	w.claim(fruit, "fruit", w.extension("fruit", hangs(hang)))
	resp, err := http.Get(w.url + "/apis/fruit.example.com/v1/things")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s metav1.Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || s.Code != http.StatusGatewayTimeout || s.Reason != metav1.StatusReasonTimeout ||
		!strings.Contains(s.Message, "the API server of fruit.example.com/v1 did not answer within 100ms") {
		t.Errorf("%+v %v", s, err)
	}
}

// A dead one is answered with 503, before its condition says so.
func TestDead(t *testing.T) {
	w := newWorld(t, func(c *aggregate.Config) { c.Check = time.Hour; c.Refresh = time.Hour })
	ext := w.extension("fruit", http.HandlerFunc(ok))
	w.claim(fruit, "fruit", ext)
	ext.CloseClientConnections()
	ext.Close()
	resp, err := http.Get(w.url + "/apis/fruit.example.com/v1/things")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d", resp.StatusCode)
	}
	// The failure has asked for a check, which nothing else would have for an hour.
	w.until(func() bool {
		o, err := apiregistration.APIService.Get(t.Context(), w.server, "", "v1.fruit.example.com")
		if err != nil {
			return false
		}
		return apiregistration.Available(o).Reason == "FailedDiscoveryCheck"
	}, func() string { return "nobody has noticed" })
}

func TestLocal(t *testing.T) {
	apps, custom := schema.GroupVersion{Group: "apps", Version: "v1"}, schema.GroupVersion{Group: "stable.example.com", Version: "v1"}
	core1 := schema.GroupVersion{Version: "v1"}
	var mu sync.Mutex
	groups := func(gvs ...schema.GroupVersion) []*api.Group {
		var rs []*api.Resource
		for _, gv := range gvs {
			for _, name := range []string{"ones", "others"} {
				rs = append(rs, &api.Resource{GroupVersionResource: gv.WithResource(name)})
			}
		}
		return api.Grouped(rs)
	}
	builtIn := []schema.GroupVersion{core1, apps, {Group: "apiregistration.k8s.io", Version: "v1"}}
	served, changed := groups(append(builtIn, custom)...), make(chan struct{})
	w := newWorld(t, func(c *aggregate.Config) {
		c.Served = func() ([]*api.Group, <-chan struct{}) {
			mu.Lock()
			defer mu.Unlock()
			return served, changed
		}
	})
	const isLocal = "True Local Local APIServices are always available"
	w.condition("v1.", isLocal)
	w.condition("v1.apps", isLocal)
	w.condition("v1.stable.example.com", isLocal)
	labels := map[string]string{}
	all, err := apiregistration.APIService.List(t.Context(), w.server, "", api.Selectors{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		labels[o.Name] = fmt.Sprint(o.Labels["kube-aggregator.kubernetes.io/automanaged"], " ", o.Spec.GroupPriorityMinimum, " ", o.Spec.VersionPriority)
	}
	if want := map[string]string{"v1.": "onstart 18000 1", "v1.apps": "onstart 17800 15", "v1.stable.example.com": "true 1000 100"}; !maps.Equal(labels, want) {
		t.Errorf("%v\nwant %v", labels, want)
	}
	gone := func(name string) {
		t.Helper()
		w.until(func() bool {
			_, err := apiregistration.APIService.Get(t.Context(), w.server, "", name)
			return err != nil
		}, func() string { return name + " is still there" })
	}
	// Deleted, it comes back; changed, it is put right.
	first, err := apiregistration.APIService.Get(t.Context(), w.server, "", "v1.apps")
	if err != nil {
		t.Fatal(err)
	}
	if err := apiregistration.APIService.Delete(t.Context(), w.server, "", "v1.apps", api.Options{}); err != nil {
		t.Fatal(err)
	}
	w.until(func() bool {
		o, err := apiregistration.APIService.Get(t.Context(), w.server, "", "v1.apps")
		return err == nil && o.UID != first.UID
	}, func() string { return "v1.apps does not come back" })
	o, _ := apiregistration.APIService.Get(t.Context(), w.server, "", "v1.stable.example.com")
	o = api.Clone(o)
	o.Spec.Service = apiService(custom, "x", nil).Spec.Service
	if _, err := apiregistration.APIService.Update(t.Context(), w.server, o); err != nil {
		t.Fatal(err)
	}
	w.until(func() bool {
		o, err := apiregistration.APIService.Get(t.Context(), w.server, "", "v1.stable.example.com")
		return err == nil && o.Spec.Service == nil
	}, func() string { return "it keeps a service" })
	w.condition("v1.stable.example.com", isLocal)
	// Without the label it is its owner's: the group is another server's then.
	o, _ = apiregistration.APIService.Get(t.Context(), w.server, "", "v1.stable.example.com")
	o = api.Clone(o)
	o.Labels, o.Spec.Service = nil, apiService(custom, "x", nil).Spec.Service
	if _, err := apiregistration.APIService.Update(t.Context(), w.server, o); err != nil {
		t.Fatal(err)
	}
	w.until(func() bool { return w.agg.Catalog().Serves(custom) }, func() string { return "the group cannot be taken over" })
	if err := apiregistration.APIService.Delete(t.Context(), w.server, "", "v1.stable.example.com", api.Options{}); err != nil {
		t.Fatal(err)
	}
	w.condition("v1.stable.example.com", isLocal)
	// The core group is nobody else's.
	o, _ = apiregistration.APIService.Get(t.Context(), w.server, "", "v1.")
	o = api.Clone(o)
	o.Labels, o.Spec.Service = nil, apiService(core1, "x", nil).Spec.Service
	if _, err := apiregistration.APIService.Update(t.Context(), w.server, o); err != nil {
		t.Fatal(err)
	}
	// What is served no more has no APIService.
	mu.Lock()
	served = groups(builtIn...)
	close(changed)
	changed = make(chan struct{})
	mu.Unlock()
	gone("v1.stable.example.com")
	if w.agg.Catalog().Serves(core1) {
		t.Error("the core group was taken over")
	}
}

func TestTrust(t *testing.T) {
	w := newWorld(t, func(c *aggregate.Config) {
		c.Trust = aggregate.Trust{ClientCA: []byte("clients"), FrontCA: []byte("front")}
	})
	want := map[string]string{"client-ca-file": "clients", "requestheader-client-ca-file": "front", "requestheader-allowed-names": `["front-proxy-client"]`,
		"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-uid-headers": `["X-Remote-Uid"]`,
		"requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`}
	is := func() bool {
		m, err := core.ConfigMap.Get(t.Context(), w.server, "kube-system", "extension-apiserver-authentication")
		return err == nil && maps.Equal(m.Data, want)
	}
	w.until(is, func() string { return "it is not published" })
	if err := core.ConfigMap.Delete(t.Context(), w.server, "kube-system", "extension-apiserver-authentication", api.Options{}); err != nil {
		t.Fatal(err)
	}
	w.until(is, func() string { return "deleted, it does not come back" })
}
