package measure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"proa/internal/pki"
)

// Programs of the reference module.
const (
	etcdModule = "go.etcd.io/etcd/server/v3"
	crdModule  = "k8s.io/apiextensions-apiserver"
	typed      = "./typed" // see there
)

// BuildReferences builds the programs that proa is measured beside, and returns
// their folder.
func BuildReferences() (string, error) {
	dir, err := filepath.Abs(filepath.Join("build", "reference"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", etcdModule, crdModule, typed)
	cmd.Dir = filepath.Join("test", "bench", "reference")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the references: %w\n%s", err, out)
	}
	return dir, nil
}

// Identity is an authority with a server's and an administrator's certificate
// in a folder, for references.
type Identity struct {
	Dir   string
	ca    *pki.CA
	admin pki.Pair
}

// NewIdentity makes one below dir.
func NewIdentity(dir string) (*Identity, error) {
	dir = filepath.Join(dir, "pki")
	ca, err := pki.OpenCA(dir, "ca", time.Now())
	if err != nil {
		return nil, err
	}
	server := pki.Leaf{User: "server", Server: true, Hosts: []string{"127.0.0.1", "localhost"}}
	if _, err := ca.Keep(dir, "server", server, time.Now()); err != nil {
		return nil, err
	}
	admin, err := ca.Keep(dir, "admin", pki.Leaf{User: "admin", Groups: []string{"system:masters"}}, time.Now())
	return &Identity{Dir: dir, ca: ca, admin: admin}, err
}

func (i *Identity) file(name string) string { return filepath.Join(i.Dir, name) }

// TLS is how an administrator connects.
func (i *Identity) TLS() (*tls.Config, error) { return clientTLS(i.ca.PEM, i.admin) }

func clientTLS(ca []byte, client pki.Pair) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(client.Cert, client.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, nil
}

// A Target is a server that speaks HTTPS.
type Target struct {
	URL string
	TLS *tls.Config
}

// TargetOf is the server that a kubeconfig of proa names.
func TargetOf(kubeconfig string) (Target, error) {
	k, err := pki.ReadKubeconfig(kubeconfig)
	if err != nil {
		return Target{}, err
	}
	config, err := clientTLS(k.CA, k.Client)
	return Target{k.Server, config}, err
}

// Client is one connection to the target, with HTTP/2.
func (t Target) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: t.TLS.Clone(), ForceAttemptHTTP2: true}}
}

// Get asks for a path; anything but 200 is an error.
func (t Target) Get(ctx context.Context, c *http.Client, path string) ([]byte, error) {
	return t.Do(ctx, c, http.MethodGet, path, "")
}

// Do sends a request; anything but 2xx is an error.
func (t Target) Do(ctx context.Context, c *http.Client, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, t.URL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, b)
	}
	return b, err
}

var lastPort = 20000 + os.Getpid()%100*64

// FreePort is a port that nobody listens on just now, below those that the
// kernel gives to outgoing connections: a client that asks again and again would
// else come to talk to itself.
func FreePort() (int, error) {
	for range 64 {
		lastPort++
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(lastPort))
		if err == nil {
			return lastPort, l.Close()
		}
	}
	return 0, errors.New("no free port between 20000 and 27000")
}

// Etcd is a running etcd with fresh data, TLS on its client port, and a second,
// plain port for metrics and for the API server beside it.
type Etcd struct {
	*Process
	Secure  string // host:port
	Plain   string // URL
	Metrics string // URL
}

// StartEtcd starts etcd and returns when it answers.
func StartEtcd(core int, bin, dir string, id *Identity) (*Etcd, error) {
	e, err := LaunchEtcd(core, bin, dir, id)
	if err != nil {
		return nil, err
	}
	err = e.Await("etcd", 2*time.Millisecond, func(ctx context.Context) error {
		_, err := Plain(ctx, e.Metrics+"/health")
		return err
	})
	if err != nil {
		e.Stop()
		return nil, err
	}
	return e, nil
}

// LaunchEtcd starts etcd, on the data that is in dir already if there are any,
// and returns at once.
func LaunchEtcd(core int, bin, dir string, id *Identity) (*Etcd, error) {
	ports := make([]string, 4)
	for n := range ports {
		p, err := FreePort()
		if err != nil {
			return nil, err
		}
		ports[n] = "127.0.0.1:" + strconv.Itoa(p)
	}
	e := &Etcd{Secure: ports[0], Plain: "http://" + ports[1], Metrics: "http://" + ports[3]}
	var err error
	e.Process, err = Start(core, filepath.Join(dir, "etcd.log"), filepath.Join(bin, "server"),
		"--data-dir", filepath.Join(dir, "etcd"), "--log-level", "error",
		"--listen-client-urls", "https://"+e.Secure+","+e.Plain, "--advertise-client-urls", "https://"+e.Secure,
		"--listen-peer-urls", "http://"+ports[2], "--initial-advertise-peer-urls", "http://"+ports[2], "--initial-cluster", "default=http://"+ports[2],
		"--listen-metrics-urls", e.Metrics, "--quota-backend-bytes", "8589934592",
		"--cert-file", id.file("server.crt"), "--key-file", id.file("server.key"), "--trusted-ca-file", id.file("ca.crt"), "--client-cert-auth")
	return e, err
}

// Plain asks an HTTP server without TLS; anything but 200 is an error.
func Plain(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// CRD is Kubernetes' own API machinery as a program on etcd: the server of
// custom resources. Its objects are untyped: no defaults, no validation.
type CRD struct {
	*Process
	Target
}

// StartCRD starts the server and returns when it is ready.
func StartCRD(core int, bin, dir string, id *Identity, e *Etcd) (*CRD, error) {
	c, err := LaunchCRD(core, bin, dir, id, e)
	if err != nil {
		return nil, err
	}
	client := c.Client()
	err = c.Await("the CRD server", 2*time.Millisecond, func(ctx context.Context) error {
		_, err := c.Get(ctx, client, "/readyz?exclude=informer-sync")
		return err
	})
	if err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// LaunchCRD starts the server and returns at once.
func LaunchCRD(core int, bin, dir string, id *Identity, e *Etcd) (*CRD, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	config, err := id.TLS()
	if err != nil {
		return nil, err
	}
	c := &CRD{Target: Target{"https://127.0.0.1:" + strconv.Itoa(port), config}}
	kubeconfig := filepath.Join(dir, "crd.kubeconfig")
	// Everything that it would ask another API server is turned off; it wants to be told where that is all the same.
	if err := (pki.Kubeconfig{Cluster: "none", Server: "https://127.0.0.1:1", CA: id.ca.PEM, Client: id.admin}).Write(kubeconfig); err != nil {
		return nil, err
	}
	c.Process, err = Start(core, filepath.Join(dir, "crd.log"), filepath.Join(bin, "apiextensions-apiserver"),
		"--etcd-servers", e.Plain, "--bind-address", "127.0.0.1", "--secure-port", strconv.Itoa(port),
		"--tls-cert-file", id.file("server.crt"), "--tls-private-key-file", id.file("server.key"), "--client-ca-file", id.file("ca.crt"),
		"--kubeconfig", kubeconfig, "--authentication-skip-lookup", "--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig,
		"--enable-priority-and-fairness=false", "--max-requests-inflight", "0", "--max-mutating-requests-inflight", "0",
		"--disable-admission-plugins", "NamespaceLifecycle,MutatingAdmissionPolicy,MutatingAdmissionWebhook,ValidatingAdmissionPolicy,ValidatingAdmissionWebhook",
		"-v", "0")
	return c, err
}

// Metric is the value of a metric without labels in Prometheus' text format, 0
// if it is not there.
func Metric(b []byte, name string) float64 {
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
				return f
			}
		}
	}
	return 0
}
