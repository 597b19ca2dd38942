package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/aggregate"
	"proa/internal/apiserver/reach"
	"proa/internal/httpapi"
	"proa/internal/kinds/apiregistration"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/pki"
	"proa/internal/store/memory"
)

// What the extension server of "needs: aggregation" serves: wares, which are
// like config maps, and who it takes the caller for.
var (
	ware = &api.Kind[*corev1.ConfigMap]{API: "wares.example.com/v1", Resource: "wares", Singular: "ware", Scope: api.Namespaced, Short: []string{"wa"}}
	self = &api.Kind[*authenticationv1.SelfSubjectReview]{API: "wares.example.com/v1", Resource: "selves", Scope: api.Cluster, Virtual: true, Status: true,
		Do: func(_ context.Context, _ api.Env, r *api.Request) (*api.Response, error) {
			u := authenticationv1.UserInfo{Username: r.User.Name, UID: r.User.UID, Groups: r.User.Groups}
			return &api.Response{Code: http.StatusCreated, Object: &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: u}}}, nil
		}}
)

// aggregate puts an aggregator before the server, and an extension server behind it.
func (w *world) aggregate(ctx context.Context, t *testing.T, parts *sync.WaitGroup) error {
	front, err := pki.OpenCA(w.dir, "front-proxy-ca", time.Now())
	if err != nil {
		return err
	}
	cert, err := front.Renewer(w.dir, aggregate.FrontProxy, pki.Leaf{User: aggregate.FrontProxy}, time.Now)
	if err != nil {
		return err
	}
	a := aggregate.New(aggregate.Config{Server: w.server, Log: testLog(), Check: time.Second, Refresh: time.Second,
		Trust: aggregate.Trust{ClientCA: w.ca.PEM, FrontCA: front.PEM},
		Net: &reach.Net{Reads: w.server, Certificate: cert.Client, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port)) // endpoints may not name it
		}},
		Served: func() ([]*api.Group, <-chan struct{}) {
			_, changed := w.server.Kinds()
			return w.server.Groups(), changed
		}})
	parts.Go(func() { a.Run(ctx) })
	<-a.Ready()
	w.inner, w.remote = a.Handler(w.server), a.Catalog
	return w.extend(ctx, t, parts, front)
}

// extend starts the extension server and registers it.
func (w *world) extend(ctx context.Context, t *testing.T, parts *sync.WaitGroup, front *pki.CA) error {
	engine := memory.New(nil)
	s, err := apiserver.New(ctx, apiserver.Config{Engine: engine, Kinds: []api.Definition{ware, self}, Log: testLog()})
	if err != nil {
		return err
	}
	l, cert, err := w.listen(pki.Leaf{User: "wares", Server: true, Hosts: []string{"wares.kube-system.svc"}})
	if err != nil {
		return err
	}
	handler := httpapi.Serve(s, httpapi.Config{Groups: s.Groups, Authenticate: byFrontProxy(front), Log: testLog(), Version: version.Info{GitVersion: "v0.1.0"}})
	server := httpapi.Server("", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}, handler)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	parts.Go(func() { _ = server.ServeTLS(l, "", "") }) // until it is closed
	t.Cleanup(func() { server.Close(); s.Close(); _ = engine.Close() })
	return w.register(ctx, l.Addr().(*net.TCPAddr).Port)
}

func (w *world) register(ctx context.Context, port int) error {
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "wares", Labels: map[string]string{discoveryv1.LabelServiceName: "wares"}}
	at, name := int32(port), "https"
	_, err1 := core.Service.Create(ctx, w.server, &corev1.Service{ObjectMeta: meta,
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Name: name, Port: 443}}}})
	_, err2 := discovery.EndpointSlice.Create(ctx, w.server, &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &at}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.9"}}}})
	_, err3 := apiregistration.APIService.Create(ctx, w.server, &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.wares.example.com"},
		Spec: apiregistrationv1.APIServiceSpec{Group: "wares.example.com", Version: "v1", GroupPriorityMinimum: 2000, VersionPriority: 10, CABundle: w.ca.PEM,
			Service: &apiregistrationv1.ServiceReference{Namespace: metav1.NamespaceSystem, Name: "wares"}}})
	return errors.Join(err1, err2, err3)
}

// byFrontProxy believes what headers say of the user if the front proxy sends them.
func byFrontProxy(front *pki.CA) func(*http.Request) (api.User, bool, error) {
	roots := x509.NewCertPool()
	roots.AddCert(front.Cert)
	return func(r *http.Request) (u api.User, ok bool, err error) {
		if len(r.TLS.PeerCertificates) == 0 {
			return u, false, nil
		}
		leaf := r.TLS.PeerCertificates[0]
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err != nil || leaf.Subject.CommonName != "front-proxy-client" {
			return u, false, errors.Join(err, errors.New("who calls is not the front proxy"))
		}
		if r.Header.Get("Authorization") != "" {
			return u, false, errors.New("the client's own credentials were passed on")
		}
		u = api.User{Name: r.Header.Get("X-Remote-User"), UID: r.Header.Get("X-Remote-Uid"), Groups: r.Header.Values("X-Remote-Group"), Extra: map[string][]string{}}
		for name, values := range r.Header {
			if key, is := strings.CutPrefix(name, "X-Remote-Extra-"); is {
				u.Extra[strings.ToLower(key)] = values
			}
		}
		return u, u.Name != "", nil
	}
}
