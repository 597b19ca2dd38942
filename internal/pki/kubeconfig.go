package pki

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	"proa/internal/host"

	"sigs.k8s.io/yaml"
)

// A Kubeconfig is what a client needs to reach the cluster as one user.
type Kubeconfig struct {
	Cluster string // the name of cluster, context and user
	Server  string // URL
	CA      []byte
	Client  Pair
}

// Write writes the file with mode 0600, replacing what is there, and makes its folder.
func (k Kubeconfig) Write(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	enc := base64.StdEncoding.EncodeToString
	return host.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s-admin
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
contexts:
- name: %[1]s
  context:
    cluster: %[1]s
    user: %[1]s-admin
current-context: %[1]s
`, k.Cluster, k.Server, enc(k.CA), enc(k.Client.Cert), enc(k.Client.Key)), 0o600)
}

// kubeconfigFile is the part of the format (clientcmd/v1) that Write writes.
type kubeconfigFile struct {
	Clusters []struct {
		Cluster struct {
			Server string `json:"server"`
			CA     []byte `json:"certificate-authority-data"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		User struct {
			Cert []byte `json:"client-certificate-data"`
			Key  []byte `json:"client-key-data"`
		} `json:"user"`
	} `json:"users"`
	Current string `json:"current-context"`
}

// ReadKubeconfig reads a file that [Kubeconfig.Write] wrote.
func ReadKubeconfig(file string) (k Kubeconfig, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return k, err
	}
	var f kubeconfigFile
	if err := yaml.Unmarshal(b, &f); err != nil {
		return k, fmt.Errorf("%s: %w", file, err)
	}
	if len(f.Clusters) == 0 || len(f.Users) == 0 {
		return k, fmt.Errorf("%s names no cluster or no user", file)
	}
	c, u := f.Clusters[0].Cluster, f.Users[0].User
	return Kubeconfig{Cluster: f.Current, Server: c.Server, CA: c.CA, Client: Pair{u.Cert, u.Key}}, nil
}
