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
	discoveryv1 "k8s.io/api/discovery/v1"
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
	// LocalAgent holds these agents themselves; see [Nodes.Agent].
	LocalAgent func(name string) Agent

	// Pod reads a Pod, and Slices the EndpointSlices of a service.
	Pod    func(ctx context.Context, h api.Handler, ns, name string) (*corev1.Pod, error)
	Slices func(ctx context.Context, h api.Handler, ns, service string) ([]*discoveryv1.EndpointSlice, error)
	// Dial reaches pods and nodes for the proxies; net.Dialer's if nil.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex
	pods  *http.Transport
	known map[string]http.Handler // by address
	asked map[string]Agent        // by address
}

// Agent returns the agent of a node: the one in this process, or one that is
// asked at the address that [Nodes.Handler] calls.
func (n *Nodes) Agent(ctx context.Context, h api.Handler, name string) (Agent, error) {
	if n.LocalAgent != nil {
		if a := n.LocalAgent(name); a != nil {
			return a, nil
		}
	}
	addr, err := n.address(ctx, h, name)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asked[addr] == nil {
		if n.asked == nil {
			n.asked = map[string]Agent{}
		}
		n.asked[addr] = Dial(addr, n.TLS)
	}
	return n.asked[addr], nil
}

// Handler returns the server of a node, by its InternalIP (or else its first
// address) and the port in its status.
func (n *Nodes) Handler(ctx context.Context, h api.Handler, name string) (http.Handler, error) {
	if n.Local != nil {
		if l := n.Local(name); l != nil {
			return l, nil
		}
	}
	addr, err := n.address(ctx, h, name)
	if err != nil {
		return nil, err
	}
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

// address is where the server of a node is: host and port.
func (n *Nodes) address(ctx context.Context, h api.Handler, name string) (string, error) {
	node, err := n.Get(ctx, h, name)
	if err != nil {
		return "", err
	}
	host := nodeHost(node)
	if host == "" {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %q has no address yet", name))
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		port = 10250
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), nil
}

// nodeHost is the InternalIP of a node, or else its first address.
func nodeHost(node *corev1.Node) string {
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	if len(node.Status.Addresses) > 0 {
		return node.Status.Addresses[0].Address
	}
	return ""
}

// Subs answers pods/log, pods/exec, pods/attach and pods/portforward by way of
// the pods' nodes, and the proxies of pods, services and nodes. The keys are those of apiserver.Config.Subs.
func Subs(n *Nodes) map[string]api.SubFunc {
	return map[string]api.SubFunc{
		"pods/log":         n.log,
		"pods/exec":        n.command("exec"),
		"pods/attach":      n.command("attach"),
		"pods/portforward": n.portforward,
		"pods/proxy":       n.podProxy,
		"services/proxy":   n.serviceProxy,
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

// podTransport is what every [Nodes.outward] is like.
var podTransport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Proxy: nil,
	TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
