package kubeletapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
	"k8s.io/client-go/tools/remotecommand"
)

// Proxy passes requests on to the node's server at addr (host:port), upgrades
// included. conf holds the certificate that the node knows its caller by.
func Proxy(addr string, conf *tls.Config) http.Handler {
	return proxy("https", addr, &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: false, MaxIdleConnsPerHost: 8,
		IdleConnTimeout: 90 * time.Second, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}})
}

func proxy(scheme, addr string, rt http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = scheme, addr, addr
			// The caller's proof of identity is not the node's to see.
			r.Out.Header.Del("Authorization")
			r.Out.Header.Del("Cookie")
		},
		Transport:     rt,
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				http.Error(w, fmt.Sprintf("error dialing backend: %v", err), http.StatusBadGateway)
			}
		},
	}
}

// Dial returns the agent behind a node's server at addr (host:port). It does not
// connect before the first call.
func Dial(addr string, conf *tls.Config) Agent {
	t := &http.Transport{TLSClientConfig: conf, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, IdleConnTimeout: 90 * time.Second}
	return &client{base: "https://" + addr, conf: conf, http: &http.Client{Transport: t}}
}

type client struct {
	base string
	conf *tls.Config
	http *http.Client
}

func (c *client) get(ctx context.Context, path string, q url.Values) (io.ReadCloser, error) {
	u := c.base + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return nil, &Error{resp.StatusCode, strings.TrimSpace(string(b))}
	}
	return resp.Body, nil
}

func (c *client) Healthy(ctx context.Context) error {
	b, err := c.get(ctx, "/healthz", nil)
	if err == nil {
		b.Close()
	}
	return err
}

func getJSON[T any](ctx context.Context, c *client, path string) (*T, error) {
	b, err := c.get(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	v := new(T)
	return v, json.NewDecoder(b).Decode(v)
}

func (c *client) Pods(ctx context.Context) (*corev1.PodList, error) {
	return getJSON[corev1.PodList](ctx, c, "/pods")
}

func (c *client) Summary(ctx context.Context) (*Summary, error) {
	return getJSON[Summary](ctx, c, "/stats/summary")
}

func (c *client) Resources(ctx context.Context) (*Resources, error) {
	b, err := c.get(ctx, "/metrics/resource", nil)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return ReadResources(b, time.Now())
}

func (c *client) Metrics(ctx context.Context, which string, w io.Writer) error {
	b, err := c.get(ctx, path.Join("/metrics", which), nil)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = io.Copy(w, b)
	return err
}

func (c *client) Logs(ctx context.Context, t Target, o *corev1.PodLogOptions, w io.Writer) error {
	b, err := c.get(ctx, logPath(t), logQuery(o))
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = io.Copy(w, b)
	return err
}

func logPath(t Target) string {
	return "/" + path.Join("containerLogs", t.Namespace, t.Pod, t.Container)
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	flag := func(name string, on bool) {
		if on {
			q.Set(name, "true")
		}
	}
	number := func(name string, n *int64) {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	flag("follow", o.Follow)
	flag("previous", o.Previous)
	flag("timestamps", o.Timestamps)
	number("tailLines", o.TailLines)
	number("limitBytes", o.LimitBytes)
	number("sinceSeconds", o.SinceSeconds)
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.UTC().Format(time.RFC3339Nano))
	}
	if o.Stream != nil {
		q.Set("stream", *o.Stream)
	}
	return q
}

func (c *client) Exec(ctx context.Context, t Target, cmd []string, s Streams) error {
	q := streamQuery(s)
	q["command"] = cmd
	return c.stream(ctx, "exec", t, q, s)
}

func (c *client) Attach(ctx context.Context, t Target, s Streams) error {
	return c.stream(ctx, "attach", t, streamQuery(s), s)
}

func streamQuery(s Streams) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"input": s.Stdin != nil, "output": s.Stdout != nil, "error": s.Stderr != nil && !s.TTY, "tty": s.TTY} {
		if on {
			q.Set(name, "1")
		}
	}
	return q
}

func (c *client) url(verb string, t Target, q url.Values) (*url.URL, error) {
	return url.Parse(c.base + "/" + path.Join(verb, t.Namespace, t.Pod, t.UID, t.Container) + "?" + q.Encode())
}

func (c *client) transport() (*spdy.SpdyRoundTripper, error) {
	return spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{TLS: c.conf, PingPeriod: 5 * time.Second})
}

func (c *client) stream(ctx context.Context, verb string, t Target, q url.Values, s Streams) error {
	u, err := c.url(verb, t, q)
	if err != nil {
		return err
	}
	rt, err := c.transport()
	if err != nil {
		return err
	}
	x, err := remotecommand.NewSPDYExecutorForTransports(rt, rt, http.MethodPost, u)
	if err != nil {
		return err
	}
	o := remotecommand.StreamOptions{Stdin: s.Stdin, Stdout: s.Stdout, Tty: s.TTY}
	if !s.TTY {
		o.Stderr = s.Stderr
	}
	if s.Resize != nil {
		o.TerminalSizeQueue = sizeQueue(s.Resize)
	}
	return x.StreamWithContext(ctx, o)
}

type sizeQueue <-chan Size

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	z, ok := <-q
	if !ok {
		return nil
	}
	return &remotecommand.TerminalSize{Width: z.Width, Height: z.Height}
}

func (c *client) PortForward(ctx context.Context, t Target, port int32, conn io.ReadWriteCloser) error {
	u, err := c.url("portForward", Target{Namespace: t.Namespace, Pod: t.Pod, UID: t.UID}, url.Values{})
	if err != nil {
		return err
	}
	rt, err := c.transport()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, "portforward.k8s.io")
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc, err := rt.NewConnection(resp)
	if err != nil {
		return err
	}
	defer sc.Close()
	stop := context.AfterFunc(ctx, func() { sc.Close() })
	defer stop()
	return forwardOne(sc, port, conn)
}

// forwardOne joins conn to one port over a port-forward connection.
func forwardOne(sc httpstream.Connection, port int32, conn io.ReadWriteCloser) error {
	h := http.Header{}
	h.Set("streamType", "error")
	h.Set("port", strconv.Itoa(int(port)))
	h.Set("requestID", "0")
	errs, err := sc.CreateStream(h)
	if err != nil {
		return err
	}
	errs.Close()
	h.Set("streamType", "data")
	data, err := sc.CreateStream(h)
	if err != nil {
		return err
	}
	said := make(chan error, 1)
	go func() {
		b, err := io.ReadAll(errs)
		if err == nil && len(b) > 0 {
			err = errors.New(string(b))
		}
		said <- err
	}()
	go func() {
		_, _ = io.Copy(data, conn)
		data.Close()
	}()
	_, err = io.Copy(conn, data)
	conn.Close()
	if e := <-said; e != nil {
		return e
	}
	return err
}
