package system

import (
	"fmt"
	"hash/fnv"
	"path/filepath"
)

// DefaultRoot is where a node keeps its data unless it is told otherwise.
const DefaultRoot = "/var/lib/proa"

// Places is where everything lies that a node owns. With the default root the
// places are the usual ones of a Linux system; with another root everything is
// below it, and names that a machine has only once get a suffix, so that
// several clusters live on one machine.
type Places struct {
	Root   string // data that must survive a reboot
	Run    string // sockets and pid files
	Etc    string // kubeconfig and settings
	Suffix string // of interface names, nftables tables and cgroups; empty for the default root
}

// PlacesFor returns the places that go with a root folder.
func PlacesFor(root string) (Places, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return Places{}, err
	}
	if root == DefaultRoot {
		return Places{Root: root, Run: "/run/proa", Etc: "/etc/proa"}, nil
	}
	h := fnv.New32a()
	h.Write([]byte(root))
	return Places{Root: root, Run: filepath.Join(root, "run"), Etc: filepath.Join(root, "etc"),
		Suffix: fmt.Sprintf("-%04x", h.Sum32()&0xffff)}, nil
}

// The single places.
func (p Places) PKI() string        { return filepath.Join(p.Root, "pki") }
func (p Places) Store() string      { return filepath.Join(p.Root, "store") }
func (p Places) Registry() string   { return filepath.Join(p.Root, "registry") }
func (p Places) Node() string       { return filepath.Join(p.Root, "node") }
func (p Places) Network() string    { return filepath.Join(p.Root, "network") }
func (p Places) Kubeconfig() string { return filepath.Join(p.Etc, "kubeconfig") }
func (p Places) CNIConf() string    { return filepath.Join(p.Root, "containerd", "cni") }
func (p Places) CNISocket() string  { return filepath.Join(p.Run, "cni.sock") }
func (p Places) Socket() string     { return filepath.Join(p.Run, "containerd.sock") }
func (p Places) Log() string        { return filepath.Join(p.Root, "log", "proa.log") }
func (p Places) PID() string        { return filepath.Join(p.Run, "proa.pid") }

// Names that a machine has only once.

// Table is the nftables table of the service rules.
func (p Places) Table() string { return "proa" + p.Suffix }

// Cgroup is the parent of the pods' cgroups.
func (p Places) Cgroup() string { return "proa" + p.Suffix }

// Device is the node's interface in the pod network, at most 8 characters.
func (p Places) Device() string {
	if p.Suffix == "" {
		return "proa0"
	}
	return "proa" + p.Suffix[1:]
}
