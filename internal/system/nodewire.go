package system

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/internal/api"
	"proa/internal/apiserver/access"
	"proa/internal/httpapi"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/kubeletapi"
	"proa/internal/node/gate"
	"proa/internal/pki"
)

// agents are the nodes of this process, which the API server asks without a connection.
type agents struct {
	mu     sync.Mutex
	byNode map[string]http.Handler
	known  map[string]func() kubeletapi.Agent
}

func (a *agents) add(node string, agent kubeletapi.Agent) {
	a.set(node, kubeletapi.Serve(agent), func() kubeletapi.Agent { return agent })
}

// set says what answers for a node: over HTTP, and by calls.
func (a *agents) set(node string, h http.Handler, agent func() kubeletapi.Agent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byNode == nil {
		a.byNode, a.known = map[string]http.Handler{}, map[string]func() kubeletapi.Agent{}
	}
	a.byNode[node], a.known[node] = h, agent
}

func (a *agents) get(node string) http.Handler {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byNode[node]
}

func (a *agents) agent(node string) kubeletapi.Agent {
	a.mu.Lock()
	known := a.known[node]
	a.mu.Unlock()
	if known == nil {
		return nil
	}
	return known()
}

// nodes finds the way to the agents.
func (p *plane) nodes() *kubeletapi.Nodes {
	return &kubeletapi.Nodes{
		Get: func(ctx context.Context, h api.Handler, name string) (*corev1.Node, error) {
			return core.Node.Get(ctx, h, "", name)
		},
		Pod: core.Pod.Get,
		Slices: func(ctx context.Context, h api.Handler, ns, service string) ([]*discoveryv1.EndpointSlice, error) {
			return discovery.EndpointSlice.List(ctx, h, ns, api.WithLabels(map[string]string{discoveryv1.LabelServiceName: service}))
		},
		TLS: p.nodeTLS, Local: p.agents.get, LocalAgent: p.agents.agent,
	}
}

// serveNode puts the node's own API on the wire, for those whom the API server lets
// ask it. Client certificates are asked for in the handshake and judged after it, as
// the API server does.
func (s *system) serveNode(ctx context.Context, p *plane, h http.Handler) error {
	l, err := s.listen("", s.Ports.Node, "the node's own API")
	if err != nil {
		return err
	}
	cert, err := s.certificate("node", pki.Leaf{User: "system:node:" + s.id.NodeName, Groups: []string{api.GroupNodes}, Server: true,
		Hosts: []string{s.id.NodeName, s.address.String(), "localhost", "127.0.0.1"}})
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Cert)
	g := nodeGate(p.asNode(s.id.NodeName), s.id.NodeName, roots, s.now)
	server := httpapi.Server("", nodeServerTLS(cert.Server, roots), g.Guard(h))
	s.part(ctx, "the node's HTTPS server", func(ctx context.Context) error { return serveUntil(ctx, server, l) })
	return nil
}

// nodeGate is who decides about those who ask a node: h in the node's name, and the
// authorities of client certificates.
func nodeGate(h api.Handler, node string, roots *x509.CertPool, now func() time.Time) *gate.Gate {
	certs := &access.Authenticator{Roots: roots, Now: now}
	return &gate.Gate{Handler: h, Node: node, Certificate: certs.Certificate, Now: now}
}

func nodeServerTLS(cert func(*tls.ClientHelloInfo) (*tls.Certificate, error), roots *x509.CertPool) *tls.Config {
	return &tls.Config{GetCertificate: cert, ClientCAs: roots, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
}
