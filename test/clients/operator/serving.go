package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

//go:embed config/websites.yaml
var manifest []byte

// serving is where the conversion webhook is to be found, and its identity.
type serving struct {
	cert    tls.Certificate
	ca      []byte
	host    string
	port    int
	service string // NAMESPACE/NAME, if the server reaches it by a service
}

// newServing makes an authority and a certificate. The webhook is at a URL of
// this machine, unless OPERATOR_SERVICE names a service that leads here.
func newServing() (*serving, error) {
	s := &serving{host: "127.0.0.1", service: os.Getenv("OPERATOR_SERVICE")}
	names := []string{"localhost"}
	if s.service != "" {
		ns, name, ok := strings.Cut(s.service, "/")
		if !ok {
			return nil, fmt.Errorf("OPERATOR_SERVICE is %q, not NAMESPACE/NAME", s.service)
		}
		s.host, s.port = "", 9443
		names = append(names, name+"."+ns+".svc")
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		s.port = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	return s, s.sign(names)
}

func (s *serving) sign(names []string) error {
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	rootKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	ca, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[len(names)-1]}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	if err != nil {
		return err
	}
	s.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})
	return nil
}

// definition is the manifest, whose versions convert by this webhook. The CA
// bundle comes later, as cert-manager would do it.
func (s *serving) definition() (*apiextensionsv1.CustomResourceDefinition, error) {
	crd := new(apiextensionsv1.CustomResourceDefinition)
	if err := yaml.UnmarshalStrict(manifest, crd); err != nil {
		return nil, err
	}
	config := new(apiextensionsv1.WebhookClientConfig)
	if s.service == "" {
		config.URL = new("https://127.0.0.1:" + strconv.Itoa(s.port) + "/convert")
	} else {
		ns, name, _ := strings.Cut(s.service, "/")
		config.Service = &apiextensionsv1.ServiceReference{Namespace: ns, Name: name, Path: new("/convert")}
	}
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter,
		Webhook: &apiextensionsv1.WebhookConversion{ClientConfig: config, ConversionReviewVersions: []string{"v1"}}}
	return crd, nil
}

// injectCA patches the CA bundle into the definition.
func (s *serving) injectCA(ctx context.Context, c client.Client, name string) error {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := c.Get(ctx, client.ObjectKey{Name: name}, crd); err != nil {
		return err
	}
	before := crd.DeepCopy()
	crd.Spec.Conversion.Webhook.ClientConfig.CABundle = s.ca
	if err := c.Patch(ctx, crd, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	if !bytes.Equal(crd.Spec.Conversion.Webhook.ClientConfig.CABundle, s.ca) {
		return errors.New("the CA bundle is not in the answer")
	}
	return nil
}
