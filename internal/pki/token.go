package pki

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"proa/internal/host"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// A Signer makes and checks service account tokens: JSON web tokens (RFC 7519)
// signed with ES256, as KEP-1205 describes them.
type Signer struct {
	Issuer string
	key    *ecdsa.PrivateKey
	id     string
	sign   jose.Signer

	mu           sync.Mutex
	known, older map[[sha256.Size]byte]*Claims // of tokens whose signature was verified
}

// Claims is what a service account token says.
type Claims struct {
	jwt.Claims
	Kube KubeClaims `json:"kubernetes.io"`
}

// KubeClaims names the account, and the object that the token ends with.
type KubeClaims struct {
	Namespace string `json:"namespace"`
	Account   Ref    `json:"serviceaccount"`
	Pod       *Ref   `json:"pod,omitempty"`
	Secret    *Ref   `json:"secret,omitempty"`
	Node      *Ref   `json:"node,omitempty"`
	WarnAfter int64  `json:"warnafter,omitempty"` // seconds since 1970
}

// A Ref names one incarnation of an object.
type Ref struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// OpenSigner reads the signing key kept in dir as NAME.key, or makes it.
func OpenSigner(dir, name, issuer string) (*Signer, error) {
	file := filepath.Join(dir, name+".key")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = newKeyFile(file)
	}
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return NewSigner(key, issuer)
}

func newKeyFile(file string) ([]byte, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	return b, host.WriteFile(file, b, 0o600)
}

// NewSigner returns a signer with the given P-256 key.
func NewSigner(key *ecdsa.PrivateKey, issuer string) (*Signer, error) {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	s := &Signer{Issuer: issuer, key: key, id: base64.RawURLEncoding.EncodeToString(sum[:])}
	s.sign, err = jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: s.id}}, nil)
	return s, err
}

// Sign returns the token for claims. Issuer is filled in.
func (s *Signer) Sign(c Claims) (string, error) {
	c.Issuer = s.Issuer
	return jwt.Signed(s.sign).Claims(c).Serialize()
}

// Errors of Verify.
var (
	ErrNotOurs = errors.New("not a token of this cluster")
	ErrExpired = errors.New("the token has expired")
	ErrNotYet  = errors.New("the token is not valid yet")
)

// leeway is how far clocks may be apart.
const leeway = 10 * time.Second

// Verify returns the claims of a token that this signer made, that is valid now
// and that names at least one of the audiences. A token of another issuer gives
// ErrNotOurs. Whether its account and pod still exist is for the caller to see.
// The claims are shared by all who ask with the token, and are not to be changed.
func (s *Signer) Verify(token string, audiences []string, now time.Time) (*Claims, error) {
	c, err := s.signed(token)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Issuer != s.Issuer:
		return nil, ErrNotOurs
	case c.Expiry == nil || now.Add(-leeway).After(c.Expiry.Time()):
		return nil, ErrExpired
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()):
		return nil, ErrNotYet
	}
	if !slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(c.Audience, a) }) {
		return nil, fmt.Errorf("the token is for %q, not for %q", []string(c.Audience), audiences)
	}
	return c, nil
}

// maxKnown bounds the memory of verified tokens, twice.
const maxKnown = 1024

// signed returns the claims of a token whose signature is the signer's. A signature
// takes longer than everything else about a small request, and a client sends the
// same token with each: those seen lately are known.
func (s *Signer) signed(token string) (*Claims, error) {
	sum := sha256.Sum256([]byte(token))
	s.mu.Lock()
	c := s.known[sum]
	if c == nil {
		if c = s.older[sum]; c != nil {
			s.remember(sum, c)
		}
	}
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, ErrNotOurs
	}
	c = &Claims{}
	if err := t.Claims(&s.key.PublicKey, c); err != nil {
		return nil, ErrNotOurs
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(sum, c)
	return c, nil
}

// remember keeps a token until maxKnown others have been seen since. The lock is held.
func (s *Signer) remember(sum [sha256.Size]byte, c *Claims) {
	if len(s.known) >= maxKnown || s.known == nil {
		s.known, s.older = map[[sha256.Size]byte]*Claims{}, s.known
	}
	s.known[sum] = c
}

// JWKS is the public key set (RFC 7517) that others check tokens with.
func (s *Signer) JWKS() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &s.key.PublicKey, KeyID: s.id, Algorithm: string(jose.ES256), Use: "sig"},
	}}
}
