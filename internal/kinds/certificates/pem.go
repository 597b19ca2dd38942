package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	requestBlock     = "CERTIFICATE REQUEST"
	certificateBlock = "CERTIFICATE"
)

// ParseRequest reads a PKCS#10 request from its PEM block.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	b, _ := pem.Decode(data)
	if b == nil || b.Type != requestBlock {
		return nil, errors.New("PEM block type must be " + requestBlock)
	}
	return x509.ParseCertificateRequest(b.Bytes)
}

func checkRequest(data []byte) error {
	r, err := ParseRequest(data)
	if err != nil {
		return err
	}
	return r.CheckSignature()
}

// checkCertificates checks one or more certificates in PEM blocks, between which
// there may be text (RFC 7468, section 5.2). No data at all is fine.
func checkCertificates(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	blocks := 0
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		if b.Type != certificateBlock {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", b.Type)
		}
		if len(b.Headers) > 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certs, err := x509.ParseCertificates(b.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		blocks++
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}

// checkKey checks that a pod's key is of a type and size that is allowed.
func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return errors.New("elliptic public keys must use curve P256, P384 or P521")
		}
	case *rsa.PublicKey:
		if n := k.Size() * 8; n != 3072 && n != 4096 {
			return errors.New("RSA keys must have modulus size 3072 or 4096")
		}
	default:
		return errors.New("unknown public key type; supported types are Ed25519, ECDSA, and RSA")
	}
	return nil
}
