package system

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
	"proa/internal/pki"
	"proa/internal/store/memory"
)

// A port is a node's own API on the wire, which the API server of the same process
// decides about, with the roles and the node's rights that a cluster has.
type port struct {
	t      *testing.T
	server *apiserver.Server
	at     *httptest.Server
	ca     *pki.CA
	past   atomic.Int64 // seconds by which the gate's clock is ahead
}

// told is an agent that only tells what it has used.
type told struct{ kubeletapi.Agent }

func (told) Metrics(_ context.Context, which string, w io.Writer) error {
	_, err := fmt.Fprintf(w, "metrics %q", which)
	return err
}

func (told) Pods(context.Context) (*corev1.PodList, error) { return &corev1.PodList{}, nil }

func newPort(t *testing.T) *port {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := &port{t: t}
	var err error
	p.ca, err = pki.OpenCA(t.TempDir(), "ca", time.Now())
	must(err)
	signer, err := pki.OpenSigner(t.TempDir(), "sa", "https://issuer")
	must(err)
	roots := x509.NewCertPool()
	roots.AddCert(p.ca.Cert)

	rbac, nodes := access.NewRBAC(), &access.Nodes{}
	judge := access.Either(nodes, rbac)
	rbac.All = judge
	authn := &access.Authenticator{Signer: signer, Audiences: []string{"https://issuer"}, Roots: roots, Now: time.Now}
	subs := authn.Subs()
	maps.Copy(subs, rbac.Subs())
	engine := memory.New(nil)
	p.server, err = apiserver.New(t.Context(), apiserver.Config{Engine: engine, Kinds: kinds.All, Subs: subs, Log: slog.New(slog.DiscardHandler)})
	must(err)
	t.Cleanup(func() { p.server.Close(); _ = engine.Close() })
	authn.Handler, nodes.Handler = p.server, p.server
	must(p.server.EnsureDefaults(t.Context(), apiserver.Defaults{Objects: access.Defaults()}))
	rbac.Follow(t.Context(), p.server, nil)
	<-rbac.Ready()

	plane := &plane{Server: p.server, authorizer: judge}
	now := func() time.Time { return time.Now().Add(time.Duration(p.past.Load()) * time.Second) }
	g := nodeGate(plane.asNode("n1"), "n1", roots, now)
	p.at = httptest.NewUnstartedServer(g.Guard(kubeletapi.Serve(told{})))
	p.at.TLS = nodeServerTLS(nil, roots)
	p.at.StartTLS()
	t.Cleanup(p.at.Close)
	return p
}

// ask asks the node; a status of 0 is a handshake that failed.
func (p *port) ask(path, token string, cert *tls.Certificate) (int, string) {
	p.t.Helper()
	c := &tls.Config{InsecureSkipVerify: true}
	if cert != nil { // sent whatever authorities the server names
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	tr := &http.Transport{TLSClientConfig: c}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.at.URL+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: tr}).Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// certificate is that of a user, by one authority or another.
func certificate(t *testing.T, ca *pki.CA, l pki.Leaf) *tls.Certificate {
	t.Helper()
	pair, err := ca.Keep(t.TempDir(), "client", l, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &cert
}

// TestNodeRefusesStrangers asks a node's own API as everybody who may try with a certificate.
func TestNodeRefusesStrangers(t *testing.T) {
	p := newPort(t)
	others, err := pki.OpenCA(t.TempDir(), "others", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	master := pki.Leaf{User: "proa-apiserver", Groups: []string{api.GroupMasters}}
	for _, tt := range []struct {
		who  string
		cert *tls.Certificate
		code int
		text string
	}{
		{"nobody", nil, 401, "Unauthorized: the node wants a client certificate"},
		{"a master", certificate(t, p.ca, master), 200, `metrics "resource"`},
		{"another node", certificate(t, p.ca, pki.Leaf{User: "system:node:n2", Groups: []string{api.GroupNodes}}), 403,
			"Forbidden (user=system:node:n2, verb=get, resource=nodes, subresource(s)=[metrics])"},
		{"another cluster's master", certificate(t, others, master), 401, "Unauthorized: the client certificate does not hold: x509: certificate signed by unknown authority"},
	} {
		if code, text := p.ask("/metrics/resource", "", tt.cert); code != tt.code || !strings.HasPrefix(text, tt.text) {
			t.Errorf("%s: %d %s, want %d %s", tt.who, code, text, tt.code, tt.text)
		}
	}
}

// TestMonitoring does what docs/howto/monitoring.md says: with the objects of the
// page a service account's token is enough to read a node's metrics, and for nothing else.
func TestMonitoring(t *testing.T) {
	p := newPort(t)
	page, err := os.ReadFile("../../docs/howto/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	docs := strings.Split(text, "---\n")
	if len(docs) != 3 {
		t.Fatalf("the page has %d objects", len(docs))
	}
	create := func(doc string) {
		t.Helper()
		var typ metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &typ); err != nil {
			t.Fatal(err)
		}
		for _, k := range kinds.All {
			r := k.Def()
			if r.GVK() != typ.GroupVersionKind() {
				continue
			}
			q := &api.Request{Verb: api.Create, Resource: r, Body: []byte(doc), ContentType: api.MediaYAML}
			if r.Scope == api.Namespaced {
				q.Namespace = "default"
			}
			if _, err := p.server.Handle(t.Context(), q); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Fatalf("no kind for %s", doc)
	}
	create(docs[0])
	resp, err := p.server.Handle(t.Context(), &api.Request{Verb: api.Create, Resource: core.ServiceAccount.Def(), Namespace: "default", Name: "prometheus", Sub: "token",
		Object: &authenticationv1.TokenRequest{}})
	if err != nil {
		t.Fatal(err)
	}
	token := resp.Result().(*authenticationv1.TokenRequest).Status.Token

	is := func(when, path, token string, code int, text string) {
		t.Helper()
		if c, got := p.ask(path, token, nil); c != code || !strings.HasPrefix(got, text) {
			t.Errorf("%s: %d %s, want %d %s", when, c, got, code, text)
		}
	}
	const user = "system:serviceaccount:default:prometheus"
	is("without a role", "/metrics/cadvisor", token, 403,
		"Forbidden (user="+user+", verb=get, resource=nodes, subresource(s)=[metrics]): a ClusterRole must allow it to get nodes/metrics")
	create(docs[1])
	create(docs[2])
	// The roles are followed, and the refusal is kept for 30 s by the gate's clock.
	for end := time.Now().Add(20 * time.Second); ; {
		p.past.Add(30)
		code, text := p.ask("/metrics/cadvisor", token, nil)
		if code == 200 && text == `metrics "cadvisor"` {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("with the role: %d %s", code, text)
		}
	}
	is("but for metrics", "/pods", token, 403, "Forbidden (user="+user+", verb=get, resource=nodes, subresource(s)=[pods proxy]): a ClusterRole must allow it to get nodes/pods or nodes/proxy")
	is("to run commands", "/exec/default/p/c?command=id&output=1", token, 403, "Forbidden (user="+user+", verb=create, resource=nodes, subresource(s)=[proxy])")
	is("a token of nobody", "/metrics", token+"x", 401, "Unauthorized: the API server does not accept the bearer token: ")

	if err := core.ServiceAccount.Delete(t.Context(), p.server, "default", "prometheus", api.Options{}); err != nil {
		t.Fatal(err)
	}
	p.past.Add(121)
	is("when the account is gone", "/metrics", token, 401, "Unauthorized: the API server does not accept the bearer token: the token's service account is gone")
}
