package steps

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"proa/internal/node/containerd"
)

// A Kernel is what a node with real containers needs to know about its machine.
// Tests make one up.
type Kernel interface {
	Root() bool
	HasCap(c int) bool
	// NFTables returns why nftables cannot be used, or nil.
	NFTables() error
	// Overlay returns why overlayfs does not work on a folder, or nil.
	Overlay(dir string) error
	// Cgroups returns why cgroups cannot be used, or nil.
	Cgroups() error
	// Bridge returns why bridges and veth pairs cannot be made, or nil.
	Bridge() error
}

// A Finding is what a check found: an error stops the start, a warning does not.
type Finding struct {
	Fatal bool
	What  string // is missing
	Do    string // about it
}

func (f Finding) Error() string { return f.What + ": " + f.Do }

// Check says what the machine lacks, in words for its owner.
func Check(k Kernel, dir string) (out []Finding) {
	if !k.Root() {
		return []Finding{{true, "proa up needs root to run containers", "run it with sudo, or try `proa up --pretend`, which runs pretended containers without root"}}
	}
	for _, c := range []struct {
		cap  int
		name string
		do   string
	}{
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "it is needed for mounts and namespaces: in a container, run it privileged"},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "it is needed for the pod network: in a container, run it privileged"},
	} {
		if !k.HasCap(c.cap) {
			out = append(out, Finding{true, "the capability " + c.name + " is missing", c.do})
		}
	}
	if err := k.Cgroups(); err != nil {
		out = append(out, Finding{true, "cgroups cannot be used", err.Error()})
	}
	if err := k.NFTables(); err != nil {
		out = append(out, Finding{true, "the kernel has no usable nftables (" + err.Error() + ")",
			"Services and the pods' way out need it: load the module (modprobe nf_tables), or use a kernel with CONFIG_NF_TABLES"})
	}
	if err := k.Bridge(); err != nil {
		out = append(out, Finding{true, "the kernel cannot make bridges or veth pairs (" + err.Error() + ")",
			"the pod network needs them: load the modules (modprobe bridge veth), or use a kernel with CONFIG_BRIDGE and CONFIG_VETH"})
	}
	if err := k.Overlay(dir); err != nil {
		out = append(out, Finding{false, "overlayfs does not work here (" + err.Error() + ")",
			"images are copied instead, which takes more time and disk: put --root on a file system that overlayfs can use (ext4, xfs), or load the module (modprobe overlay)"})
	}
	if !k.HasCap(unix.CAP_SYS_RESOURCE) {
		out = append(out, Finding{false, "the capability CAP_SYS_RESOURCE is missing",
			"containers cannot be kept from being the first to die when memory runs out; all else works"})
	}
	return out
}

// Fatal joins the findings that stop the start into one error; nil if none does.
func Fatal(fs []Finding) error {
	var all []error
	for _, f := range fs {
		if f.Fatal {
			all = append(all, f)
		}
	}
	return errors.Join(all...)
}

// Machine is the kernel that this process runs on.
type Machine struct {
	NFT        func() error // asks the kernel for its nftables, from package proxy; nil: not checked
	CgroupRoot string       // /sys/fs/cgroup if empty
}

// Root implements Kernel.
func (Machine) Root() bool { return os.Geteuid() == 0 }

// HasCap implements Kernel.
func (Machine) HasCap(c int) bool { return containerd.HasCap(c) }

// NFTables implements Kernel.
func (m Machine) NFTables() error {
	if m.NFT != nil {
		return m.NFT()
	}
	// A netfilter netlink socket, and an answer to "which generation are you" (NFT_MSG_GETGEN).
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("netfilter netlink: %w", err)
	}
	defer unix.Close(fd)
	const getGen = 10<<8 | 16 // NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
	msg := []byte{20, 0, 0, 0, getGen & 0xff, getGen >> 8, unix.NLM_F_REQUEST | unix.NLM_F_ACK, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netfilter netlink: %w", err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return fmt.Errorf("netfilter netlink: %w", err)
	}
	if n >= 20 && buf[4] == unix.NLMSG_ERROR {
		if code := int32(buf[16]) | int32(buf[17])<<8 | int32(buf[18])<<16 | int32(buf[19])<<24; code != 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}

// Overlay implements Kernel.
func (Machine) Overlay(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return containerd.Overlay(dir)
}

// Cgroups implements Kernel. That the needed controllers are there is seen when
// the tree is made (see cgroups.Open); here only that something is mounted.
func (m Machine) Cgroups() error {
	root := m.CgroupRoot
	if root == "" {
		root = "/sys/fs/cgroup"
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) == 0 {
		return fmt.Errorf("nothing is mounted at %s: mount cgroup2 there", root)
	}
	return nil
}

// Bridge implements Kernel. It looks for the module where the kernel shows those
// that are loaded or built in with parameters, and else for one that can be loaded.
func (Machine) Bridge() error {
	if _, err := os.Stat("/sys/module/bridge"); err == nil {
		return nil
	}
	var un unix.Utsname
	if err := unix.Uname(&un); err != nil {
		return err
	}
	release := unix.ByteSliceToString(un.Release[:])
	if _, err := os.Stat("/lib/modules/" + release); err != nil {
		return nil // nothing says that it is not built in
	}
	for _, name := range []string{"modules.builtin", "modules.dep"} {
		b, err := os.ReadFile("/lib/modules/" + release + "/" + name)
		if err == nil && strings.Contains(string(b), "/bridge.ko") {
			return nil
		}
	}
	return fmt.Errorf("kernel %s has no module bridge", release)
}
