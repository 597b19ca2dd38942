package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	knet "k8s.io/apimachinery/pkg/util/net"
	"sigs.k8s.io/yaml"
)

// requestTimeout bounds one request of a command.
const requestTimeout = time.Minute

// A remote is a cluster as the user of a kubeconfig reaches it.
type remote struct {
	base      string
	http      *http.Client
	header    http.Header // with every request of http: who the user is
	namespace string      // of the context
	warn      io.Writer
}

// connectFlags are those that say which cluster, as whom, and where in it.
func connectFlags(fs *flag.FlagSet, c *Call) {
	fs.Func("root", "`DIR` of the cluster, if it is not the usual one", func(v string) error {
		c.Settings.values["root"], c.Settings.from["root"] = v, "flag --root"
		return nil
	})
	fs.StringVar(&c.kubeconfig, "kubeconfig", "", "`FILE` that says which cluster, and as whom (else $KUBECONFIG, else the cluster of this machine)")
	fs.StringVar(&c.context, "context", "", "`NAME` of a context in that file")
	fs.StringVar(&c.namespace, "namespace", "", "`NAME` of the namespace")
	fs.StringVar(&c.namespace, "n", "", "short for --namespace `NAME`")
}

// connect reads the kubeconfig that a call means.
func connect(c *Call) (*remote, error) {
	if err := c.Settings.load(); err != nil {
		return nil, usageError(err.Error())
	}
	file := c.kubeconfig
	if file == "" {
		for _, f := range filepath.SplitList(os.Getenv("KUBECONFIG")) {
			if _, err := os.Stat(f); err == nil {
				file = f
				break
			}
		}
	}
	if file == "" {
		places, err := placesOf(c)
		if err != nil {
			return nil, err
		}
		file = places.Kubeconfig()
	}
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no %s: start the cluster with 'proa up' first, or set KUBECONFIG", file)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s is for root: run as root, or set KUBECONFIG to a copy of your own", file)
	case err != nil:
		return nil, err
	}
	r, err := parseKubeconfig(b, c.context, filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	r.warn = c.Err
	if c.namespace != "" {
		r.namespace = c.namespace
	}
	return r, nil
}

// kubeconfig is the part of the format (clientcmd/v1) that is understood here.
type kubeconfig struct {
	Clusters []struct {
		Name    string `json:"name"`
		Cluster struct {
			Server   string `json:"server"`
			CA       []byte `json:"certificate-authority-data"`
			CAFile   string `json:"certificate-authority"`
			Insecure bool   `json:"insecure-skip-tls-verify"`
			Name     string `json:"tls-server-name"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string   `json:"name"`
		User kubeUser `json:"user"`
	} `json:"users"`
	Contexts []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster   string `json:"cluster"`
			User      string `json:"user"`
			Namespace string `json:"namespace"`
		} `json:"context"`
	} `json:"contexts"`
	Current string `json:"current-context"`
}

type kubeUser struct {
	Cert      []byte          `json:"client-certificate-data"`
	CertFile  string          `json:"client-certificate"`
	Key       []byte          `json:"client-key-data"`
	KeyFile   string          `json:"client-key"`
	Token     string          `json:"token"`
	TokenFile string          `json:"tokenFile"`
	Username  string          `json:"username"`
	Password  string          `json:"password"`
	As        string          `json:"as"`
	AsGroups  []string        `json:"as-groups"`
	Exec      json.RawMessage `json:"exec"`
	Provider  json.RawMessage `json:"auth-provider"`
}

// parseKubeconfig makes a remote of a context, the current one if name is empty.
// Relative paths in the file begin at dir.
func parseKubeconfig(b []byte, name, dir string) (*remote, error) {
	var k kubeconfig
	if err := yaml.Unmarshal(b, &k); err != nil {
		return nil, err
	}
	if name == "" {
		name = k.Current
	}
	r := &remote{header: http.Header{"User-Agent": {"proa"}}, namespace: metav1.NamespaceDefault}
	cluster, user := "", ""
	for _, x := range k.Contexts {
		if x.Name == name {
			cluster, user = x.Context.Cluster, x.Context.User
			if x.Context.Namespace != "" {
				r.namespace = x.Context.Namespace
			}
		}
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, x := range k.Clusters {
		if x.Name != cluster {
			continue
		}
		r.base = strings.TrimSuffix(x.Cluster.Server, "/")
		t.InsecureSkipVerify, t.ServerName = x.Cluster.Insecure, x.Cluster.Name
		ca, err := inlineOr(x.Cluster.CA, x.Cluster.CAFile, dir)
		if err != nil {
			return nil, err
		}
		if ca != nil {
			t.RootCAs = x509.NewCertPool()
			t.RootCAs.AppendCertsFromPEM(ca)
		}
	}
	if r.base == "" {
		return nil, fmt.Errorf("it has no context %q with a cluster and its server", name)
	}
	for _, x := range k.Users {
		if x.Name == user {
			if err := x.User.identify(r, t, dir); err != nil {
				return nil, fmt.Errorf("user %s: %w", user, err)
			}
		}
	}
	server, err := url.Parse(r.base)
	if err != nil {
		return nil, err
	}
	r.http = &http.Client{Timeout: requestTimeout, Transport: &asUser{r.header, server,
		&http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSClientConfig: t}}}
	return r, nil
}

// asUser sends requests with what says who the user is, but not where a
// redirect leads to another server.
type asUser struct {
	header http.Header
	server *url.URL
	by     http.RoundTripper
}

func (a *asUser) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == a.server.Scheme && req.URL.Host == a.server.Host {
		req = req.Clone(req.Context())
		maps.Copy(req.Header, a.header)
	}
	return a.by.RoundTrip(req)
}

// identify makes the remote's requests those of the user.
func (u *kubeUser) identify(r *remote, t *tls.Config, dir string) error {
	if u.Exec != nil || u.Provider != nil {
		return errors.New("its credentials come from a program, which only kubectl can run: use a token or a certificate, or 'kubectl get --raw'")
	}
	cert, err := inlineOr(u.Cert, u.CertFile, dir)
	if err != nil {
		return err
	}
	key, err := inlineOr(u.Key, u.KeyFile, dir)
	if err != nil {
		return err
	}
	if cert != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return err
		}
		t.Certificates = []tls.Certificate{pair}
	}
	token, err := inlineOr([]byte(u.Token), u.TokenFile, dir)
	if err != nil {
		return err
	}
	switch {
	case len(token) > 0:
		r.header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	case u.Username != "":
		req := http.Request{Header: r.header}
		req.SetBasicAuth(u.Username, u.Password)
	}
	if u.As != "" {
		r.header.Set("Impersonate-User", u.As)
		r.header["Impersonate-Group"] = u.AsGroups
	}
	return nil
}

func inlineOr(data []byte, file, dir string) ([]byte, error) {
	if len(data) > 0 || file == "" {
		return data, nil
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	return os.ReadFile(file)
}

// An apiError is what the server says instead of an answer.
type apiError struct{ metav1.Status }

func (e *apiError) Error() string { return e.Message }

// do sends a request and returns the body of the answer.
func (r *remote) do(ctx context.Context, method, path string, query url.Values, accept string, body []byte) ([]byte, error) {
	u := r.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	switch {
	case method == http.MethodPatch:
		req.Header.Set("Content-Type", "application/merge-patch+json")
	case len(body) > 0:
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the API at %s does not answer: %w", r.base, err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", r.base, err)
	}
	ws, _ := knet.ParseWarningHeaders(resp.Header["Warning"])
	for _, w := range ws {
		fmt.Fprintf(r.warn, "Warning: %s\n", w.Text)
	}
	if resp.StatusCode < 300 {
		return out, nil
	}
	e := &apiError{}
	if json.Unmarshal(out, &e.Status) != nil || e.Message == "" {
		e.Message = fmt.Sprintf("the server answers %s %s with %s", method, path, resp.Status)
	}
	e.Code = int32(resp.StatusCode)
	return nil, e
}

// get reads a JSON document.
func (r *remote) get(ctx context.Context, path string, query url.Values, into any) error {
	b, err := r.do(ctx, http.MethodGet, path, query, "application/json", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}
