package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// tree makes up a cgroup mount. What the kernel does by itself, such as making the
// files of a new cgroup, it does not: so files are laid out before.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func v1(t *testing.T) string {
	files := map[string]string{}
	for _, c := range []string{"cpu", "memory", "pids", "cpuacct", "cpuset", "devices", "freezer", "blkio"} {
		files[c+"/cgroup.procs"] = ""
	}
	return tree(t, files)
}

func TestV1(t *testing.T) {
	root := v1(t)
	c, err := Open(root, "/proa")
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, root, "cpu/proa/kubepods/besteffort/cpu.shares"); got != "2" {
		t.Errorf("besteffort has %s shares", got)
	}
	path := c.Pod(corev1.PodQOSBurstable, "u1")
	if path != "/proa/kubepods/burstable/podu1" {
		t.Errorf("path %s", path)
	}
	if err := c.Create(path, Resources{Shares: 512, Quota: 50_000, Memory: 1 << 20, Pids: 100}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"cpu/cpu.shares": "512", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000",
		"memory/memory.limit_in_bytes": "1048576", "pids/pids.max": "100"} {
		ctl, file, _ := strings.Cut(name, "/")
		if got := read(t, root, ctl+path+"/"+file); got != want {
			t.Errorf("%s is %s; want %s", name, got, want)
		}
	}
	if got := read(t, root, "cpu/proa/kubepods/burstable/cpu.shares"); got != "514" {
		t.Errorf("burstable has %s shares; want the sum", got)
	}
	if c.Pod(corev1.PodQOSGuaranteed, "u2") != "/proa/kubepods/podu2" {
		t.Error("guaranteed pods are directly below kubepods")
	}
	if err := c.Remove("/proa/../x"); err == nil {
		t.Error("a path outside was removed")
	}
}

func TestUnusable(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"nothing mounted": {nil, []string{"no cgroups are mounted", "mount -t cgroup2"}},
		"v1 without memory": {map[string]string{"cpu/cgroup.procs": "", "devices/cgroup.procs": ""},
			[]string{"has no memory controller", "mount -t cgroup -o memory"}},
		"v2 without pids": {map[string]string{"cgroup.controllers": "cpu io memory"},
			[]string{"has no pids controller", "Delegate=yes"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(tree(t, c.files), "/proa")
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error %v does not say %q", err, w)
				}
			}
		})
	}
}

func TestReadOnly(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("needs another user than root: root may write everywhere")
	}
	root := v1(t)
	if err := os.Chmod(filepath.Join(root, "cpu"), 0o555); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(root, "/proa"); err == nil || !strings.Contains(err.Error(), "run as root") {
		t.Errorf("error %v", err)
	}
}

// On v2 the controllers are handed down level by level, and the limits have other names.
func TestV2(t *testing.T) {
	files := map[string]string{}
	for _, d := range []string{"", "proa", "proa/kubepods", "proa/kubepods/burstable", "proa/kubepods/besteffort", "proa/kubepods/podu"} {
		files[filepath.Join(d, "cgroup.controllers")] = "cpu memory pids io"
		files[filepath.Join(d, "cgroup.subtree_control")] = ""
	}
	root := tree(t, files)
	c, err := Open(root, "proa")
	if err != nil {
		t.Fatal(err)
	}
	if !c.V2 {
		t.Fatal("not seen as v2")
	}
	if got := read(t, root, "proa/kubepods/cgroup.subtree_control"); got == "" {
		t.Error("nothing was handed down")
	}
	if err := c.Create(c.Pod(corev1.PodQOSGuaranteed, "u"), Resources{Shares: 1024, Quota: 100_000, Memory: 4096}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"cpu.weight": "100", "cpu.max": "100000 100000", "memory.max": "4096"} {
		if got := read(t, root, "proa/kubepods/podu/"+name); got != want {
			t.Errorf("%s is %s; want %s", name, got, want)
		}
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[int64]int64{0: 1, 2: 1, 102: 17, 1024: 100, 2048: 174, 262144: 10000, 1 << 20: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d; want %d", shares, got, want)
		}
	}
}

// A runtime that was stopped half-way made a cgroup in one hierarchy after the
// pod's own were removed: the sweep finds it, and leaves those of known pods.
func TestSweep(t *testing.T) {
	root := v1(t)
	c, err := Open(root, "/proa")
	if err != nil {
		t.Fatal(err)
	}
	gone, lives := "memory/proa/kubepods/besteffort/podgone", "memory/proa/kubepods/podlives"
	for _, d := range []string{gone + "/container", lives} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Sweep(func(uid string) bool { return uid == "lives" }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, gone)); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", gone, err)
	}
	if _, err := os.Stat(filepath.Join(root, lives)); err != nil {
		t.Error(err)
	}
}
