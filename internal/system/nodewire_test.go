package system

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"proa/internal/api"
	"proa/internal/pki"
)

// TestNodeRefusesStrangers asks a node's own API as everybody who may try.
func TestNodeRefusesStrangers(t *testing.T) {
	authority := func(name string) (*pki.CA, *x509.CertPool) {
		ca, err := pki.OpenCA(t.TempDir(), name, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(ca.Cert)
		return ca, pool
	}
	ours, roots := authority("ours")
	others, _ := authority("others")
	server := httptest.NewUnstartedServer(mastersOnly(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	server.TLS = &tls.Config{ClientCAs: roots, ClientAuth: tls.VerifyClientCertIfGiven}
	server.StartTLS()
	defer server.Close()
	for _, tt := range []struct {
		who  string
		ca   *pki.CA
		leaf pki.Leaf
		want int // 0: the handshake fails
	}{
		{"nobody", nil, pki.Leaf{}, http.StatusUnauthorized},
		{"a master", ours, pki.Leaf{User: "proa-apiserver", Groups: []string{api.GroupMasters}}, http.StatusOK},
		{"another node", ours, pki.Leaf{User: "system:node:n2", Groups: []string{api.GroupNodes}}, http.StatusForbidden},
		{"another cluster's master", others, pki.Leaf{User: "proa-apiserver", Groups: []string{api.GroupMasters}}, 0},
	} {
		c := &tls.Config{InsecureSkipVerify: true}
		if tt.ca != nil {
			p, err := tt.ca.Keep(t.TempDir(), "client", tt.leaf, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			cert, err := tls.X509KeyPair(p.Cert, p.Key)
			if err != nil {
				t.Fatal(err)
			}
			// Sent whatever authorities the server names.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		}
		tr := &http.Transport{TLSClientConfig: c}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(server.URL)
		got := 0
		if err == nil {
			got = resp.StatusCode
			resp.Body.Close()
		}
		if got != tt.want {
			t.Errorf("%s: %d, want %d (%v)", tt.who, got, tt.want, err)
		}
	}
}
