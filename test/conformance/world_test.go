package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/version"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/api/remote"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/apiserver/admit"
	"proa/internal/apiserver/crd"
	"proa/internal/apiserver/reach"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/httpapi"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kinds/flowcontrol"
	"proa/internal/kubeletapi"
	"proa/internal/pki"
	"proa/internal/store"
	"proa/internal/store/memory"
)

// admin is who asks when a row names nobody.
var admin = api.User{Name: "admin", Groups: []string{api.GroupMasters, api.GroupAuthenticated}}

const issuer = "https://kubernetes.default.svc.cluster.local"

// patience is how long an event or an UNTIL may take.
const patience = 10 * time.Second

// A world is a server, as a cluster has it, in memory: on the wire and in
// process. The reference is one, too, which only has a URL and an administrator.
type world struct {
	kinds  []*api.Resource
	server *apiserver.Server
	inner  api.Handler            // the server, or what stands before it
	local  api.Handler            // with authorization
	remote func() *remote.Catalog // what is served elsewhere; nil if nothing is
	net    reach.Net

	authorizer access.Authorizer

	url   string
	ca    *pki.CA
	roots *x509.CertPool
	dir   string
	waits time.Duration // as patience, if it needs more

	mu      sync.Mutex
	clients map[string]*http.Client // by user
}

func (w *world) patience() time.Duration { return max(w.waits, patience) }

func discarded() *log.Logger { return slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) }

func testLog() *slog.Logger {
	if os.Getenv("PROA_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// newWorld starts a server with what the row needs. It ends with the test.
func newWorld(t *testing.T, n needs) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), clients: map[string]*http.Client{}}
	if err := w.start(t, n); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) start(t *testing.T, n needs) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	t.Cleanup(func() { cancel(); parts.Wait() })
	if w.ca, err = pki.OpenCA(w.dir, "ca", time.Now()); err != nil {
		return err
	}
	w.roots = x509.NewCertPool()
	w.roots.AddCert(w.ca.Cert)
	signer, err := pki.OpenSigner(w.dir, "service-account", issuer)
	if err != nil {
		return err
	}
	rbac, nodes := access.NewRBAC(), &access.Nodes{}
	w.authorizer = access.Either(nodes, rbac)
	rbac.All = w.authorizer
	authn := &access.Authenticator{Signer: signer, Audiences: []string{issuer}, Roots: w.roots, Now: time.Now}
	subs := authn.Subs()
	maps.Copy(subs, rbac.Subs())
	maps.Copy(subs, kubeletapi.Subs(&kubeletapi.Nodes{Get: func(ctx context.Context, h api.Handler, name string) (*corev1.Node, error) {
		return core.Node.Get(ctx, h, "", name)
	}, Local: func(string) http.Handler { return nil }}))
	settings := admit.Settings{NodePorts: n.ports}
	services := netip.MustParsePrefix("10.43.0.0/16")
	if n.services != "" {
		services = netip.MustParsePrefix(n.services)
	}
	settings.Services = services
	var history time.Duration
	if n.history != "" {
		if history, err = time.ParseDuration(n.history); err != nil {
			return err
		}
	}
	engine := memory.Keeping(nil, store.Keeping{Keep: apiserver.Keeps(false), Full: 5, Light: 2, Bytes: 16 << 20})
	w.server, err = apiserver.New(ctx, apiserver.Config{Engine: engine, Kinds: kinds.All, Subs: subs, Log: testLog(), History: history,
		Admit: append(admit.All(settings), rbac.Steps()...), Webhook: crd.Through(&w.net)})
	if err != nil {
		return err
	}
	w.net.Reads = w.server
	t.Cleanup(func() {
		if err := w.server.Verify(); err != nil {
			t.Errorf("shared objects: %v", err)
		}
		w.server.Close()
		_ = engine.Close()
	})
	authn.Handler, nodes.Handler = w.server, w.server
	err = w.server.EnsureDefaults(ctx, apiserver.Defaults{API: netip.MustParseAddrPort("192.0.2.1:6443"),
		ServiceIP: services.Addr().Next(), ServiceCIDR: services, Objects: slices.Concat(access.Defaults(), flowcontrol.Defaults())})
	if err != nil {
		return err
	}
	rbac.Follow(ctx, w.server, nil)
	<-rbac.Ready()
	for _, k := range kinds.All {
		w.kinds = append(w.kinds, k.Def())
	}
	w.inner = w.server
	if n.aggregation {
		if err := w.aggregate(ctx, t, &parts); err != nil {
			return err
		}
	}
	w.local = access.Authorize(w.inner, w.authorizer)
	if err := w.serve(t, n, &parts, authn); err != nil {
		return err
	}
	if n.controllers {
		w.control(ctx, &parts)
	}
	return nil
}

// listen opens a port, and has the certificate made for who is to answer there.
func (w *world) listen(who pki.Leaf) (l net.Listener, cert tls.Certificate, err error) {
	pair, err := w.ca.Issue(who, time.Now())
	if err == nil {
		cert, err = tls.X509KeyPair(pair.Cert, pair.Key)
	}
	if err == nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	return l, cert, err
}

func (w *world) serve(t *testing.T, n needs, parts *sync.WaitGroup, authn *access.Authenticator) error {
	l, cert, err := w.listen(pki.Leaf{User: "kube-apiserver", Server: true, Hosts: []string{"127.0.0.1"}})
	if err != nil {
		return err
	}
	w.url = "https://" + l.Addr().String()
	registry := prometheus.NewRegistry()
	handler := httpapi.Serve(w.local, httpapi.Config{
		MaxBody:      n.largest,
		Groups:       w.server.Groups,
		Remote:       w.remote,
		Authenticate: authn.Authenticate,
		Impersonate:  access.Impersonate(w.authorizer),
		Version:      version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.0+test", Platform: "linux/test", GoVersion: "go", Compiler: "gc", GitTreeState: "clean", GitCommit: "0", BuildDate: "2026-01-01T00:00:00Z"},
		Log:          testLog(),
		Checks:       []httpapi.Check{{Name: "store", Probe: func(context.Context) error { return nil }}},
		Paths:        access.IdentityPaths(issuer, authn.Signer),
		Register:     registry,
		Metrics:      promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
	})
	server := httpapi.Server("", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}, handler)
	server.ErrorLog = discarded()
	parts.Go(func() { _ = server.ServeTLS(l, "", "") }) // until it is closed
	t.Cleanup(func() { server.Close() })
	return nil
}

// control runs all controllers, in the same process.
func (w *world) control(ctx context.Context, parts *sync.WaitGroup) {
	h := api.As(api.User{Name: api.UserControllers, Groups: []string{api.GroupAuthenticated}}, w.server)
	events := record.New(core.Event, w.server, "controllers", "", time.Now, testLog())
	parts.Go(func() { events.Run(ctx) })
	all := controllers.All(controllers.Config{Kinds: w.server.Kinds, RootCA: string(w.ca.PEM)})
	parts.Go(func() { _ = control.Run(ctx, h, all, control.Config{Log: testLog(), Events: events}) })
}

// client is an HTTP client in the name of a user, with a certificate that
// proves it; without a name it has none.
func (w *world) client(u api.User) (*http.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := clientID(u)
	if c := w.clients[id]; c != nil {
		return c, nil
	}
	if w.ca == nil {
		return nil, fmt.Errorf("the reference knows nobody but the administrator, not %q", u.Name)
	}
	conf := &tls.Config{RootCAs: w.roots}
	if u.Name != "" {
		groups := slices.DeleteFunc(slices.Clone(u.Groups), func(g string) bool { return g == api.GroupAuthenticated })
		pair, err := w.ca.Issue(pki.Leaf{User: u.Name, Groups: groups}, time.Now())
		if err != nil {
			return nil, err
		}
		cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	c := httpClient(conf)
	w.clients[id] = c
	return c, nil
}

func httpClient(conf *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, DisableCompression: true}}
}

func clientID(u api.User) string { return u.Name + " " + strings.Join(u.Groups, " ") }

// prepare makes the namespace of a row, with the account that pods need.
func (w *world) prepare(ctx context.Context, ns string, driven bool) error {
	for _, q := range []struct{ kind, ns, body string }{
		{"Namespace", "", fmt.Sprintf(`{"metadata":{"name":%q}}`, ns)},
		{"ServiceAccount", ns, `{"metadata":{"name":"default"}}`},
	} {
		if driven && q.kind == "ServiceAccount" {
			return nil // the controllers make it
		}
		r := w.kind("v1", q.kind)
		_, err := w.server.Handle(ctx, &api.Request{Verb: api.Create, Resource: r, Namespace: q.ns, User: admin, Body: []byte(q.body), ContentType: api.MediaJSON})
		if err != nil {
			return fmt.Errorf("make the row's %s: %w", q.kind, err)
		}
	}
	return nil
}

func (w *world) kind(gv, kind string) *api.Resource {
	for _, r := range w.kinds {
		if r.Kind == kind && r.GroupVersion().String() == gv {
			return r
		}
	}
	return nil
}

// An ask is one request, whichever way it goes.
type ask struct {
	user    api.User
	token   string
	nobody  bool
	method  string // of HTTP
	path    string // with its query
	headers [][2]string
	body    []byte // JSON, unless it is raw
	raw     bool   // as the row has it
	typ     string // of the body
	watch   bool
}

// An answer is what came back.
type answer struct {
	code     int
	body     any // JSON values, or a string
	headers  http.Header
	warnings []string
	events   <-chan event // of a watch
}

type event struct {
	body any // {type, object}
	err  error
}

// A caller sends asks one way or the other.
type caller interface {
	call(ctx context.Context, q *ask) (*answer, error)
}

func jsonValue(b []byte) (v any, err error) {
	err = json.Unmarshal(b, &v)
	return v, err
}
