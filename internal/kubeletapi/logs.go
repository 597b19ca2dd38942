package kubeletapi

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"proa/internal/api"
)

// log answers pods/log: the node's text, as it is or in the messages of a WebSocket.
func (n *Nodes) log(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	q := query(r)
	if err := checkLogOptions(r.Name, q); err != nil {
		return nil, err
	}
	p, err := pod(ctx, env, r)
	if err != nil {
		return nil, err
	}
	c, err := container(p, q.Get("container"))
	if err != nil {
		return nil, err
	}
	if p.Spec.NodeName == "" { // not scheduled: there is no log yet, and that is no error
		return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusOK)
		})}, nil
	}
	h, err := n.Handler(ctx, env, p.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	for _, own := range []string{"container", "pretty", "insecureSkipTLSVerifyBackend"} {
		q.Del(own)
	}
	resp := to(h, logPath(Target{Namespace: p.Namespace, Pod: p.Name, Container: c}), q)
	resp.Connect = inMessages(statuses(resp.Connect))
	return resp, nil
}

// checkLogOptions refuses what PodLogOptions cannot be.
func checkLogOptions(name string, q url.Values) error {
	var errs field.ErrorList
	has := map[string]bool{}
	for _, number := range []struct {
		name string
		low  int64
		says string
	}{
		{"tailLines", 0, "must be greater than or equal to 0"},
		{"limitBytes", 1, "must be greater than 0"},
		{"sinceSeconds", 1, "must be greater than 0"},
	} {
		v := q.Get(number.name)
		if v == "" {
			continue
		}
		x, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		if has[number.name] = true; x < number.low {
			errs = append(errs, field.Invalid(field.NewPath(number.name), x, number.says))
		}
	}
	if t := q.Get("sinceTime"); t != "" {
		if _, err := time.Parse(time.RFC3339, t); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		if has["sinceSeconds"] {
			errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
		}
	}
	streams := []string{corev1.LogStreamAll, corev1.LogStreamStderr, corev1.LogStreamStdout}
	switch s := q.Get("stream"); {
	case s == "" || s == corev1.LogStreamAll:
	case !slices.Contains(streams, s):
		errs = append(errs, field.NotSupported(field.NewPath("stream"), s, streams))
	case has["tailLines"]:
		errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, name, errs)
	}
	return nil
}

// inMessages lets clients read what h writes over a WebSocket, with the
// subprotocols binary.k8s.io and base64.binary.k8s.io. An answer that is an
// error is an ordinary one.
func inMessages(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !wsstream.IsWebSocketRequest(r) {
			h.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		in, out := io.Pipe()
		defer in.Close()
		m := &messages{w: w, to: out, begun: make(chan struct{}), header: http.Header{}}
		var over sync.WaitGroup
		var broke any // what h panicked with: such is how an answer breaks off
		over.Go(func() {
			defer func() {
				if broke = recover(); broke != nil {
					m.breakOff()
				}
			}()
			plain := r.Clone(ctx)
			for _, name := range []string{"Connection", "Upgrade"} {
				plain.Header.Del(name)
			}
			for name := range plain.Header {
				if strings.HasPrefix(name, "Sec-Websocket-") {
					plain.Header.Del(name)
				}
			}
			h.ServeHTTP(m, plain)
			m.WriteHeader(http.StatusOK)
			out.Close()
		})
		<-m.begun
		if m.code < 400 {
			_ = wsstream.NewReader(in, true, wsstream.NewDefaultReaderProtocols()).Copy(w, r)
		}
		cancel()
		in.Close()
		over.Wait()
		if broke != nil {
			panic(broke) // where somebody waits for it
		}
	})
}

// messages takes an answer: errors go to the client, everything else to a pipe.
type messages struct {
	w      http.ResponseWriter
	to     *io.PipeWriter
	header http.Header
	begun  chan struct{}
	code   int
}

func (m *messages) Header() http.Header { return m.header }

func (m *messages) WriteHeader(code int) {
	if m.code != 0 {
		return
	}
	if m.code = code; code >= 400 {
		for k, v := range m.header {
			m.w.Header()[k] = v
		}
		m.w.WriteHeader(code)
	}
	close(m.begun)
}

func (m *messages) Write(b []byte) (int, error) {
	if m.WriteHeader(http.StatusOK); m.code >= 400 {
		return m.w.Write(b)
	}
	return m.to.Write(b)
}

// breakOff ends an answer that nothing more comes of.
func (m *messages) breakOff() {
	if m.code == 0 {
		m.code = http.StatusBadGateway
		close(m.begun)
	}
	m.to.CloseWithError(io.ErrUnexpectedEOF)
}

// FlushError does nothing: a pipe keeps nothing back.
func (m *messages) FlushError() error { return nil }
