// Package containerd writes the configuration of a containerd of our own, starts
// it, and keeps it running. It outlives this process, and the containers outlive
// both: a later process takes up the one that runs.
package containerd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Config says what a containerd is to be like. Bin, Dir and Socket are required.
type Config struct {
	Bin    string // folder with containerd, containerd-shim-runc-v2 and runc
	Dir    string // what must last: images, containers
	State  string // what need not survive a reboot; Dir/state if empty
	Socket string // at most 100 bytes long
	Log    string // file for its output; Dir/containerd.log if empty

	SandboxImage string
	CNIConf      string   // folder of CNI configurations
	CNIBin       []string // folders of CNI plugins
	Certs        string   // folder of registries' hosts.toml
	Snapshotter  string   // overlayfs, or native where that does not work; found out if empty
	// Restricted: this process may not lower OOM scores. Found out by Fill.
	Restricted bool
	Debug      bool
}

// Fill sets what is empty, by a look at the machine.
func (c *Config) Fill() error {
	if c.State == "" {
		c.State = filepath.Join(c.Dir, "state")
	}
	if c.Log == "" {
		c.Log = filepath.Join(c.Dir, "containerd.log")
	}
	if len(c.Socket) > 100 {
		return fmt.Errorf("containerd's socket %s: the path is longer than the 100 bytes that a socket's can be; use a shorter --root", c.Socket)
	}
	if !HasCap(unix.CAP_SYS_RESOURCE) {
		c.Restricted = true
	}
	if c.Snapshotter == "" {
		c.Snapshotter = "overlayfs"
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return err
		}
		if err := Overlay(c.Dir); err != nil {
			c.Snapshotter = "native"
		}
	}
	return nil
}

// HasCap says whether this process has a capability.
func HasCap(c int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}

// Overlay says why overlayfs does not work on a folder, by mounting one there; nil if it does.
func Overlay(dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, "overlay-check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(tmp, d), 0o700); err != nil {
			return err
		}
	}
	opts := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", tmp)
	if err := unix.Mount("overlay", filepath.Join(tmp, "merged"), "overlay", 0, opts); err != nil {
		return fmt.Errorf("overlayfs on %s: %w", dir, err)
	}
	return unix.Unmount(filepath.Join(tmp, "merged"), unix.MNT_DETACH)
}

// disabled are plugins that a node does not need; each costs memory or listens somewhere.
var disabled = []string{
	"io.containerd.nri.v1.nri",
	"io.containerd.image-verifier.v1.bindir",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.btrfs",
	"io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.zfs",
	"io.containerd.differ.v1.erofs",
	"io.containerd.mount-handler.v1.erofs",
	"io.containerd.internal.v1.opt",
	"io.containerd.internal.v1.tracing",
	"io.containerd.tracing.processor.v1.otlp",
	"io.containerd.monitor.container.v1.restart",
}

// TOML is the configuration file.
func (c *Config) TOML() []byte {
	var b bytes.Buffer
	line := func(format string, args ...string) {
		quoted := make([]any, len(args))
		for i, a := range args {
			quoted[i] = strconv.Quote(a)
		}
		fmt.Fprintf(&b, format+"\n", quoted...)
	}
	list := func(items []string) string {
		var q []string
		for _, s := range items {
			q = append(q, strconv.Quote(s))
		}
		return "[" + strings.Join(q, ", ") + "]"
	}
	level := "info"
	if c.Debug {
		level = "debug"
	}
	const rt, im = `"io.containerd.cri.v1.runtime"`, `"io.containerd.cri.v1.images"`
	line("# Written by proa at each start: changes are lost.\nversion = 3")
	line("root = %s", filepath.Join(c.Dir, "root"))
	line("state = %s", c.State)
	line("imports = []")
	if !c.Restricted {
		line("oom_score = -999")
	}
	line("disabled_plugins = " + list(disabled))
	line("[debug]\n  level = %s", level)
	line("[grpc]\n  address = %s", c.Socket)
	line("[ttrpc]\n  address = %s", c.Socket+".ttrpc")
	line("[plugins."+im+"]\n  snapshotter = %s", c.Snapshotter)
	line("  [plugins."+im+".pinned_images]\n    sandbox = %s", c.SandboxImage)
	if c.Certs != "" {
		line("  [plugins."+im+".registry]\n    config_path = %s", c.Certs)
	}
	line("[plugins." + rt + "]")
	line("  restrict_oom_score_adj = " + strconv.FormatBool(c.Restricted))
	line("  netns_mounts_under_state_dir = true\n  enable_selinux = false")
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		line("  disable_apparmor = true")
	}
	line("  [plugins." + rt + ".containerd]\n    default_runtime_name = \"runc\"")
	line("  [plugins." + rt + ".containerd.runtimes.runc]\n    runtime_type = \"io.containerd.runc.v2\"")
	line("    runtime_path = %s", filepath.Join(c.Bin, "containerd-shim-runc-v2"))
	line("    [plugins." + rt + ".containerd.runtimes.runc.options]")
	line("      BinaryName = %s", filepath.Join(c.Bin, "runc"))
	line("      Root = %s", filepath.Join(c.State, "runc"))
	line("      SystemdCgroup = false")
	line("  [plugins."+rt+".cni]\n    conf_dir = %s", c.CNIConf)
	line("    bin_dirs = " + list(c.CNIBin))
	line("    use_internal_loopback = true")
	line("[plugins.\"io.containerd.shim.v1.manager\"]\n  socket_dir = %s", filepath.Join(c.State, "s"))
	return b.Bytes()
}
