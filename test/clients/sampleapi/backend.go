package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// backend is the sample server and its store, as processes of this machine.
type backend struct {
	etcd, server *exec.Cmd
	etcdURL      string
	port         int
	ca           []byte
	log          string
}

// identity509 makes an authority and the certificate of the service's name.
func (w *world) identity509() error {
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "wardle authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "api.wardle.svc"}, DNSNames: []string{"api.wardle.svc"},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	rootKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	ca, err1 := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	cert, err2 := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	keyBytes, err3 := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	w.backend.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})
	return errors.Join(
		os.WriteFile(w.file("tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(w.file("tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyBytes}), 0o600))
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

// kubeconfig writes the one of an account's token.
func (w *world) kubeconfig(name, token string) (string, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: w.config.Host, CertificateAuthorityData: w.config.CAData}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	return w.file(name), clientcmd.WriteToFile(*c, w.file(name))
}

// freePort is a port of an address that nobody listens on.
func freePort(address string) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (w *world) startEtcd() error {
	client, err1 := freePort("127.0.0.1")
	peer, err2 := freePort("127.0.0.1")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	w.backend.etcdURL = "http://127.0.0.1:" + strconv.Itoa(client)
	peerURL := "http://127.0.0.1:" + strconv.Itoa(peer)
	w.backend.etcd = exec.Command(filepath.Join(w.programs, "server"), "--data-dir", w.file("etcd"), "--log-level", "error",
		"--listen-client-urls", w.backend.etcdURL, "--advertise-client-urls", w.backend.etcdURL,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default="+peerURL)
	return w.backend.launch(w.backend.etcd, w.file("etcd.log"))
}

// startServer starts the sample server, as its deployment does.
func (w *world) startServer(kubeconfig string) error {
	w.backend.log = w.file("server.log")
	w.backend.server = exec.Command(filepath.Join(w.programs, "sample-apiserver"),
		"--etcd-servers", w.backend.etcdURL, "--bind-address", w.address, "--secure-port", strconv.Itoa(w.backend.port),
		"--tls-cert-file", w.file("tls.crt"), "--tls-private-key-file", w.file("tls.key"),
		"--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig,
		"--authorization-webhook-cache-unauthorized-ttl", "1s", // a refusal is not remembered for long
		"--audit-log-path", w.file("audit.log"), "--audit-policy-file", w.file("audit.yaml"))
	return w.backend.launch(w.backend.server, w.backend.log)
}

func (b *backend) launch(cmd *exec.Cmd, log string) error {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}

// kill ends the sample server.
func (b *backend) kill() error {
	if b.server == nil {
		return nil
	}
	err := b.server.Process.Kill()
	_ = b.server.Wait() // it was killed
	b.server = nil
	return err
}

func (b *backend) stop() {
	_ = b.kill() // it may have ended
	if b.etcd != nil {
		_ = b.etcd.Process.Kill()
		_ = b.etcd.Wait()
	}
}

// lastWords are the last lines of the server's log.
func (b *backend) lastWords() string {
	text, err := os.ReadFile(b.log)
	if err != nil {
		return "the server did not start yet"
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines = lines[max(0, len(lines)-12):]
	for i, l := range lines {
		lines[i] = l[:min(len(l), 300)]
	}
	return strings.Join(lines, "\n")
}

// answers waits until something accepts connections.
func answers(ctx context.Context, address string) error {
	return until(ctx, address, func() error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}
