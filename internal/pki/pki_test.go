package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func TestKeepReusesAndRenews(t *testing.T) {
	dir := t.TempDir()
	ca, err := OpenCA(dir, "ca", now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenCA(dir, "ca", now)
	if err != nil || string(again.PEM) != string(ca.PEM) {
		t.Fatalf("the authority was made twice (%v)", err)
	}
	leaf := Leaf{User: "server", Server: true, Hosts: []string{"localhost", "127.0.0.1", "kubernetes.default.svc"}}
	first, err := ca.Keep(dir, "server", leaf, now)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "server.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", st.Mode(), err)
	}
	for _, tt := range []struct {
		name string
		leaf Leaf
		at   time.Time
		same bool
	}{
		{"unchanged", leaf, now, true},
		{"half its life later", leaf, now.Add(leafLife / 2), true},
		{"clock set back", leaf, now.Add(-48 * time.Hour), false},
	} {
		p, err := ca.Keep(dir, "server", tt.leaf, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		if same := string(p.Cert) == string(first.Cert); same != tt.same {
			t.Errorf("%s: same certificate: %v, want %v", tt.name, same, tt.same)
		}
		first = p
	}
	more := leaf
	more.Hosts = append(more.Hosts, "10.1.2.3")
	if p, err := ca.Keep(dir, "server", more, now); err != nil || string(p.Cert) == string(first.Cert) {
		t.Errorf("a new address did not renew the certificate (%v)", err)
	}
	if p, err := ca.Keep(dir, "server", more, now.Add(leafLife*9/10)); err != nil || p.Cert == nil {
		t.Errorf("near its end: %v", err)
	}
}

func TestCertificateVerifies(t *testing.T) {
	ca, err := OpenCA(t.TempDir(), "ca", now)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ca.Issue(Leaf{User: "admin", Groups: []string{"system:masters"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(pair.Certificate[0])
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	opts := x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := leaf.Verify(opts); err != nil {
		t.Error(err)
	}
	opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if _, err := leaf.Verify(opts); err == nil {
		t.Error("a client certificate passes for a server's")
	}
}

func TestBrokenAuthority(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenCA(dir, "a", now); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, "b", now); err != nil {
		t.Fatal(err)
	}
	os.Rename(filepath.Join(dir, "b.key"), filepath.Join(dir, "a.key"))
	if _, err := OpenCA(dir, "a", now); err == nil {
		t.Error("an authority with another's key was taken")
	}
}

func TestToken(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenSigner(dir, "sa", "https://kubernetes.default.svc")
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Sign(Claims{
		Claims: jwt.Claims{Subject: "system:serviceaccount:ns:app", Audience: jwt.Audience{"api"},
			Expiry: jwt.NewNumericDate(now.Add(time.Hour)), NotBefore: jwt.NewNumericDate(now)},
		Kube: KubeClaims{Namespace: "ns", Account: Ref{"app", "u1"}, Pod: &Ref{"p", "u2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	reopened, err := OpenSigner(dir, "sa", "https://kubernetes.default.svc")
	if err != nil {
		t.Fatal(err)
	}
	c, err := reopened.Verify(token, []string{"other", "api"}, now)
	if err != nil || c.Kube.Pod.UID != "u2" || c.Subject != "system:serviceaccount:ns:app" {
		t.Fatalf("%+v %v", c, err)
	}
	if _, err := s.Verify(token, []string{"other"}, now); err == nil {
		t.Error("a token for another audience was taken")
	}
	if _, err := s.Verify(token, []string{"api"}, now.Add(2*time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("late: %v", err)
	}
	if _, err := s.Verify(token, []string{"api"}, now.Add(-time.Hour)); !errors.Is(err, ErrNotYet) {
		t.Errorf("early: %v", err)
	}
	if _, err := s.Verify(token[:len(token)-4]+"AAAA", []string{"api"}, now); !errors.Is(err, ErrNotOurs) {
		t.Errorf("forged: %v", err)
	}
	other, _ := OpenSigner(t.TempDir(), "sa", "https://kubernetes.default.svc")
	if _, err := other.Verify(token, []string{"api"}, now); !errors.Is(err, ErrNotOurs) {
		t.Errorf("another cluster's: %v", err)
	}
}

// A token's signature is looked at once, however many others come after it, and what
// is kept of tokens is bounded.
func TestTokensAreKnown(t *testing.T) {
	s, err := OpenSigner(t.TempDir(), "sa", "https://kubernetes.default.svc")
	if err != nil {
		t.Fatal(err)
	}
	token := func(i int) string {
		token, err := s.Sign(Claims{Claims: jwt.Claims{Subject: fmt.Sprint(i), Audience: jwt.Audience{"api"}, Expiry: jwt.NewNumericDate(now.Add(time.Hour))}})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	often := token(0)
	first, err := s.Verify(often, []string{"api"}, now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxKnown {
		c, err := s.Verify(token(i+1), []string{"api"}, now)
		if err != nil || c.Subject != fmt.Sprint(i+1) {
			t.Fatalf("token %d is of %q, %v", i+1, c.Subject, err)
		}
		if again, err := s.Verify(often, []string{"api"}, now); err != nil || again != first {
			t.Fatalf("after %d others the token in use was verified anew, %v", i+1, err)
		}
	}
	if n := len(s.known) + len(s.older); n > 2*maxKnown {
		t.Errorf("%d tokens are kept", n)
	}
	if _, err := s.Verify(often, []string{"api"}, now.Add(2*time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("a known token that has expired: %v", err)
	}
}

func TestKubeconfigRoundTrip(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etc", "kubeconfig")
	want := Kubeconfig{Cluster: "proa", Server: "https://127.0.0.1:6443", CA: []byte("ca"), Client: Pair{[]byte("cert"), []byte("key")}}
	if err := want.Write(file); err != nil {
		t.Fatal(err)
	}
	got, err := ReadKubeconfig(file)
	if err != nil || got.Server != want.Server || string(got.Client.Key) != "key" || string(got.CA) != "ca" {
		t.Errorf("%+v %v", got, err)
	}
	if st, _ := os.Stat(file); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}

func TestRenewer(t *testing.T) {
	ca, err := OpenCA(t.TempDir(), "ca", now)
	if err != nil {
		t.Fatal(err)
	}
	at, dir := now, t.TempDir()
	r, err := ca.Renewer(dir, "server", Leaf{User: "s", Server: true, Hosts: []string{"localhost"}}, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	first, _ := r.Server(nil)
	for _, tt := range []struct {
		later time.Duration
		same  bool
	}{{time.Hour, true}, {leafLife / 2, true}, {leafLife * 9 / 10, false}} {
		at = now.Add(tt.later)
		c, err := r.Server(nil)
		if err != nil || (string(c.Certificate[0]) == string(first.Certificate[0])) != tt.same {
			t.Errorf("after %v: same = %v, want %v (%v)", tt.later, !tt.same, tt.same, err)
		}
	}
	// A disk that fails does not take the certificate in use away.
	os.RemoveAll(dir)
	os.WriteFile(dir, nil, 0o600)
	at = at.Add(leafLife * 9 / 10)
	if c, err := r.Server(nil); err != nil || c == nil {
		t.Errorf("without a disk: %v", err)
	}
}
