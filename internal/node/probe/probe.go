// Package probe checks whether a container answers: over HTTP, TCP or gRPC.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A Target is one thing to check.
type Target interface {
	// Check returns nil if the container answers well, within ctx. The text is
	// what it said; the error is for users.
	Check(ctx context.Context) (text string, err error)
}

// longest is how much of an answer is kept.
const longest = 10 * 1024

// Port finds a port by number, or by name among the container's.
func Port(p intstr.IntOrString, c *corev1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		if v, err := strconv.Atoi(p.StrVal); err == nil {
			n = v
		} else {
			n = 0
			for i := range c.Ports {
				if c.Ports[i].Name == p.StrVal {
					n = int(c.Ports[i].ContainerPort)
				}
			}
			if n == 0 {
				return 0, fmt.Errorf("couldn't find port: %s in container %s", p.StrVal, c.Name)
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

type httpTarget struct {
	url    *url.URL
	header http.Header
	host   string
}

// HTTP returns the target of an HTTP check of a pod with the address ip.
func HTTP(h *corev1.HTTPGetAction, ip string, c *corev1.Container) (Target, error) {
	port, err := Port(h.Port, c)
	if err != nil {
		return nil, err
	}
	host := h.Host
	if host == "" {
		host = ip
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme = strings.ToLower(string(h.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	t := &httpTarget{url: u, header: http.Header{}}
	for _, x := range h.HTTPHeaders {
		t.header.Add(x.Name, x.Value)
	}
	if _, ok := t.header["User-Agent"]; !ok {
		t.header.Set("User-Agent", "kube-probe/1.37")
	}
	if _, ok := t.header["Accept"]; !ok {
		t.header.Set("Accept", "*/*")
	}
	t.host = t.header.Get("Host")
	return t, nil
}

// transport never keeps a connection: a probe must see whether a new one works.
// Certificates are not checked (Probe API: "skipping certificate verification").
var transport = &http.Transport{DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // as promised by the API

func (t *httpTarget) Check(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header, req.Host = t.header.Clone(), t.host
	client := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != t.url.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, longest))
	if err != nil {
		return "", err
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return string(b), fmt.Errorf("HTTP probe failed with statuscode: %d", resp.StatusCode)
	}
	return string(b), nil
}

type tcpTarget string

// TCP returns the target of a TCP check.
func TCP(h *corev1.TCPSocketAction, ip string, c *corev1.Container) (Target, error) {
	port, err := Port(h.Port, c)
	if err != nil {
		return nil, err
	}
	host := h.Host
	if host == "" {
		host = ip
	}
	return tcpTarget(net.JoinHostPort(host, strconv.Itoa(port))), nil
}

func (t tcpTarget) Check(ctx context.Context) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", string(t))
	if err != nil {
		return "", err
	}
	return "", c.Close()
}

type grpcTarget struct{ addr, service string }

// GRPC returns the target of a check by the gRPC health protocol.
func GRPC(h *corev1.GRPCAction, ip string) Target {
	t := grpcTarget{addr: net.JoinHostPort(ip, strconv.Itoa(int(h.Port)))}
	if h.Service != nil {
		t.service = *h.Service
	}
	return t
}

func (t grpcTarget) Check(ctx context.Context) (string, error) {
	conn, err := grpc.NewClient("passthrough:///"+t.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: t.service}, grpc.WaitForReady(false))
	switch {
	case status.Code(err) == codes.Unimplemented:
		return "", fmt.Errorf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
	case status.Code(err) == codes.DeadlineExceeded:
		return "", fmt.Errorf("timeout: health rpc did not complete within %v", deadline(ctx))
	case err != nil:
		return "", fmt.Errorf("error: health rpc probe failed: %v", err)
	case r.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return "", fmt.Errorf("service unhealthy (responded with %q)", r.GetStatus().String())
	}
	return "service healthy", nil
}

func deadline(ctx context.Context) time.Duration {
	if d, ok := ctx.Deadline(); ok {
		return time.Until(d).Abs()
	}
	return 0
}
