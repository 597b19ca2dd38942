package aggregate_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/aggregate"
	"proa/internal/apiserver/reach"
	"proa/internal/kinds"
	"proa/internal/kinds/apiregistration"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/pki"
	"proa/internal/store/memory"
)

// A world is a server with an aggregator before it, and a client of both.
type world struct {
	t      *testing.T
	server *apiserver.Server
	agg    *aggregate.Aggregator
	h      api.Handler
	ca     *pki.CA // of extension servers
	front  *pki.CA
	user   api.User // who asks
	url    string   // of a bare HTTP server in front of it all
}

func newWorld(t *testing.T, change func(*aggregate.Config)) *world {
	t.Helper()
	engine := memory.New(nil)
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: engine, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, server: s, ca: authority(t), front: authority(t)}
	for _, ns := range []string{"a", "kube-system"} {
		if _, err := core.Namespace.Create(t.Context(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
			t.Fatal(err)
		}
	}
	cert := certificate(t, w.front, pki.Leaf{User: aggregate.FrontProxy})
	c := aggregate.Config{Server: s, Log: slog.New(slog.DiscardHandler), Check: 200 * time.Millisecond, Refresh: 200 * time.Millisecond,
		Net: &reach.Net{Reads: s, Dial: local, Certificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }}}
	if change != nil {
		change(&c)
	}
	w.agg = aggregate.New(c)
	w.h = w.agg.Handler(s)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.agg.Run(ctx) })
	front := httptest.NewServer(http.HandlerFunc(w.serve))
	w.url = front.URL
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		cancel()
		running.Wait()
		if err := s.Verify(); err != nil {
			t.Error(err)
		}
		s.Close()
		engine.Close()
	})
	<-w.agg.Ready()
	return w
}

// serve makes a request of what comes in, as the HTTP side does for what others serve.
func (w *world) serve(rw http.ResponseWriter, req *http.Request) {
	r := &api.Request{Verb: api.Verb(strings.ToLower(req.Method)), Path: req.URL.Path, User: w.user, HTTP: req}
	if p := strings.Split(strings.Trim(req.URL.Path, "/"), "/"); len(p) > 3 && p[0] == "apis" {
		r.Resource = &api.Resource{GroupVersionResource: schema.GroupVersionResource{Group: p[1], Version: p[2], Resource: p[3]}}
	}
	rw.Header().Set("Audit-Id", "audit-7")
	resp, err := w.h.Handle(req.Context(), r)
	var known apierrors.APIStatus
	switch {
	case err != nil:
		code := http.StatusInternalServerError
		if apierrors.ReasonForError(err) != "" {
			known = err.(apierrors.APIStatus)
			code = int(known.Status().Code)
		}
		http.Error(rw, err.Error(), code)
	case resp.Connect != nil:
		resp.Connect.ServeHTTP(rw, req)
	default:
		http.Error(rw, "answered here", http.StatusOK)
	}
}

func authority(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.OpenCA(t.TempDir(), "ca", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func certificate(t *testing.T, ca *pki.CA, l pki.Leaf) tls.Certificate {
	t.Helper()
	pair, err := ca.Issue(l, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// extension starts an extension server with a certificate for the service a/NAME,
// that takes nobody but the front proxy at its word.
func (w *world) extension(name string, h http.Handler) *httptest.Server {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(w.front.Cert)
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(w.t, w.ca, pki.Leaf{User: name, Server: true, Hosts: []string{name + ".a.svc"}})},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}
	s.StartTLS()
	w.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (w *world) service(name string, port int32) {
	w.t.Helper()
	_, err := core.Service.Create(w.t.Context(), w.server, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "https", Port: port}}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// endpoints says where a service leads; nowhere if at is nil.
func (w *world) endpoints(name string, at *httptest.Server) {
	w.t.Helper()
	ctx := w.t.Context()
	if err := discovery.EndpointSlice.Delete(ctx, w.server, "a", name, api.Options{}); err != nil && !apierrors.IsNotFound(err) {
		w.t.Fatal(err)
	}
	port, portName, ready := int32(1), "https", at != nil
	if at != nil {
		port = int32(netip.MustParseAddrPort(at.Listener.Addr().String()).Port())
	}
	_, err := discovery.EndpointSlice.Create(ctx, w.server, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "a", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// local dials endpoints: objects may not name the loopback, so they name another host.
func local(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, _ := net.SplitHostPort(addr)
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
}

func apiService(gv schema.GroupVersion, service string, ca []byte) *apiregistrationv1.APIService {
	port := int32(443)
	return &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: 100, VersionPriority: 10, CABundle: ca,
			Service: &apiregistrationv1.ServiceReference{Namespace: "a", Name: service, Port: &port}}}
}

func (w *world) register(o *apiregistrationv1.APIService) {
	w.t.Helper()
	if _, err := apiregistration.APIService.Create(w.t.Context(), w.server, o); err != nil {
		w.t.Fatal(err)
	}
}

// claim registers a group and version as served by a server, and waits until it is available.
func (w *world) claim(gv schema.GroupVersion, name string, s *httptest.Server) {
	w.t.Helper()
	w.service(name, 443)
	w.endpoints(name, s)
	w.register(apiService(gv, name, w.ca.PEM))
	w.condition(gv.Version+"."+gv.Group, "True Passed all checks passed")
}

// condition waits until an APIService says this of its availability.
func (w *world) condition(name, want string) {
	w.t.Helper()
	have := "nothing"
	w.until(func() bool {
		o, err := apiregistration.APIService.Get(w.t.Context(), w.server, "", name)
		if err != nil {
			have = err.Error()
			return false
		}
		if c := apiregistration.Available(o); c != nil {
			have = string(c.Status) + " " + c.Reason + " " + c.Message
		}
		return have == want
	}, func() string { return name + ": " + have + "\nwant " + want })
}

// until waits for something to come true.
func (w *world) until(is func() bool, what func() string) {
	w.t.Helper()
	end := time.After(15 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			w.t.Fatal(what())
		}
	}
}
