// Package reach is how the control plane calls what runs in the cluster, or
// beside it: a port of a Service, or a URL, always over TLS. Aggregated API
// servers and webhooks are called through it.
//
//	Net.To(Target) ── Way ── a request ── ready endpoint of the Service now ── connection to it
//
// Where a Service leads is read from the server's state with every request and
// with every dial, so a change is seen at once and nothing has to be told.
// Connections are kept while they are used and for a short time after that.
package reach

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"proa/internal/api"
)

// Limits of every connection. A request has the limits of its context.
const (
	dialTimeout      = 3 * time.Second // to one address
	handshakeTimeout = 5 * time.Second
	idleTimeout      = 45 * time.Second
	pingAfter        = 15 * time.Second // of silence on an HTTP/2 connection that carries something
	pingTimeout      = 10 * time.Second
	forgetAfter      = 10 * time.Minute // an unused Way
)

// A Target is what is to be called and how it proves itself: by a certificate
// for <name>.<namespace>.svc, or for the host of the URL.
type Target struct {
	Namespace, Name string // of a Service
	Port            int32  // of the Service; 443 if 0

	URL string // instead of a Service: https, with an optional path and query

	CA       []byte // PEM of the authorities that its certificate may be of; the system's if empty
	Insecure bool   // any certificate will do
}

// Host is the name that the target's certificate is for.
func (t Target) Host() string {
	if t.URL != "" {
		if u, err := url.Parse(t.URL); err == nil {
			return u.Hostname()
		}
		return ""
	}
	return t.Name + "." + t.Namespace + ".svc"
}

func (t Target) port() int32 { return cmp.Or(t.Port, 443) }

func (t Target) String() string {
	if t.URL != "" {
		return t.URL
	}
	return fmt.Sprintf("service \"%s/%s\" port %d", t.Namespace, t.Name, t.port())
}

// A key tells targets apart that need connections of their own.
type key struct {
	what     string
	ca       [sha256.Size]byte
	insecure bool
}

// A Net makes Ways and keeps them. Reads is required.
type Net struct {
	Reads api.Handler // where Services and EndpointSlices are read

	// Certificate is what the control plane proves itself with to those that ask;
	// nothing if nil. It is called with every handshake.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)

	// Dial connects; a net.Dialer's if nil.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu   sync.Mutex
	ways map[key]*Way
}

// To returns the way to a target, the same one for the same target. Errors are
// about what the target says, never about whether it answers.
func (n *Net) To(t Target) (*Way, error) {
	k := key{t.String(), sha256.Sum256(t.CA), t.Insecure}
	now := time.Now().Unix()
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.ways[k]; w != nil {
		w.used.Store(now)
		return w, nil
	}
	w, err := n.newWay(t)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", t, err)
	}
	w.used.Store(now)
	for old, o := range n.ways {
		if now-o.used.Load() > int64(forgetAfter/time.Second) {
			o.CloseIdle()
			delete(n.ways, old)
		}
	}
	if n.ways == nil {
		n.ways = map[key]*Way{}
	}
	n.ways[k] = w
	return w, nil
}

// CloseIdle ends the connections that carry nothing.
func (n *Net) CloseIdle() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.ways {
		w.CloseIdle()
	}
}

// A Way leads to one target. It is an http.RoundTripper whose requests go to
// the target whatever host their URL names.
type Way struct {
	net    *Net
	target Target
	url    *url.URL        // of a URL target
	used   atomic.Int64    // when, in seconds
	any    *http.Transport // HTTP/2, or HTTP/1.1 for those that do not have it
	http1  *http.Transport // for upgrades
}

var _ http.RoundTripper = (*Way)(nil)

func (n *Net) newWay(t Target) (*Way, error) {
	w := &Way{net: n, target: t}
	if t.URL != "" {
		u, err := url.Parse(t.URL)
		if err != nil {
			return nil, err
		}
		if u.Scheme != "https" || u.Hostname() == "" {
			return nil, errors.New("only https URLs with a host are called")
		}
		w.url = u
	}
	conf := &tls.Config{ServerName: t.Host(), InsecureSkipVerify: t.Insecure, GetClientCertificate: n.Certificate, MinVersion: tls.VersionTLS12}
	if len(t.CA) > 0 && !t.Insecure {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(t.CA) {
			return nil, errors.New("the CA bundle has no certificate")
		}
	}
	w.any, w.http1 = w.transport(conf, true), w.transport(conf, false)
	return w, nil
}

func (w *Way) transport(conf *tls.Config, http2 bool) *http.Transport {
	t := &http.Transport{
		TLSClientConfig: conf.Clone(), DialContext: w.dial, Protocols: new(http.Protocols),
		TLSHandshakeTimeout: handshakeTimeout, IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: 16,
		ExpectContinueTimeout: time.Second, DisableCompression: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	t.Protocols.SetHTTP1(true)
	t.Protocols.SetHTTP2(http2)
	if !http2 {
		t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	return t
}

// URL is the target's own URL: what requests are addressed to, and what errors name.
func (w *Way) URL(path string) *url.URL {
	if w.url == nil {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(w.target.Host(), strconv.Itoa(int(w.target.port()))), Path: path}
	}
	u := *w.url
	if path != "" {
		u.Path = path
	}
	return &u
}

// Client is an HTTP client of the target that gives every call this long, body
// and all, and follows no redirects; without a limit if 0.
func (w *Way) Client(limit time.Duration) *http.Client {
	return &http.Client{Transport: w, Timeout: limit, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// RoundTrip sends a request to the target. A Service that leads nowhere is a 503
// *errors.StatusError of k8s.io/apimachinery/pkg/api/errors.
func (w *Way) RoundTrip(req *http.Request) (*http.Response, error) { return w.send(w.any, req) }

// Upgrades returns a RoundTripper like the Way itself for requests that ask to
// upgrade the connection: it speaks HTTP/1.1, the one version that can be.
func (w *Way) Upgrades() http.RoundTripper { return upgrades{w} }

type upgrades struct{ w *Way }

func (u upgrades) RoundTrip(req *http.Request) (*http.Response, error) {
	return u.w.send(u.w.http1, req)
}

func (w *Way) send(t *http.Transport, req *http.Request) (*http.Response, error) {
	w.used.Store(time.Now().Unix())
	addr, err := w.pick(req.Context())
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	out := req.WithContext(req.Context())
	u := *req.URL
	u.Scheme, u.Host = "https", addr
	out.URL, out.Host = &u, w.URL("").Host
	return t.RoundTrip(out)
}

// CloseIdle ends the connections that carry nothing.
func (w *Way) CloseIdle() {
	w.any.CloseIdleConnections()
	w.http1.CloseIdleConnections()
}

// pick chooses the address that a request goes to.
func (w *Way) pick(ctx context.Context) (string, error) {
	if w.url != nil {
		return net.JoinHostPort(w.url.Hostname(), cmp.Or(w.url.Port(), "443")), nil
	}
	addrs, err := Resolve(ctx, w.net.Reads, w.target.Namespace, w.target.Name, w.target.port())
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

// dial connects to an address that was picked. If that fails, other endpoints of
// the Service are tried: the connection is kept under the address asked for.
func (w *Way) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := w.connect(ctx, network, addr)
	if err == nil || w.url != nil || ctx.Err() != nil {
		return c, err
	}
	others, rerr := Resolve(ctx, w.net.Reads, w.target.Namespace, w.target.Name, w.target.port())
	if rerr != nil {
		return nil, err
	}
	for _, other := range others[:min(3, len(others))] {
		if other == addr {
			continue
		}
		if c, oerr := w.connect(ctx, network, other); oerr == nil {
			return c, nil
		}
	}
	return nil, err
}

func (w *Way) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if w.net.Dial != nil {
		return w.net.Dial(ctx, network, addr)
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}
