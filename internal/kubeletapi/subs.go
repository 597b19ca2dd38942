package kubeletapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
)

// Nodes finds the way to nodes' servers.
type Nodes struct {
	// Get reads a Node.
	Get func(ctx context.Context, h api.Handler, name string) (*corev1.Node, error)
	// TLS is for calls to nodes: the client certificate that they know, and the
	// authorities of theirs. Nodes are called by address; see [Nodes.Handler].
	TLS *tls.Config
	// Local holds the servers of nodes in this process, by name: [Serve] of their
	// agents. They are called without a connection.
	Local func(name string) http.Handler

	mu    sync.Mutex
	known map[string]http.Handler // by address
}

// Handler returns the server of a node, by its InternalIP (or else its first
// address) and the port in its status.
func (n *Nodes) Handler(ctx context.Context, h api.Handler, name string) (http.Handler, error) {
	if n.Local != nil {
		if l := n.Local(name); l != nil {
			return l, nil
		}
	}
	node, err := n.Get(ctx, h, name)
	if err != nil {
		return nil, err
	}
	host := ""
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			host = a.Address
			break
		}
		if host == "" {
			host = a.Address
		}
	}
	if host == "" {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %q has no address yet", name))
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		port = 10250
	}
	addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[addr] == nil {
		if n.known == nil {
			n.known = map[string]http.Handler{}
		}
		n.known[addr] = Proxy(addr, n.TLS)
	}
	return n.known[addr], nil
}

// Subs answers pods/log, pods/exec, pods/attach, pods/portforward, pods/proxy and
// nodes/proxy by way of the pods' nodes. The keys are those of apiserver.Config.Subs.
func Subs(n *Nodes) map[string]api.SubFunc {
	return map[string]api.SubFunc{
		"pods/log":         n.log,
		"pods/exec":        n.command("exec"),
		"pods/attach":      n.command("attach"),
		"pods/portforward": n.portforward,
		"pods/proxy":       podProxy,
		"nodes/proxy":      n.nodeProxy,
	}
}

// pod reads the pod that a request is about.
func pod(ctx context.Context, env api.Env, r *api.Request) (*corev1.Pod, error) {
	resp, err := env.Handle(ctx, &api.Request{Verb: api.Get, Resource: r.Resource, Namespace: r.Namespace, Name: r.Name})
	if err != nil {
		return nil, err
	}
	p, ok := resp.Result().(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("pods/%s of a %T", r.Sub, resp.Result()))
	}
	return p, nil
}

func names(cs []corev1.Container) (out []string) {
	for i := range cs {
		out = append(out, cs[i].Name)
	}
	return out
}

// container picks the container that is meant: the only one, or the one named.
func container(p *corev1.Pod, name string) (string, error) {
	main, init := names(p.Spec.Containers), names(p.Spec.InitContainers)
	var debug []string
	for i := range p.Spec.EphemeralContainers {
		debug = append(debug, p.Spec.EphemeralContainers[i].Name)
	}
	if name != "" {
		if !slices.Contains(slices.Concat(main, init, debug), name) {
			return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
		}
		return name, nil
	}
	if len(main) == 1 {
		return main[0], nil
	}
	if len(main) == 0 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", p.Name))
	}
	text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", p.Name, strings.Join(main, " "))
	if len(init) > 0 {
		text += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(init, " "))
	}
	if len(debug) > 0 {
		text += fmt.Sprintf(" or one of the ephemeral containers: [%s]", strings.Join(debug, " "))
	}
	return "", apierrors.NewBadRequest(text)
}

func query(r *api.Request) url.Values {
	if r.HTTP == nil {
		return url.Values{}
	}
	return r.HTTP.URL.Query()
}

// to answers with what another server says to the same request at another path.
func to(h http.Handler, path string, q url.Values) *api.Response {
	return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := r.Clone(r.Context())
		out.URL = &url.URL{Path: path, RawQuery: q.Encode()}
		out.RequestURI = ""
		h.ServeHTTP(w, out)
	})}
}

func (n *Nodes) log(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	p, err := pod(ctx, env, r)
	if err != nil {
		return nil, err
	}
	q := query(r)
	if s := q.Get("stream"); s != "" && s != "All" && s != "Stdout" && s != "Stderr" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("stream: Unsupported value: %q: supported values: \"All\", \"Stderr\", \"Stdout\"", s))
	}
	c, err := container(p, q.Get("container"))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"tailLines", "sinceSeconds", "limitBytes"} {
		low := int64(1)
		if name == "tailLines" {
			low = 0
		}
		if v := q.Get(name); v != "" {
			if x, err := strconv.ParseInt(v, 10, 64); err != nil || x < low {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("%s: Invalid value: %q: must be greater than or equal to %d", name, v, low))
			}
		}
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
	q.Del("container")
	q.Del("pretty")
	if q.Get("insecureSkipTLSVerifyBackend") != "" {
		q.Del("insecureSkipTLSVerifyBackend")
	}
	resp := to(h, logPath(Target{Namespace: p.Namespace, Pod: p.Name, Container: c}), q)
	resp.Connect = statuses(resp.Connect)
	return resp, nil
}

func (n *Nodes) command(verb string) api.SubFunc {
	return func(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
		p, err := pod(ctx, env, r)
		if err != nil {
			return nil, err
		}
		q := query(r)
		c, err := container(p, q.Get("container"))
		if err != nil {
			return nil, err
		}
		if ph := p.Status.Phase; ph == corev1.PodSucceeded || ph == corev1.PodFailed {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot %s into a container in a completed pod; current phase is %s", verb, ph))
		}
		flag := func(name string) bool { b, err := strconv.ParseBool(q.Get(name)); return err == nil && b }
		out := url.Values{}
		for from, name := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
			if flag(from) {
				out.Set(name, "1")
			}
		}
		if !flag("stdin") && !flag("stdout") && !flag("stderr") {
			return nil, apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
		}
		if verb == "exec" {
			if out["command"] = q["command"]; len(q["command"]) == 0 {
				return nil, apierrors.NewBadRequest("you must specify at least one command for the container")
			}
		}
		if p.Spec.NodeName == "" {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", p.Name))
		}
		h, err := n.Handler(ctx, env, p.Spec.NodeName)
		if err != nil {
			return nil, err
		}
		return to(h, "/"+verb+"/"+p.Namespace+"/"+p.Name+"/"+c, out), nil
	}
}

func (n *Nodes) portforward(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	p, err := pod(ctx, env, r)
	if err != nil {
		return nil, err
	}
	if p.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", p.Name))
	}
	h, err := n.Handler(ctx, env, p.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	if ports := query(r)["ports"]; len(ports) > 0 { // the old WebSocket form names them here
		q["port"] = ports
	}
	return to(h, "/portForward/"+p.Namespace+"/"+p.Name, q), nil
}

// rest is what follows NAME/proxy in the path of a request.
func rest(r *api.Request) string {
	_, after, _ := strings.Cut(r.HTTP.URL.Path, "/"+r.Name+"/"+r.Sub)
	if after == "" {
		return "/"
	}
	return after
}

// podProxy passes an HTTP request on to a port of a pod: name, name:port or
// scheme:name:port. Without a port it is the first one that the pod declares.
func podProxy(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	scheme, name, port := "http", r.Name, ""
	switch parts := strings.Split(r.Name, ":"); len(parts) {
	case 2:
		name, port = parts[0], parts[1]
	case 3:
		scheme, name, port = parts[0], parts[1], parts[2]
	}
	if scheme == "" {
		scheme = "http"
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
	if port == "" {
		port = "80"
	}
	if p.Status.PodIP == "" {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address yet", name))
	}
	if ip := net.ParseIP(p.Status.PodIP); ip == nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		return nil, apierrors.NewBadRequest("address not allowed")
	}
	addr := net.JoinHostPort(p.Status.PodIP, port)
	prefix := ""
	if r.HTTP != nil {
		prefix = strings.TrimSuffix(r.HTTP.URL.Path, rest(r))
	}
	return &api.Response{Connect: http.StripPrefix(prefix, proxy(scheme, addr, podTransport))}, nil
}

// podTransport does not check pods' certificates: nobody could have issued one
// for their addresses.
var podTransport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Proxy: nil,
	TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}

func (n *Nodes) nodeProxy(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	name, _, _ := strings.Cut(r.Name, ":")
	h, err := n.Handler(ctx, env, name)
	if err != nil {
		return nil, err
	}
	path := "/"
	if r.HTTP != nil {
		path = rest(r)
	}
	return to(h, path, query(r)), nil
}
