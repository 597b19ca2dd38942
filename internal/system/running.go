package system

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"proa/internal/api"
	"proa/internal/httpapi"
	"proa/internal/pki"
)

// PID returns the process id of the proa that runs on these places, or 0.
func PID(p Places) (int, error) {
	b, err := os.ReadFile(p.PID())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return 0, fmt.Errorf("%w: run as root", err)
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || !Running(p, pid) {
		return 0, nil
	}
	return pid, nil
}

// Running says whether process pid is the proa of these places, and not another
// program, or the proa of another cluster, that was given its id since: it has
// the store open.
func Running(p Places, pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || !strings.HasPrefix(filepath.Base(strings.TrimSuffix(exe, " (deleted)")), "proa") {
		return false
	}
	store, err := filepath.EvalSymlinks(p.Store())
	if err != nil {
		return false
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	open, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, f := range open {
		if file, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && strings.HasPrefix(file, store+"/") {
			return true
		}
	}
	return false
}

// Client returns a Handler that asks the cluster that a kubeconfig file names,
// and that cluster's URL.
func Client(kubeconfig string) (api.Handler, string, error) {
	client, url, err := httpClient(kubeconfig)
	if err != nil {
		return nil, "", err
	}
	return httpapi.Dial(url, client), url, nil
}

func httpClient(kubeconfig string) (*http.Client, string, error) {
	k, err := pki.ReadKubeconfig(kubeconfig)
	if err != nil {
		return nil, "", err
	}
	cert, err := tls.X509KeyPair(k.Client.Cert, k.Client.Key)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", kubeconfig, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(k.CA)
	t := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}
	return &http.Client{Transport: t}, k.Server, nil
}
