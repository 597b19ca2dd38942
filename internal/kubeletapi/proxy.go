package kubeletapi

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	knet "k8s.io/apimachinery/pkg/util/net"

	"proa/internal/api"
)

// A place is what a proxy subresource stands for: the path that clients know it
// by, up to and with NAME/proxy, and what they ask of it.
type place struct {
	prefix string // as it was escaped
	rest   string // what follows, escaped; empty, or with a slash first
}

func placeOf(r *api.Request) place {
	if r.HTTP == nil {
		return place{}
	}
	p := r.HTTP.URL.EscapedPath()
	at := 0
	for range strings.Count(r.Resource.Path(r.Namespace), "/") + 3 { // the slash after NAME/proxy
		i := strings.IndexByte(p[at:], '/')
		if i < 0 {
			return place{prefix: p}
		}
		at += i + 1
	}
	return place{p[:at-1], p[at-1:]}
}

// redirected sends a client that left out the slash after proxy to where it
// belongs, so that relative links work. False: it is not one.
func (p place) redirected(w http.ResponseWriter, r *http.Request) bool {
	if p.rest != "" || r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Upgrade") != "" {
		return false
	}
	to := p.prefix + "/"
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusMovedPermanently)
	return true
}

// split takes [SCHEME:]NAME[:PORT] apart.
func split(what string, r *api.Request) (scheme, name, port string, err error) {
	scheme, name, port, ok := knet.SplitSchemeNamePort(r.Name)
	if !ok {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", what, r.Name))
	}
	if scheme == "" {
		scheme = "http"
	}
	return scheme, name, port, nil
}

// proxyable refuses addresses that only this machine has.
func proxyable(addr string) error {
	if ip := net.ParseIP(addr); ip == nil || !ip.IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

// podProxy passes HTTP requests on to a port of a pod. Without a port it is the
// first one that the pod declares; a port that has a name may go by it.
func (n *Nodes) podProxy(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	scheme, name, port, err := split("pod", r)
	if err != nil {
		return nil, err
	}
	q := *r
	q.Name = name
	p, err := pod(ctx, env, &q)
	if err != nil {
		return nil, err
	}
	for i := range p.Spec.Containers {
		for _, x := range p.Spec.Containers[i].Ports {
			if port == "" || port == x.Name {
				port = strconv.Itoa(int(x.ContainerPort))
			}
		}
	}
	if err := proxyable(p.Status.PodIP); err != nil {
		return nil, err
	}
	return n.forwardHTTP(r, scheme, p.Status.PodIP, port), nil
}

// serviceProxy passes HTTP requests on to a ready pod of a service. The port is
// one of the service's by name or number; none means the one without a name.
func (n *Nodes) serviceProxy(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	scheme, name, port, err := split("service", r)
	if err != nil {
		return nil, err
	}
	if number, err := strconv.ParseInt(port, 10, 64); err == nil {
		resp, err := env.Handle(ctx, &api.Request{Verb: api.Get, Resource: r.Resource, Namespace: r.Namespace, Name: name})
		if err != nil {
			return nil, err
		}
		svc, ok := resp.Result().(*corev1.Service)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("services/proxy of a %T", resp.Result()))
		}
		if port, ok = portName(svc, number); !ok {
			return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
		}
	}
	slices, err := n.Slices(ctx, env, r.Namespace, name)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, s := range slices {
		found = append(found, n.endpoints(ctx, env, s, port)...)
	}
	if len(found) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", r.Name))
	}
	host, number, err := net.SplitHostPort(found[rand.IntN(len(found))])
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return n.forwardHTTP(r, scheme, host, number), nil
}

func portName(svc *corev1.Service, number int64) (string, bool) {
	for _, p := range svc.Spec.Ports {
		if int64(p.Port) == number {
			return p.Name, true
		}
	}
	return "", false
}

// endpoints are the addresses in a slice that are ready and really those of
// pods: who may write slices must not be able to send the server anywhere.
func (n *Nodes) endpoints(ctx context.Context, env api.Env, s *discoveryv1.EndpointSlice, port string) (out []string) {
	for _, p := range s.Ports {
		if p.Port == nil || (p.Name == nil && port != "") || p.Name != nil && *p.Name != port {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready || !n.ofPod(ctx, env, s.Namespace, e) {
				continue
			}
			out = append(out, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
		}
	}
	return out
}

func (n *Nodes) ofPod(ctx context.Context, env api.Env, ns string, e *discoveryv1.Endpoint) bool {
	t := e.TargetRef
	if t == nil || t.Kind != "Pod" || t.Namespace != ns || proxyable(e.Addresses[0]) != nil {
		return false
	}
	p, err := n.Pod(ctx, env, ns, t.Name)
	if err != nil {
		return false
	}
	for _, ip := range p.Status.PodIPs {
		if ip.IP == e.Addresses[0] {
			return true
		}
	}
	return p.Status.PodIP == e.Addresses[0]
}

// nodeProxy passes HTTP requests on to a node's agent, or to another port of the node.
func (n *Nodes) nodeProxy(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	scheme, name, port, err := split("node", r)
	if err != nil {
		return nil, err
	}
	if port != "" {
		node, err := n.Get(ctx, env, name)
		if err != nil {
			return nil, err
		}
		if port != strconv.Itoa(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)) {
			host := nodeHost(node)
			if err := proxyable(host); err != nil {
				return nil, err
			}
			return n.forwardHTTP(r, scheme, host, port), nil
		}
	}
	h, err := n.Handler(ctx, env, name)
	if err != nil {
		return nil, err
	}
	at := placeOf(r)
	return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if at.redirected(w, req) {
			return
		}
		out := req.Clone(req.Context())
		out.URL = at.url("", "")
		out.URL.RawQuery, out.RequestURI = req.URL.RawQuery, ""
		forgetIdentity(out.Header)
		h.ServeHTTP(w, out)
	})}, nil
}

// url is where a place lies behind the proxy.
func (p place) url(scheme, host string) *url.URL {
	rest := p.rest
	if rest == "" {
		rest = "/"
	}
	u := &url.URL{Scheme: scheme, Host: host, RawPath: rest}
	var err error
	if u.Path, err = url.PathUnescape(rest); err != nil {
		u.Path, u.RawPath = rest, ""
	}
	return u
}

// forwardHTTP answers with what host says, upgrades included.
func (n *Nodes) forwardHTTP(r *api.Request, scheme, host, port string) *api.Response {
	addr := host
	if port != "" {
		addr = net.JoinHostPort(host, port)
	} else if strings.Contains(host, ":") {
		addr = "[" + host + "]"
	}
	at := placeOf(r)
	p := &httputil.ReverseProxy{
		Transport:     n.outward(),
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			query := p.In.URL.RawQuery // as it is: it is not ours to read
			p.Out.URL = at.url(scheme, addr)
			p.Out.URL.RawQuery = query
			p.Out.Host = p.In.Host
			p.SetXForwarded()
			p.Out.Header.Set("X-Forwarded-Uri", at.prefix+p.Out.URL.EscapedPath())
			forgetIdentity(p.Out.Header)
		},
		ModifyResponse: func(resp *http.Response) error { return at.fromBehind(resp, r.HTTP) },
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			if req.Context().Err() == nil {
				refuse(w, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)))
			}
		},
	}
	return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !at.redirected(w, req) {
			p.ServeHTTP(w, req)
		}
	})}
}

// forgetIdentity removes the caller's proof of who it is, which is not for
// others to see.
func forgetIdentity(h http.Header) {
	h.Del("Authorization")
	for name := range h {
		if strings.HasPrefix(name, "Impersonate-") {
			h.Del(name)
		}
	}
}

// outward is the transport to pods. It does not check their certificates:
// nobody could have issued one for their addresses.
func (n *Nodes) outward() http.RoundTripper {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pods == nil {
		n.pods = podTransport.Clone()
		n.pods.DialContext = n.Dial
	}
	return n.pods
}

// refuse answers with a Status.
func refuse(w http.ResponseWriter, err *apierrors.StatusError) {
	st := err.ErrStatus
	st.Kind, st.APIVersion = "Status", "v1"
	b, _ := json.Marshal(st) // plain data
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(st.Code))
	w.Write(b)
}

// fromBehind makes an answer one of this server: what it says of itself leads
// back through the proxy, and it cannot open the API to other origins.
func (p place) fromBehind(resp *http.Response, front *http.Request) error {
	for _, h := range []string{"Credentials", "Headers", "Methods", "Origin"} {
		resp.Header.Del("Access-Control-Allow-" + h)
	}
	host := ""
	if front != nil {
		host = front.Host
	}
	back := func(s string) string { return p.back(s, resp.Request.URL.Host, host) }
	if to := resp.Header.Get("Location"); to != "" {
		if _, err := url.Parse(to); err != nil {
			return fmt.Errorf("error trying to parse Location header: %w", err)
		}
		resp.Header.Set("Location", back(to))
		return nil
	}
	typ, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if strings.TrimSpace(typ) != "text/html" || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	body := resp.Body
	switch enc := resp.Header.Get("Content-Encoding"); enc {
	case "":
		in, out := io.Pipe()
		go func() { out.CloseWithError(rewriteHTML(body, out, back)) }()
		resp.Body = piped{in, body}
	case "gzip":
		in, out := io.Pipe()
		go func() { out.CloseWithError(rewriteGzip(body, out, back)) }()
		resp.Body = piped{in, body}
	default:
		return nil // not to be read here
	}
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	return nil
}

func rewriteGzip(in io.Reader, to io.Writer, back func(string) string) error {
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	out := gzip.NewWriter(to)
	return errors.Join(rewriteHTML(z, out, back), out.Close())
}

// piped ends both ends.
type piped struct {
	*io.PipeReader
	behind io.Closer
}

func (p piped) Close() error { return errors.Join(p.PipeReader.Close(), p.behind.Close()) }

// back is a link as clients of the proxy have to follow it: absolute paths of
// the server behind lie below the proxy's.
func (p place) back(link, behind, front string) string {
	u, err := url.Parse(link)
	if err != nil || u.Host != "" && u.Host != behind && u.Host != front || !strings.HasPrefix(u.Path, "/") {
		return link
	}
	prefix, err := url.PathUnescape(p.prefix)
	if err != nil {
		return link
	}
	if u.Host != front {
		u.Scheme, u.Host = "", ""
	}
	if strings.HasPrefix(u.Path, prefix) {
		return u.String()
	}
	slash := strings.HasSuffix(u.Path, "/")
	u.Path, u.RawPath = path.Join(prefix, u.Path), ""
	if slash {
		u.Path += "/"
	}
	return u.String()
}
