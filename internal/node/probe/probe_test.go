package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// check expects an error that holds want, or none if want is empty.
func check(t *testing.T, name string, target Target, err error, want string) {
	t.Helper()
	if err == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err = target.Check(ctx)
	}
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: %v, want %q", name, err, want)
	}
}

// closed is a port of 127.0.0.1 that nobody listens on.
func closed(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func portOf(t *testing.T, address string) int {
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHTTP(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/status":
			code, _ := strconv.Atoi(r.FormValue("code"))
			w.WriteHeader(code)
		case "/away": // another host's answer does not count
			http.Redirect(w, r, "http://192.0.2.9/bad", http.StatusFound)
		case "/bad", "/turn":
			if r.URL.Path == "/turn" {
				http.Redirect(w, r, "/bad", http.StatusFound)
				return
			}
			w.WriteHeader(http.StatusInternalServerError)
		case "/hang":
			<-r.Context().Done()
		case "/headers":
			if got := fmt.Sprint(r.Host, r.UserAgent(), r.Header["X-A"]); got != "namekube-probe/1.37[1 2]" {
				http.Error(w, got, http.StatusBadRequest)
			}
		}
	})
	plain, secure := httptest.NewServer(h), httptest.NewTLSServer(h)
	defer plain.Close()
	defer secure.Close()
	c := &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(portOf(t, plain.URL))}}}
	for path, want := range map[string]string{
		"/": "", "/status?code=200": "", "/status?code=399": "", "/status?code=400": "HTTP probe failed with statuscode: 400",
		"/status?code=500": "HTTP probe failed with statuscode: 500", "/away": "", "/turn": "statuscode: 500", "/hang": "context deadline exceeded",
	} {
		target, err := HTTP(&corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web")}, "127.0.0.1", c)
		check(t, path, target, err, want)
	}
	headers := &corev1.HTTPGetAction{Path: "/headers", Port: intstr.FromInt(portOf(t, secure.URL)), Scheme: corev1.URISchemeHTTPS,
		HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "name"}, {Name: "X-A", Value: "1"}, {Name: "X-A", Value: "2"}}}
	target, err := HTTP(headers, "127.0.0.1", c)
	check(t, "headers, over TLS", target, err, "")
	target, err = HTTP(&corev1.HTTPGetAction{Port: intstr.FromInt(closed(t))}, "127.0.0.1", c)
	check(t, "closed", target, err, "connection refused")
	target, err = HTTP(&corev1.HTTPGetAction{Port: intstr.FromString("none")}, "127.0.0.1", c)
	check(t, "no such port", target, err, "couldn't find port: none in container c")
	target, err = HTTP(&corev1.HTTPGetAction{Port: intstr.FromInt(70000)}, "127.0.0.1", c)
	check(t, "port out of range", target, err, "invalid port number: 70000")
}

func TestTCP(t *testing.T) {
	s := httptest.NewServer(nil)
	defer s.Close()
	c := &corev1.Container{Name: "c"}
	target, err := TCP(&corev1.TCPSocketAction{Port: intstr.FromInt(portOf(t, s.URL))}, "127.0.0.1", c)
	check(t, "open", target, err, "")
	target, err = TCP(&corev1.TCPSocketAction{Host: "127.0.0.1", Port: intstr.FromInt(closed(t))}, "192.0.2.1", c)
	check(t, "closed", target, err, "connection refused")
}

func TestGRPC(t *testing.T) {
	serve := func(register func(*grpc.Server)) int32 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		register(s)
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		return int32(l.Addr().(*net.TCPAddr).Port)
	}
	says := health.NewServer()
	says.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	well := serve(func(s *grpc.Server) { healthpb.RegisterHealthServer(s, says) })
	bare := serve(func(*grpc.Server) {})
	check(t, "the whole server", GRPC(&corev1.GRPCAction{Port: well}, "127.0.0.1"), nil, "")
	check(t, "a sick service", GRPC(&corev1.GRPCAction{Port: well, Service: new("sick")}, "127.0.0.1"), nil, `service unhealthy (responded with "NOT_SERVING")`)
	check(t, "an unknown service", GRPC(&corev1.GRPCAction{Port: well, Service: new("none")}, "127.0.0.1"), nil, "health rpc probe failed")
	check(t, "no health service", GRPC(&corev1.GRPCAction{Port: bare}, "127.0.0.1"), nil, "does not implement the grpc health protocol")
	check(t, "nobody there", GRPC(&corev1.GRPCAction{Port: int32(closed(t))}, "127.0.0.1"), nil, "health rpc probe failed")
}
