package reach_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/reach"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/pki"
	"proa/internal/store/memory"
)

func server(t *testing.T) *apiserver.Server {
	t.Helper()
	e := memory.New(nil)
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); e.Close() })
	if _, err := core.Namespace.Create(t.Context(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func authority(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.OpenCA(t.TempDir(), "ca", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// backend is a TLS server with a certificate for the service a/b that says its name and who asks.
func backend(t *testing.T, ca *pki.CA, name string, h http.Handler) netip.AddrPort {
	t.Helper()
	if h == nil {
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who := ""
			if c := r.TLS.PeerCertificates; len(c) > 0 {
				who = " " + c[0].Subject.CommonName
			}
			fmt.Fprint(w, name, " ", r.Proto, " ", r.Host, who)
		})
	}
	pair, err := ca.Issue(pki.Leaf{User: name, Server: true, Hosts: []string{"b.a.svc"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// endpoints puts a slice of the service a/b with these ready endpoints in place.
func endpoints(t *testing.T, h api.Handler, name string, ready bool, at ...netip.AddrPort) {
	t.Helper()
	_ = discovery.EndpointSlice.Delete(t.Context(), h, "a", name, api.Options{})
	port, portName := int32(at[0].Port()), "https"
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "b"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}}}
	for _, a := range at {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	if _, err := discovery.EndpointSlice.Create(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
}

func service(t *testing.T, h api.Handler) {
	t.Helper()
	_, err := core.Service.Create(t.Context(), h, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"},
		Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "https", Port: 443}}}})
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, w *reach.Way) (string, error) {
	t.Helper()
	resp, err := w.Client(5 * time.Second).Get(w.URL("/x").String())
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// local dials endpoints: objects may not name the loopback, so they are listed elsewhere.
func local(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, _ := net.SplitHostPort(addr)
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
}

func as(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), a.Port())
}

func TestService(t *testing.T) {
	s, ca, clients := server(t), authority(t), authority(t)
	pair, err := clients.Issue(pki.Leaf{User: "front"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	n := &reach.Net{Reads: s, Dial: local, Certificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }}
	w, err := n.To(reach.Target{Namespace: "a", Name: "b", CA: ca.PEM})
	if err != nil {
		t.Fatal(err)
	}
	missing := func(want string) {
		t.Helper()
		_, err := get(t, w)
		if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a 503 with %q", err, want)
		}
	}
	missing(`service "a/b" not found`)
	service(t, s)
	missing(`service "a/b" has no ready endpoints`)
	one, two := backend(t, ca, "one", nil), backend(t, ca, "two", nil)
	endpoints(t, s, "s", false, as(one))
	missing(`service "a/b" has no ready endpoints`)

	endpoints(t, s, "s", true, as(one))
	if got, err := get(t, w); err != nil || got != "one HTTP/2.0 b.a.svc:443 front" {
		t.Errorf("%q, %v", got, err)
	}
	// Another endpoint is seen by the next request, though the connection to the first still stands.
	endpoints(t, s, "s", true, as(two))
	if got, err := get(t, w); err != nil || !strings.HasPrefix(got, "two ") {
		t.Errorf("%q, %v", got, err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", w.URL("/").String(), nil)
	resp, err := w.Upgrades().RoundTrip(req)
	if err != nil || resp.ProtoMajor != 1 {
		t.Errorf("for upgrades: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if again, _ := n.To(reach.Target{Namespace: "a", Name: "b", Port: 443, CA: ca.PEM}); again != w {
		t.Error("the same target has two ways")
	}
	port, err := n.To(reach.Target{Namespace: "a", Name: "b", Port: 444, CA: ca.PEM})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, port); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), `service "a/b" has no port 444`) {
		t.Error(err)
	}
}

// A dead endpoint that is still called ready is passed over.
func TestDeadEndpoint(t *testing.T) {
	s, ca := server(t), authority(t)
	service(t, s)
	alive := backend(t, ca, "alive", nil)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := netip.MustParseAddrPort(dead.Addr().String())
	dead.Close()
	endpoints(t, s, "alive", true, as(alive))
	endpoints(t, s, "dead", true, as(gone))
	n := &reach.Net{Reads: s, Dial: local}
	w, err := n.To(reach.Target{Namespace: "a", Name: "b", CA: ca.PEM})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if got, err := get(t, w); err != nil || !strings.HasPrefix(got, "alive ") {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

func TestExternalName(t *testing.T) {
	s, ca := server(t), authority(t)
	at := backend(t, ca, "outside", nil)
	_, err := core.Service.Create(t.Context(), s, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "outside.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	var asked string
	n := &reach.Net{Reads: s, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked = addr
		return (&net.Dialer{}).DialContext(ctx, network, at.String())
	}}
	w, err := n.To(reach.Target{Namespace: "a", Name: "b", Port: 6443, CA: ca.PEM})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, w); err != nil || got != "outside HTTP/2.0 b.a.svc:6443" || asked != "outside.example.com:6443" {
		t.Errorf("%q at %q, %v", got, asked, err)
	}
}

func TestTrust(t *testing.T) {
	s, ca, other := server(t), authority(t), authority(t)
	service(t, s)
	endpoints(t, s, "s", true, as(backend(t, ca, "one", nil)))
	n := &reach.Net{Reads: s, Dial: local}
	w, err := n.To(reach.Target{Namespace: "a", Name: "b", CA: other.PEM})
	if err != nil {
		t.Fatal(err)
	}
	var unknown x509.UnknownAuthorityError
	if got, err := get(t, w); !errors.As(err, &unknown) {
		t.Errorf("%q, %v: a certificate of an unknown authority was taken", got, err)
	}
	if w, err = n.To(reach.Target{Namespace: "a", Name: "b", CA: other.PEM, Insecure: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, w); err != nil || !strings.HasPrefix(got, "one ") {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := n.To(reach.Target{Namespace: "a", Name: "b", CA: []byte("none")}); err == nil ||
		err.Error() != `reach service "a/b" port 443: the CA bundle has no certificate` {
		t.Error(err)
	}
	if _, err := n.To(reach.Target{URL: "http://example.com"}); err == nil || !strings.Contains(err.Error(), "only https") {
		t.Error(err)
	}
}

func TestURL(t *testing.T) {
	ca := authority(t)
	at := backend(t, ca, "url", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host, r.URL) }))
	n := &reach.Net{Reads: nil, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, at.String())
	}}
	w, err := n.To(reach.Target{URL: "https://b.a.svc/convert?x=1", CA: ca.PEM})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.Client(5 * time.Second).Get(w.URL("").String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "b.a.svc/convert?x=1" {
		t.Errorf("%s", b)
	}
}

// Nothing is left behind by a way that is not used any more.
func TestNoLeak(t *testing.T) {
	s, ca := server(t), authority(t)
	service(t, s)
	before := runtime.NumGoroutine()
	func() {
		b := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
		b.EnableHTTP2 = true
		b.StartTLS()
		defer b.Close()
		endpoints(t, s, "s", true, as(netip.MustParseAddrPort(b.Listener.Addr().String())))
		n := &reach.Net{Reads: s, Dial: local}
		for i := range 8 {
			w, err := n.To(reach.Target{Namespace: "a", Name: "b", Insecure: true, CA: fmt.Append(nil, ca.PEM, "\n", i)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := get(t, w); err != nil {
				t.Fatal(err)
			}
		}
		n.CloseIdle()
	}()
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, there were %d", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
}
