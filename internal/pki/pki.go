// Package pki makes and reads what the cluster's parts prove themselves with: a
// certificate authority, server and client certificates, and service account
// tokens. Keys are ECDSA P-256. Files that hold a key have mode 0600.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"proa/internal/host"
)

// Lifetimes. Leaf certificates are renewed at a start when less than a third of
// their life is left; NotBefore lies a day back so that a clock that is set
// right after the start does not lock its owner out.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	backdate = 24 * time.Hour
)

// A CA signs certificates.
type CA struct {
	Cert *x509.Certificate
	PEM  []byte // the certificate
	key  crypto.Signer
}

// A Pair is a certificate with its key, in PEM form.
type Pair struct{ Cert, Key []byte }

// A Leaf says what a certificate is to prove.
type Leaf struct {
	User   string   // common name
	Groups []string // organizations
	Server bool     // for a server, reached at Hosts; otherwise for a client
	Hosts  []string // names and addresses
}

// OpenCA reads the authority kept in dir as NAME.crt and NAME.key, or makes it.
func OpenCA(dir, name string, now time.Time) (*CA, error) {
	crt, key := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	pair, err := readPair(crt, key)
	if errors.Is(err, fs.ErrNotExist) {
		pair, err = newCA("proa-"+name, now)
		if err == nil {
			err = writePair(crt, key, pair)
		}
	}
	if err != nil {
		return nil, err
	}
	return parseCA(pair)
}

func newCA(name string, now time.Time) (Pair, error) {
	key, err := newKey()
	if err != nil {
		return Pair{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true,
	}
	return sign(t, t, key, key)
}

func parseCA(p Pair) (*CA, error) {
	cert, err := parseCert(p.Cert)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(p.Key)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("certificate %q is not an authority", cert.Subject.CommonName)
	}
	if !cert.PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) {
		return nil, fmt.Errorf("key and certificate of authority %q do not belong together", cert.Subject.CommonName)
	}
	return &CA{Cert: cert, PEM: p.Cert, key: key}, nil
}

// Issue makes a certificate with a new key.
func (c *CA) Issue(l Leaf, now time.Time) (Pair, error) {
	key, err := newKey()
	if err != nil {
		return Pair{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: l.User, Organization: l.Groups},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if l.Server {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, h := range l.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if h != "" {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	if t.NotAfter.After(c.Cert.NotAfter) {
		t.NotAfter = c.Cert.NotAfter
	}
	return sign(t, c.Cert, key, c.key)
}

// Keep returns the pair kept in dir as NAME.crt and NAME.key, making it anew if
// it is missing, nearly over, of another authority, or proves something else
// than l asks for.
func (c *CA) Keep(dir, name string, l Leaf, now time.Time) (Pair, error) {
	crt, key := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if p, err := readPair(crt, key); err == nil && c.serves(p, l, now) {
		return p, nil
	}
	p, err := c.Issue(l, now)
	if err != nil {
		return Pair{}, err
	}
	return p, writePair(crt, key, p)
}

func (c *CA) serves(p Pair, l Leaf, now time.Time) bool {
	cert, err := parseCert(p.Cert)
	if err != nil {
		return false
	}
	if _, err := ParseKey(p.Key); err != nil {
		return false
	}
	left := cert.NotAfter.Sub(now)
	if cert.CheckSignatureFrom(c.Cert) != nil || left < leafLife/3 || now.Before(cert.NotBefore) {
		return false
	}
	if cert.Subject.CommonName != l.User || len(cert.Subject.Organization) != len(l.Groups) {
		return false
	}
	for i, g := range l.Groups {
		if cert.Subject.Organization[i] != g {
			return false
		}
	}
	for _, h := range l.Hosts {
		if h != "" && cert.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

func sign(t, parent *x509.Certificate, key, by crypto.Signer) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), by)
	if err != nil {
		return Pair{}, err
	}
	k, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: k}),
	}, nil
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand never fails on the systems Go supports
	}
	return n
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate found")
	}
	return x509.ParseCertificate(block.Bytes)
}

// ParseKey reads an ECDSA private key in PEM form.
func ParseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM key found")
	}
	if block.Type == "EC PRIVATE KEY" {
		return x509.ParseECPrivateKey(block.Bytes)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%T is not an ECDSA key", k)
	}
	return ec, nil
}

func readPair(crt, key string) (Pair, error) {
	c, err := os.ReadFile(crt)
	if err != nil {
		return Pair{}, err
	}
	k, err := os.ReadFile(key)
	return Pair{c, k}, err
}

// writePair writes the key first: a certificate without its key is never seen.
func writePair(crt, key string, p Pair) error {
	if err := os.MkdirAll(filepath.Dir(crt), 0o700); err != nil {
		return err
	}
	if err := host.WriteFile(key, p.Key, 0o600); err != nil {
		return err
	}
	return host.WriteFile(crt, p.Cert, 0o644)
}
