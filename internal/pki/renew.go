package pki

import (
	"crypto/tls"
	"sync"
	"time"
)

// renewEvery is how often a certificate in use is looked at: often enough to be
// replaced long before its end, seldom enough to cost nothing.
const renewEvery = 12 * time.Hour

// A Renewer hands out one kept certificate and replaces it, with its files, when
// it nears its end, so that a process may run for longer than its certificates.
type Renewer struct {
	ca        *CA
	dir, name string
	leaf      Leaf
	now       func() time.Time

	mu   sync.Mutex
	cert *tls.Certificate
	seen time.Time
}

// Renewer returns a Renewer of the certificate that [CA.Keep] keeps under the
// same name. It makes the certificate at once.
func (c *CA) Renewer(dir, name string, l Leaf, now func() time.Time) (*Renewer, error) {
	r := &Renewer{ca: c, dir: dir, name: name, leaf: l, now: now}
	_, err := r.Certificate()
	return r, err
}

// Certificate returns the certificate in force. If it cannot be renewed, the old
// one goes on until its end.
func (r *Renewer) Certificate() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.cert != nil && now.Sub(r.seen).Abs() < renewEvery {
		return r.cert, nil
	}
	p, err := r.ca.Keep(r.dir, r.name, r.leaf, now)
	if err == nil {
		var cert tls.Certificate
		if cert, err = tls.X509KeyPair(p.Cert, p.Key); err == nil {
			r.cert, r.seen = &cert, now
		}
	}
	if r.cert != nil {
		return r.cert, nil
	}
	return nil, err
}

// Server is for [tls.Config.GetCertificate].
func (r *Renewer) Server(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.Certificate() }

// Client is for [tls.Config.GetClientCertificate].
func (r *Renewer) Client(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return r.Certificate()
}
