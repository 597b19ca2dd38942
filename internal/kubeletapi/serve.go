package kubeletapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Times of streams, as the kubelet has them.
const (
	idleTimeout   = 4 * time.Hour
	createTimeout = remotecommand.DefaultStreamCreationTimeout
)

// Serve puts an agent on the wire. Who may ask is decided before: what it returns
// answers everybody.
func Serve(a Agent) http.Handler {
	s := &server{a}
	m := http.NewServeMux()
	m.HandleFunc("/healthz", s.health)
	m.HandleFunc("/healthz/{check...}", s.health)
	m.HandleFunc("GET /pods", s.pods)
	m.HandleFunc("GET /stats/summary", s.summary)
	m.HandleFunc("GET /metrics", s.metrics)
	m.HandleFunc("GET /metrics/{which}", s.metrics)
	m.HandleFunc("GET /containerLogs/{ns}/{pod}/{container}", s.logs)
	for _, p := range []string{"/{ns}/{pod}/{container}", "/{ns}/{pod}/{uid}/{container}"} {
		m.HandleFunc("/exec"+p, s.exec)
		m.HandleFunc("/attach"+p, s.attach)
		m.HandleFunc("POST /run"+p, s.run)
	}
	m.HandleFunc("/portForward/{ns}/{pod}", s.forward)
	m.HandleFunc("/portForward/{ns}/{pod}/{uid}", s.forward)
	return m
}

type server struct{ a Agent }

func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var e *Error
	if errors.As(err, &e) {
		code = e.Code
	}
	http.Error(w, err.Error(), code)
}

func target(r *http.Request) Target {
	return Target{Namespace: r.PathValue("ns"), Pod: r.PathValue("pod"), Container: r.PathValue("container"), UID: r.PathValue("uid")}
}

func (s *server) health(w http.ResponseWriter, r *http.Request) {
	if err := s.a.Healthy(r.Context()); err != nil {
		fail(w, err)
		return
	}
	_, _ = io.WriteString(w, "ok")
}

func (s *server) pods(w http.ResponseWriter, r *http.Request) {
	l, err := s.a.Pods(r.Context())
	if err == nil {
		l.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}
	}
	answer(w, l, err)
}

func (s *server) summary(w http.ResponseWriter, r *http.Request) {
	sum, err := s.a.Summary(r.Context())
	answer(w, sum, err)
}

func answer[T any](w http.ResponseWriter, v *T, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := s.a.Metrics(r.Context(), r.PathValue("which"), w); err != nil {
		fail(w, err)
	}
}

// A flusher sends what is written at once, and begins the answer with the first write.
type flusher struct{ w http.ResponseWriter }

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	o, err := logOptions(r)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	began := false
	out := writerFunc(func(b []byte) (int, error) {
		began = true
		if o.Follow {
			return flusher{w}.Write(b)
		}
		return w.Write(b)
	})
	if o.Follow {
		defer func() { _ = http.NewResponseController(w).Flush() }()
	}
	if err := s.a.Logs(r.Context(), target(r), o, out); err != nil && !began {
		fail(w, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// logOptions reads what a client wants of a log.
func logOptions(r *http.Request) (*corev1.PodLogOptions, error) {
	q := r.URL.Query()
	o := &corev1.PodLogOptions{Container: r.PathValue("container")}
	flag := func(name string) bool {
		v := q.Get(name)
		b, err := strconv.ParseBool(v)
		return err == nil && b || v == "" && q.Has(name)
	}
	o.Follow, o.Previous, o.Timestamps = flag("follow"), flag("previous"), flag("timestamps")
	number := func(name string) (*int64, error) {
		if q.Get(name) == "" {
			return nil, nil
		}
		n, err := strconv.ParseInt(q.Get(name), 10, 64)
		if err != nil {
			return nil, BadRequest("%s: %q is not a number", name, q.Get(name))
		}
		return &n, nil
	}
	var err error
	if o.TailLines, err = number("tailLines"); err != nil {
		return nil, err
	}
	if o.LimitBytes, err = number("limitBytes"); err != nil {
		return nil, err
	}
	if o.SinceSeconds, err = number("sinceSeconds"); err != nil {
		return nil, err
	}
	if t := q.Get("sinceTime"); t != "" {
		at, err := time.Parse(time.RFC3339Nano, t)
		if err != nil {
			return nil, BadRequest("sinceTime: %q is not a time as of RFC 3339", t)
		}
		o.SinceTime = &metav1.Time{Time: at}
	}
	if v := q.Get("stream"); v != "" {
		o.Stream = &v
	}
	return o, nil
}

// An executor is the agent in the shape that cri-streaming calls.
type executor struct {
	a Agent
	t Target
}

func (e executor) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return e.a.Exec(ctx, e.t, cmd, streams(ctx, in, out, errOut, tty, resize))
}

func (e executor) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return e.a.Attach(ctx, e.t, streams(ctx, in, out, errOut, tty, resize))
}

func (e executor) PortForward(ctx context.Context, _, _ string, port int32, conn io.ReadWriteCloser) error {
	return e.a.PortForward(ctx, e.t, port, conn)
}

func streams(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) Streams {
	s := Streams{TTY: tty}
	if in != nil {
		s.Stdin = in
	}
	if out != nil {
		s.Stdout = out
	}
	if errOut != nil {
		s.Stderr = errOut
	}
	if resize != nil {
		to := make(chan Size)
		s.Resize = to
		go func() {
			defer close(to)
			for {
				select {
				case z, ok := <-resize:
					if !ok {
						return
					}
					select {
					case to <- Size{z.Width, z.Height}:
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return s
}

func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	o, err := remotecommand.NewOptions(r)
	if err != nil {
		fail(w, BadRequest("%s", err))
		return
	}
	cmd := r.URL.Query()["command"]
	if len(cmd) == 0 {
		fail(w, BadRequest("you must specify a command"))
		return
	}
	t := target(r)
	x := executor{s.a, t}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	if wsstream.IsWebSocketRequest(r) {
		serveWebSocket(w, r, o, func(st Streams) error { return s.a.Exec(ctx, t, cmd, st) })
		return
	}
	remotecommand.ServeExec(w, r, x, t.Pod, t.UID, t.Container, cmd, o, idleTimeout, createTimeout, remotecommand.SupportedStreamingProtocols)
}

func (s *server) attach(w http.ResponseWriter, r *http.Request) {
	o, err := remotecommand.NewOptions(r)
	if err != nil {
		fail(w, BadRequest("%s", err))
		return
	}
	t := target(r)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	if wsstream.IsWebSocketRequest(r) {
		serveWebSocket(w, r, o, func(st Streams) error { return s.a.Attach(ctx, t, st) })
		return
	}
	remotecommand.ServeAttach(w, r, executor{s.a, t}, t.Pod, t.UID, t.Container, o, idleTimeout, createTimeout, remotecommand.SupportedStreamingProtocols)
}

// run answers the old "run a command and give me its output".
func (s *server) run(w http.ResponseWriter, r *http.Request) {
	cmd := strings.Fields(r.URL.Query().Get("cmd"))
	if len(cmd) == 0 {
		fail(w, BadRequest("you must specify a command"))
		return
	}
	out := flusher{w}
	if err := s.a.Exec(r.Context(), target(r), cmd, Streams{Stdout: out, Stderr: out}); err != nil {
		fail(w, err)
	}
}

func (s *server) forward(w http.ResponseWriter, r *http.Request) {
	t := target(r)
	x := executor{s.a, t}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		serveTunnel(w, r, x, t)
		return
	}
	var o *portforward.V4Options
	if wsstream.IsWebSocketRequest(r) {
		var err error
		if o, err = portforward.NewV4Options(r); err != nil {
			fail(w, BadRequest("%s", err))
			return
		}
	}
	portforward.ServePortForward(w, r, x, t.Pod, t.UID, o, idleTimeout, createTimeout, portforward.SupportedProtocols)
}
