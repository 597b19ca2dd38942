package kubeletapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

var (
	pods     = (&api.Kind[*corev1.Pod]{API: "v1", Resource: "pods", Scope: api.Namespaced}).Def()
	services = (&api.Kind[*corev1.Service]{API: "v1", Resource: "services", Scope: api.Namespaced}).Def()
	nodes    = (&api.Kind[*corev1.Node]{API: "v1", Resource: "nodes"}).Def()
)

// What follows the proxy in a path is found whatever the objects are called.
func TestPlace(t *testing.T) {
	for _, c := range []struct {
		res                  *api.Resource
		ns, path, head, rest string
	}{
		{pods, "a", "/api/v1/namespaces/a/pods/p/proxy/x/y", "/api/v1/namespaces/a/pods/p/proxy", "/x/y"},
		{pods, "a", "/api/v1/namespaces/a/pods/p:8080/proxy/", "/api/v1/namespaces/a/pods/p:8080/proxy", "/"},
		{pods, "a", "/api/v1/namespaces/a/pods/p/proxy", "/api/v1/namespaces/a/pods/p/proxy", ""},
		{pods, "a", "/api/v1/namespaces/a/pods/https%3Ap%3A1/proxy/a%2Fb//c", "/api/v1/namespaces/a/pods/https%3Ap%3A1/proxy", "/a%2Fb//c"},
		{pods, "proxy", "/api/v1/namespaces/proxy/pods/proxy/proxy/proxy/z", "/api/v1/namespaces/proxy/pods/proxy/proxy", "/proxy/z"},
		{nodes, "", "/api/v1/nodes/proxy/proxy/metrics", "/api/v1/nodes/proxy/proxy", "/metrics"},
	} {
		r := &api.Request{Resource: c.res, Namespace: c.ns, Sub: "proxy", HTTP: httptest.NewRequest("GET", c.path, nil)}
		if got := placeOf(r); got.prefix != c.head || got.rest != c.rest {
			t.Errorf("%s: %+v", c.path, got)
		}
	}
}

// A world has a pod at 10.1.2.3 and services, and everything that is dialed is one server.
type world struct {
	*Nodes
	t     *testing.T
	front *httptest.Server
	asked []string // addresses that were dialed
}

func newWorld(t *testing.T, behind http.Handler) *world {
	back := httptest.NewServer(behind)
	t.Cleanup(back.Close)
	w := &world{t: t}
	port := int32(8080)
	https := int32(8443)
	ready, not := true, false
	ref := func(name string) *corev1.ObjectReference {
		return &corev1.ObjectReference{Kind: "Pod", Namespace: "a", Name: name}
	}
	named := "web"
	one := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Status: corev1.PodStatus{PodIP: "10.1.2.3", PodIPs: []corev1.PodIP{{IP: "10.1.2.3"}}},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port}, {Name: "tls", ContainerPort: https}}}}}}
	w.Nodes = &Nodes{
		Get: func(_ context.Context, _ api.Handler, name string) (*corev1.Node, error) {
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
				Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.9.9.9"}},
				DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10250}}}}, nil
		},
		Pod: func(_ context.Context, _ api.Handler, ns, name string) (*corev1.Pod, error) {
			if ns == "a" && name == "p" {
				return one, nil
			}
			return nil, apierrors.NewNotFound(pods.GroupResource(), name)
		},
		Slices: func(_ context.Context, _ api.Handler, ns, service string) ([]*discoveryv1.EndpointSlice, error) {
			s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns}, Ports: []discoveryv1.EndpointPort{{Name: &named, Port: &port}}}
			switch service {
			case "svc":
				s.Endpoints = []discoveryv1.Endpoint{
					{Addresses: []string{"10.1.2.3"}, TargetRef: ref("p"), Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
					{Addresses: []string{"10.1.2.4"}, TargetRef: ref("p"), Conditions: discoveryv1.EndpointConditions{Ready: &not}},
				}
			case "liar":
				s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.66.6.6"}, TargetRef: ref("p")}, {Addresses: []string{"10.1.2.3"}}, {Addresses: []string{"127.0.0.1"}, TargetRef: ref("p")}}
			}
			return []*discoveryv1.EndpointSlice{s}, nil
		},
		Local: func(string) http.Handler { return behind },
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			w.asked = append(w.asked, addr)
			if strings.HasSuffix(addr, ":9") {
				return nil, fmt.Errorf("dial tcp %s: connect: connection refused", addr)
			}
			return new(net.Dialer).DialContext(ctx, network, back.Listener.Addr().String())
		},
	}
	subs := Subs(w.Nodes)
	w.front = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		parts := strings.Split(req.URL.Path, "/")
		r := &api.Request{Verb: api.Get, HTTP: req}
		switch {
		case parts[3] == "nodes":
			r.Resource, r.Name, r.Sub = nodes, parts[4], parts[5]
		default:
			r.Resource, r.Namespace, r.Name, r.Sub = pods, parts[4], parts[6], parts[7]
			if parts[5] == "services" {
				r.Resource = services
			}
		}
		resp, err := subs[r.Resource.Resource+"/"+r.Sub](req.Context(), env{one}, r)
		if err != nil {
			st := err.(*apierrors.StatusError)
			refuse(rw, st)
			return
		}
		resp.Connect.ServeHTTP(rw, req)
	}))
	t.Cleanup(w.front.Close)
	return w
}

// env knows one pod, and a service svc.
type env struct{ pod *corev1.Pod }

func (e env) Handle(_ context.Context, r *api.Request) (*api.Response, error) {
	switch {
	case r.Resource == pods && r.Name == "p":
		return &api.Response{Item: api.NewItem(pods, 1, nil, e.pod.DeepCopy())}, nil
	case r.Resource == pods && r.Name == "none":
		p := e.pod.DeepCopy()
		p.Status.PodIP = "127.0.0.1"
		return &api.Response{Item: api.NewItem(pods, 1, nil, p)}, nil
	case r.Resource == services:
		return &api.Response{Item: api.NewItem(services, 1, nil, &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}}})}, nil
	}
	return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
}

func (env) Mutate(context.Context, *api.Request, func(api.Object) (api.Object, error)) (*api.Item, error) {
	return nil, io.EOF
}

func (w *world) do(method, path, body string, headers ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequest(method, w.front.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp, string(b)
}

// echo tells what it was asked.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Header().Set("Access-Control-Allow-Origin", "*")
	switch r.URL.Path {
	case "/418":
		w.WriteHeader(http.StatusTeapot)
	case "/away":
		http.Redirect(w, r, "/there?x=1", http.StatusFound)
		return
	case "/far":
		http.Redirect(w, r, "https://example.com/there", http.StatusFound)
		return
	}
	fmt.Fprintf(w, "%s %s auth=%q cookie=%q uri=%s %s", r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("X-Forwarded-Uri"), b)
})

const inA = "/api/v1/namespaces/a/"

func TestProxies(t *testing.T) {
	w := newWorld(t, echo)
	for _, c := range []struct {
		method, path string
		code         int
		says, dialed string
	}{
		{"GET", inA + "pods/p/proxy/x%2Fy/?q=a%20b&q=c;d", 200, "GET /x%2Fy/?q=a%20b&q=c;d", "10.1.2.3:8080"},
		{"POST", inA + "pods/p:tls/proxy/z", 200, "POST /z", "10.1.2.3:8443"},
		{"PUT", inA + "pods/http:p:81/proxy/z", 200, "PUT /z", "10.1.2.3:81"},
		{"PATCH", inA + "pods/p/proxy/z", 200, "PATCH /z", "10.1.2.3:8080"},
		{"DELETE", inA + "pods/p/proxy/z", 200, "DELETE /z", "10.1.2.3:8080"},
		{"OPTIONS", inA + "pods/p/proxy/z", 200, "OPTIONS /z", "10.1.2.3:8080"},
		{"HEAD", inA + "pods/p/proxy/z", 200, "", "10.1.2.3:8080"},
		{"GET", inA + "pods/p/proxy/418", 418, "GET /418", "10.1.2.3:8080"},
		{"POST", inA + "pods/p/proxy", 200, "POST / ", "10.1.2.3:8080"},
		{"GET", inA + "services/svc:web/proxy/z?a", 200, "GET /z?a", "10.1.2.3:8080"},
		{"GET", inA + "services/svc:80/proxy/z", 200, "GET /z", "10.1.2.3:8080"},
		{"GET", inA + "services/http:svc:80/proxy/z", 200, "GET /z", "10.1.2.3:8080"},
		{"GET", "/api/v1/nodes/n/proxy/metrics?x=%2F", 200, "GET", ""},
		{"GET", "/api/v1/nodes/n:10250/proxy/metrics", 200, "GET", ""},
		{"GET", "/api/v1/nodes/n:9100/proxy/metrics", 200, "GET /metrics", "10.9.9.9:9100"},

		{"GET", inA + "pods/p:9/proxy/z", 503, `"message":"error trying to reach service: dial tcp 10.1.2.3:9: connect: connection refused","reason":"ServiceUnavailable","code":503}`, "10.1.2.3:9"},
		{"GET", inA + "pods/odd:p:80/proxy/z", 400, `invalid pod request \"odd:p:80\"`, ""},
		{"GET", inA + "pods/none/proxy/z", 400, `address not allowed`, ""},
		{"GET", inA + "pods/nobody/proxy/z", 404, `pods \"nobody\" not found`, ""},
		{"GET", inA + "services/svc/proxy/z", 503, `no endpoints available for service \"svc\"`, ""},
		{"GET", inA + "services/svc:81/proxy/z", 503, `no service port 81 found for service \"svc\"`, ""},
		{"GET", inA + "services/liar:web/proxy/z", 503, `no endpoints available for service \"liar:web\"`, ""},
		{"GET", inA + "services/a:b:c:d/proxy/z", 400, `invalid service request`, ""},
		{"GET", "/api/v1/nodes/x:y:z/proxy/", 400, `invalid node request`, ""},
	} {
		w.asked = nil
		w.outward().(*http.Transport).CloseIdleConnections()
		resp, body := w.do(c.method, c.path, "", "Authorization", "Bearer secret", "Cookie", "a=b")
		if resp.StatusCode != c.code || !strings.Contains(body, c.says) || strings.Contains(body, "secret") || strings.Join(w.asked, " ") != c.dialed {
			t.Errorf("%s %s: %d %s, dialed %v", c.method, c.path, resp.StatusCode, body, w.asked)
		}
		if h := resp.Header.Get("Access-Control-Allow-Origin"); c.dialed != "" && h != "" {
			t.Errorf("%s: opened to %s", c.path, h)
		}
	}
	if _, body := w.do("POST", inA+"pods/p/proxy/z", "data", "Cookie", "a=b"); !strings.Contains(body, `cookie="a=b" uri=/api/v1/namespaces/a/pods/p/proxy/z data`) {
		t.Errorf("%s", body)
	}
	for path, want := range map[string]string{
		inA + "pods/p/proxy?method=GET": inA + "pods/p/proxy/?method=GET",
		inA + "services/svc:web/proxy":  inA + "services/svc:web/proxy/",
		"/api/v1/nodes/n/proxy":         "/api/v1/nodes/n/proxy/",
	} {
		if resp, _ := w.do("GET", path, ""); resp.StatusCode != 301 || resp.Header.Get("Location") != want {
			t.Errorf("%s: %d to %s", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	for path, want := range map[string]string{"away": inA + "pods/p/proxy/there?x=1", "far": "https://example.com/there"} {
		if resp, _ := w.do("GET", inA+"pods/p/proxy/"+path, ""); resp.StatusCode != 302 || resp.Header.Get("Location") != want {
			t.Errorf("%s: %d to %s", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

func TestProxyHTML(t *testing.T) {
	const page = `<!DOCTYPE html><A HREF="/x/?a=1&amp;b">x</a><img src='y.png'><script src="/z.js">if (a<b) "</p>"</script><a href="http://other/q">q</a>`
	zip := false
	w := newWorld(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if zip {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			io.WriteString(z, page)
			return
		}
		io.WriteString(w, page)
	}))
	want := strings.NewReplacer(`<A HREF="/x/`, `<a href="`+inA+`pods/p/proxy/x/`, `src="/z`, `src="`+inA+`pods/p/proxy/z`).Replace(page)
	for _, zip = range []bool{false, true} {
		resp, body := w.do("GET", inA+"pods/p/proxy/", "", "Accept-Encoding", "gzip")
		if zip {
			z, err := gzip.NewReader(bytes.NewReader([]byte(body)))
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(z)
			body = string(b)
		}
		if body != want || resp.StatusCode != 200 {
			t.Errorf("gzip %v: %s\nwant %s", zip, body, want)
		}
	}
}

// An upgrade goes through, both ways.
func TestProxyUpgrade(t *testing.T) {
	w := newWorld(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		typ, b, _ := c.ReadMessage()
		c.WriteMessage(typ, append([]byte(r.RequestURI+" "), b...))
	}))
	c, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(w.front.URL, "http")+inA+"services/svc:web/proxy/ws?x=1", nil)
	if err != nil {
		t.Fatal(err, resp)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	c.WriteMessage(websocket.TextMessage, []byte("hi"))
	if _, b, err := c.ReadMessage(); string(b) != "/ws?x=1 hi" {
		t.Errorf("%s %v", b, err)
	}
}

func TestLogOptions(t *testing.T) {
	for query, want := range map[string]string{
		"":                         "",
		"tailLines=0&limitBytes=1": "",
		"tailLines=-1":             `PodLogOptions "p" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`,
		"limitBytes=0":             `limitBytes: Invalid value: 0: must be greater than 0`,
		"sinceSeconds=0":           `sinceSeconds: Invalid value: 0: must be greater than 0`,
		"sinceSeconds=x":           `strconv.ParseInt: parsing "x": invalid syntax`,
		"sinceTime=yesterday":      `cannot parse`,
		"sinceTime=2026-01-02T03:04:05Z&sinceSeconds=1": "at most one of `sinceTime` or `sinceSeconds` may be specified",
		"stream=Odd":                `stream: Unsupported value: "Odd": supported values: "All", "Stderr", "Stdout"`,
		"stream=Stdout&tailLines=1": "`tailLines` and specific `stream` are mutually exclusive for now",
		"stream=All&tailLines=1":    "",
	} {
		q, _ := url.ParseQuery(query)
		err := checkLogOptions("p", q)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("?%s: %v", query, err)
		}
	}
}

func TestLogWebSocket(t *testing.T) {
	w := newWorld(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("previous") != "" {
			http.Error(w, "no such log", http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "line of %s %s", r.URL.Path, r.URL.RawQuery)
	}))
	at := "ws" + strings.TrimPrefix(w.front.URL, "http") + inA + "pods/p/log?container=c&follow=true"
	for protocol, want := range map[string]string{
		"binary.k8s.io":        "line of /containerLogs/a/p/c follow=true",
		"base64.binary.k8s.io": "bGluZSBvZiAvY29udGFpbmVyTG9ncy9hL3AvYyBmb2xsb3c9dHJ1ZQ==",
	} {
		d := websocket.Dialer{Subprotocols: []string{protocol}}
		c, resp, err := d.Dial(at, http.Header{"Origin": {"http://x"}})
		if err != nil {
			t.Fatal(err, resp)
		}
		got := allMessages(c)
		c.Close()
		if got != want {
			t.Errorf("%s: %q", protocol, got)
		}
	}
	_, resp, err := websocket.DefaultDialer.Dial(at+"&previous=true", nil)
	if err == nil || resp.StatusCode != 400 {
		t.Errorf("%v, %v", err, resp)
	}
}

// allMessages is what a WebSocket says until it ends.
func allMessages(c *websocket.Conn) (all string) {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		_, b, err := c.ReadMessage()
		if err != nil {
			return all
		}
		all += string(b)
	}
}

// A node that is lost in the middle of a log breaks the client's WebSocket, and
// nothing else: not the process, in which other clients are served.
func TestLogWebSocketBreaks(t *testing.T) {
	w := newWorld(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("previous") == "" {
			fmt.Fprint(w, "half a li")
		}
		panic(http.ErrAbortHandler)
	}))
	at := "ws" + strings.TrimPrefix(w.front.URL, "http") + inA + "pods/p/log?container=c&follow=true"
	d := websocket.Dialer{Subprotocols: []string{"binary.k8s.io"}}
	c, resp, err := d.Dial(at, http.Header{"Origin": {"http://x"}})
	if err != nil {
		t.Fatal(err, resp)
	}
	defer c.Close()
	got := allMessages(c)
	if got != "half a li" {
		t.Errorf("%q", got)
	}
	if c, resp, err := d.Dial(at+"&previous=true", http.Header{"Origin": {"http://x"}}); err == nil {
		c.Close()
		t.Errorf("nothing was answered, and the client saw %v", resp)
	}
}
