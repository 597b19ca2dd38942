package node

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestNameServersOfPods(t *testing.T) {
	for _, c := range []struct {
		name, host string
		policy     corev1.DNSPolicy
		hostNet    bool
		cluster    []string
		want       []string
	}{
		{"cluster", "nameserver 127.0.0.53\n", corev1.DNSClusterFirst, false, []string{"10.43.0.10"}, []string{"10.43.0.10"}},
		{"the node's", "nameserver 192.0.2.9\nnameserver 192.0.2.8\n", corev1.DNSDefault, false, []string{"10.43.0.10"}, []string{"192.0.2.9", "192.0.2.8"}},
		{"a stub and another", "nameserver 127.0.0.53\nnameserver 192.0.2.8\n", corev1.DNSDefault, false, []string{"10.43.0.10"}, []string{"192.0.2.8"}},
		{"only a stub", "nameserver 127.0.0.53\nnameserver ::1\n", corev1.DNSDefault, false, []string{"10.43.0.10"}, []string{"10.43.0.10"}},
		{"only a stub, no cluster's", "nameserver 127.0.0.53\n", corev1.DNSDefault, false, nil, []string{"127.0.0.53"}},
		{"the node's network has the stub", "nameserver 127.0.0.53\n", corev1.DNSDefault, true, []string{"10.43.0.10"}, []string{"127.0.0.53"}},
		{"the node's network, cluster first", "nameserver 127.0.0.53\n", corev1.DNSClusterFirst, true, []string{"10.43.0.10"}, []string{"127.0.0.53"}},
		{"none", "nameserver 192.0.2.9\n", corev1.DNSNone, false, []string{"10.43.0.10"}, nil},
	} {
		file := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(file, []byte(c.host), 0o600); err != nil {
			t.Fatal(err)
		}
		a := &Agent{Config: Config{ResolvConf: file, ClusterDNS: c.cluster, Domain: "cluster.local"}}
		got, err := a.dns(&corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: c.policy, HostNetwork: c.hostNet}})
		if err != nil || !slices.Equal(got.GetServers(), c.want) {
			t.Errorf("%s: %v %v, want %v", c.name, got.GetServers(), err, c.want)
		}
	}
}
