package node_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/utils/exec"

	"proa/internal/api"
	"proa/internal/httpapi"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
)

// eventually waits, in real time, for something that is on its way.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not %s in 10 s", what)
		}
	}
}

func (w *world) ready(name string) bool { return core.PodReady(w.pod(name)) }

// wire is a node's server and an API server in front of it, both with TLS.
func wire(t *testing.T) (w *world, node *httptest.Server, front *rest.Config) {
	w = newWorld(t)
	node = httptest.NewTLSServer(kubeletapi.Serve(w.agent))
	t.Cleanup(node.Close)
	n := &kubeletapi.Nodes{TLS: trust(node), Get: func(context.Context, api.Handler, string) (*corev1.Node, error) {
		u, _ := url.Parse(node.URL)
		var port int32
		fmt.Sscan(u.Port(), &port)
		return &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: u.Hostname()}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: port}}}}, nil
	}}
	subs := kubeletapi.Subs(n)
	h := api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		if r.Resource == core.Pod.Def() && subs["pods/"+r.Sub] != nil {
			return subs["pods/"+r.Sub](ctx, w.api, r)
		}
		return w.api.Handle(ctx, r)
	})
	var served []*api.Resource
	for _, k := range kinds.All {
		served = append(served, k.Def())
	}
	s := httpapi.Serve(h, httpapi.Config{Groups: func() []*api.Group { return api.Grouped(served) },
		Authenticate: func(*http.Request) (api.User, bool, error) {
			return api.User{Name: "test", Groups: []string{api.GroupMasters}}, true, nil
		}})
	ts := httptest.NewTLSServer(s)
	t.Cleanup(ts.Close)
	return w, node, &rest.Config{Host: ts.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func trust(s *httptest.Server) *tls.Config {
	p := x509.NewCertPool()
	p.AddCert(s.Certificate())
	return &tls.Config{RootCAs: p}
}

func podURL(t *testing.T, c *rest.Config, name, sub string, q url.Values) *url.URL {
	u, err := url.Parse(c.Host + "/api/v1/namespaces/default/pods/" + name + "/" + sub + "?" + q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Exec over what kubectl uses first (WebSocket, version 5), over what it falls
// back to (SPDY), and over the node's own client; with input, output, exit status.
func TestExec(t *testing.T) {
	w, node, front := wire(t)
	w.create(script(simple("a"), "c", "exec=3"))
	w.create(simple("b"))
	w.eventually("ready", func() bool { return w.ready("a") && w.ready("b") })
	q := url.Values{"command": {"say", "hello"}, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}}
	type run func(name string, in io.Reader, out io.Writer) error
	with := func(make func(*url.URL) (remotecommand.Executor, error)) run {
		return func(name string, in io.Reader, out io.Writer) error {
			x, err := make(podURL(t, front, name, "exec", q))
			if err != nil {
				return err
			}
			return x.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: io.Discard})
		}
	}
	for how, f := range map[string]run{
		"websocket": with(func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(front, "GET", u.String())
		}),
		"spdy": with(func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(front, "POST", u)
		}),
		"node": func(name string, in io.Reader, out io.Writer) error {
			return kubeletapi.Dial(node.Listener.Addr().String(), trust(node)).Exec(t.Context(), kubeletapi.Target{Namespace: "default", Pod: name, Container: "c"},
				[]string{"say", "hello"}, kubeletapi.Streams{Stdin: in, Stdout: out})
		},
	} {
		t.Run(how, func(t *testing.T) {
			var out bytes.Buffer
			if err := f("b", strings.NewReader("from stdin"), &out); err != nil || out.String() != "say hello\nfrom stdin" {
				t.Errorf("%v, %q", err, out.String())
			}
			var exit utilexec.ExitError
			if err := f("a", strings.NewReader(""), io.Discard); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
				t.Errorf("%v; want exit status 3", err)
			}
		})
	}
}

// Attach over the same three ways: what is typed comes back while the client's
// input is open, and the end of the container is the end of the attachment.
func TestAttach(t *testing.T) {
	w, node, front := wire(t)
	q := url.Values{"stdin": {"true"}, "stdout": {"true"}, "container": {"c"}}
	type run func(name string, in io.Reader, out io.Writer) error
	with := func(make func(*url.URL) (remotecommand.Executor, error)) run {
		return func(name string, in io.Reader, out io.Writer) error {
			x, err := make(podURL(t, front, name, "attach", q))
			if err != nil {
				return err
			}
			return x.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: out})
		}
	}
	for how, f := range map[string]run{
		"websocket": with(func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(front, "GET", u.String())
		}),
		"spdy": with(func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(front, "POST", u)
		}),
		"node": func(name string, in io.Reader, out io.Writer) error {
			return kubeletapi.Dial(node.Listener.Addr().String(), trust(node)).Attach(t.Context(), kubeletapi.Target{Namespace: "default", Pod: name, Container: "c"},
				kubeletapi.Streams{Stdin: in, Stdout: out})
		},
	} {
		t.Run(how, func(t *testing.T) {
			p := simple(how)
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.Containers[0].Stdin = true
			w.create(p)
			w.eventually("ready", func() bool { return w.ready(how) })
			typed, in := io.Pipe()
			said, out := io.Pipe()
			defer in.Close()
			done := make(chan error, 1)
			go func() { done <- f(how, typed, out) }()
			if _, err := io.WriteString(in, "typed"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(said, got); err != nil || string(got) != "typed" {
				t.Fatalf("%v, %q", err, got)
			}
			select {
			case err := <-done:
				t.Fatalf("the attachment ended before the container: %v", err)
			default:
			}
			w.do([]string{"crash", how, "0"})
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("at the container's end: %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the attachment does not end with the container")
			}
			w.eventually("over", func() bool { return w.pod(how).Status.Phase == corev1.PodSucceeded })
			if err := f(how, strings.NewReader(""), io.Discard); err == nil {
				t.Error("attached to a pod that is over")
			}
		})
	}
}

func TestPortForward(t *testing.T) {
	w, node, front := wire(t)
	w.create(simple("a"))
	w.eventually("ready", func() bool { return w.ready("a") })
	echo := func(conn io.ReadWriter, end func()) {
		t.Helper()
		if _, err := io.WriteString(conn, "ping"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "ping" {
			t.Errorf("%v, %q", err, b)
		}
		end()
	}
	t.Run("node", func(t *testing.T) {
		here, there := newPipe()
		done := make(chan error, 1)
		go func() {
			done <- kubeletapi.Dial(node.Listener.Addr().String(), trust(node)).PortForward(t.Context(), kubeletapi.Target{Namespace: "default", Pod: "a"}, 80, there)
		}()
		echo(here, func() { here.Close() })
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("websocket tunnel", func(t *testing.T) {
		d, err := portforward.NewSPDYOverWebsocketDialer(podURL(t, front, "a", "portforward", nil), front)
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := d.Dial("portforward.k8s.io")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		h := http.Header{}
		h.Set("port", "80")
		h.Set("requestID", "0")
		h.Set("streamType", "error")
		if _, err := c.CreateStream(h); err != nil {
			t.Fatal(err)
		}
		h.Set("streamType", "data")
		s, err := c.CreateStream(h)
		if err != nil {
			t.Fatal(err)
		}
		echo(s, func() { s.Close() })
	})
}

type pipeEnd struct {
	io.Reader
	io.WriteCloser
}

func newPipe() (a, b pipeEnd) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return pipeEnd{r1, w2}, pipeEnd{r2, w1}
}

func get(t *testing.T, c *rest.Config, u *url.URL) (int, string) {
	t.Helper()
	tr, err := rest.TransportFor(c)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr}).Get(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestLogs(t *testing.T) {
	w, _, front := wire(t)
	w.create(script(simple("one"), "c", `log="hello world"`))
	w.create(simple("two", "x", "y"))
	stuck := script(simple("stuck"), "c", `pull=no`)
	stuck.Spec.Containers[0].Image = "other:1"
	w.create(stuck)
	w.eventually("ready", func() bool { return w.ready("one") && w.ready("two") })
	w.eventually("waiting", func() bool {
		s := w.pod("stuck").Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason != "ContainerCreating"
	})
	unbound := simple("unbound")
	unbound.Namespace = "default"
	if _, err := core.Pod.Create(t.Context(), w.api, unbound); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pod, query, text string
		code             int
	}{
		{"one", "", "hello world\n", 200},
		{"one", "container=c&tailLines=0", "", 200},
		{"one", "limitBytes=5", "hello", 200},
		{"one", "previous=true", `previous terminated container \"c\" in pod \"one\" not found`, 400},
		{"one", "container=z", "container z is not valid for pod one", 400},
		{"one", "tailLines=-1", "tailLines: Invalid value", 422},
		{"two", "", "a container name must be specified for pod two, choose one of: [x y]", 400},
		{"stuck", "", `container \"c\" in pod \"stuck\" is waiting to start: trying and failing to pull image`, 400},
		{"unbound", "", "", 200},
		{"missing", "", `pods \"missing\" not found`, 404},
	} {
		q, _ := url.ParseQuery(c.query)
		code, body := get(t, front, podURL(t, front, c.pod, "log", q))
		if code != c.code || (c.code == 200 && body != c.text) || !strings.Contains(body, c.text) {
			t.Errorf("%s?%s: %d %q; want %d %q", c.pod, c.query, code, body, c.code, c.text)
		}
	}
}
