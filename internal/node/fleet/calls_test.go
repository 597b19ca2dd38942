package fleet

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
	"proa/internal/store/memory"
)

// running returns a machine on which the pod p runs, and its server.
func running(t *testing.T) (*Machine, *httptest.Server) {
	t.Helper()
	engine := memory.New(nil)
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: engine, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); _ = engine.Close() })
	for _, ns := range []string{"default", "kube-node-lease"} {
		if _, err := core.Namespace.Create(t.Context(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
			t.Fatal(err)
		}
	}
	m := NewMachine(node.Config{Name: "n", Handler: s, Bare: true, RootDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Machine:   node.Machine{MilliCPU: 1000, Memory: 1 << 30, Storage: 1 << 30},
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}, pretend.Options{CIDR: netip.MustParsePrefix("10.42.0.0/24")})
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); m.Fail() })
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = core.Pod.Create(t.Context(), s, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", Annotations: map[string]string{pretend.Annotation + "c": "log=hello"}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i", Stdin: true}}}})
	if err != nil {
		t.Fatal(err)
	}
	in10s, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for c := range core.Pod.Follow(in10s, s, "default", api.Selectors{}, nil) {
		for _, p := range append(c.All, c.Object) {
			if p != nil && core.PodReady(p) {
				server := httptest.NewTLSServer(m)
				t.Cleanup(server.Close)
				return m, server
			}
		}
	}
	t.Fatal("the pod does not run in 10s")
	return nil, nil
}

// A stream is one that a client has open, and that has carried something both ways.
type stream struct {
	name string
	done chan error // its end, as the client sees it
}

// open opens a stream, which answers says with what it is told.
func open(t *testing.T, name, says, tell string, run func(in io.Reader, out io.Writer) error) stream {
	t.Helper()
	typed, in := io.Pipe()
	said, out := io.Pipe()
	t.Cleanup(func() { in.Close(); said.Close() })
	s := stream{name, make(chan error, 1)}
	go func() {
		err := run(typed, out)
		s.done <- err
		out.CloseWithError(io.ErrUnexpectedEOF)
	}()
	if tell != "" {
		if _, err := io.WriteString(in, tell); err != nil {
			t.Fatal(name, err)
		}
	}
	got := make([]byte, len(says))
	if _, err := io.ReadFull(said, got); err != nil || string(got) != says {
		t.Fatalf("%s: %q, %v", name, got, err)
	}
	return s
}

type ends struct {
	io.Reader
	io.Writer
}

func (ends) Close() error { return nil }

// What clients have open breaks when the machine falls silent, dies, or loses its
// agent, and nothing of it comes back when that is over.
func TestStreamsBreak(t *testing.T) {
	for what, fault := range map[string]func(*Machine){"silence": (*Machine).Cut, "failure": (*Machine).Fail, "crash": (*Machine).StopAgent} {
		t.Run(what, func(t *testing.T) {
			m, server := running(t)
			node := kubeletapi.Dial(server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
			p := kubeletapi.Target{Namespace: "default", Pod: "p", Container: "c"}
			streams := []stream{
				open(t, "exec", "say hello\nping", "ping", func(in io.Reader, out io.Writer) error {
					x, err := remotecommand.NewWebSocketExecutor(&rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, "GET",
						server.URL+"/exec/default/p/c?command=say&command=hello&input=1&output=1")
					if err != nil {
						return err
					}
					return x.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: out})
				}),
				open(t, "exec by SPDY", "say hello\nping", "ping", func(in io.Reader, out io.Writer) error {
					return node.Exec(t.Context(), p, []string{"say", "hello"}, kubeletapi.Streams{Stdin: in, Stdout: out})
				}),
				open(t, "attach", "ping", "ping", func(in io.Reader, out io.Writer) error {
					return node.Attach(t.Context(), p, kubeletapi.Streams{Stdin: in, Stdout: out})
				}),
				open(t, "port-forward", "ping", "ping", func(in io.Reader, out io.Writer) error {
					return node.PortForward(t.Context(), kubeletapi.Target{Namespace: "default", Pod: "p"}, 80, ends{in, out})
				}),
				open(t, "log", "hello\n", "", func(_ io.Reader, out io.Writer) error {
					return node.Logs(t.Context(), p, &corev1.PodLogOptions{Follow: true}, out)
				}),
			}
			for _, s := range streams {
				select {
				case err := <-s.done:
					t.Errorf("%s ended before: %v", s.name, err)
				default:
				}
			}
			fault(m)
			late := time.After(10 * time.Second)
			for _, s := range streams {
				select {
				case err := <-s.done:
					// A client by SPDY cannot tell a lost connection from the end of a command.
					if whole := s.name == "exec" || s.name == "log"; whole && err == nil {
						t.Errorf("%s ended as if nothing was missing", s.name)
					}
				case <-late:
					t.Fatalf("%s goes on", s.name)
				}
			}
			if err := node.Healthy(t.Context()); err == nil || !strings.Contains(err.Error(), "node n does not answer") {
				t.Errorf("who asks it now: %v", err)
			}
			m.Mend()
			if what == "silence" {
				if err := node.Healthy(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
