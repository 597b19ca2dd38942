// Package cgroups keeps the cgroups above the containers: one for all pods, one
// each for the Burstable and BestEffort classes, and one for each pod, on cgroup
// v1 (every controller a hierarchy of its own) and v2. The containers' own
// cgroups are the runtime's.
package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"proa/internal/host"

	corev1 "k8s.io/api/core/v1"
)

// Resources are the limits of one cgroup. Zero values set no limit.
type Resources struct {
	Shares int64 // cgroup v1 cpu.shares; on v2 turned into cpu.weight
	Quota  int64 // µs of CPU in a period of 100 ms
	Memory int64 // bytes
	Pids   int64
}

const period = 100_000

// controllers that v1 machines may have. The first three are used here; the
// runtime makes folders in the others, which are removed here.
var controllers = []string{"cpu", "memory", "pids", "cpuacct", "cpuset", "devices", "freezer", "blkio", "hugetlb",
	"net_cls", "net_prio", "perf_event", "rdma", "misc", "systemd"}

// A Tree is the cgroups of one node. Make it with [Open].
type Tree struct {
	root   string // where cgroups are mounted
	parent string // "/proa"
	V2     bool
	on     []string // v1: controllers that are there

	mu   sync.Mutex
	burs map[string]int64 // pod cgroup -> shares, of Burstable pods
}

// Open looks at the cgroups mounted at root (/sys/fs/cgroup) and makes those
// above the pods under parent, which is a path from root or, on v2, of a subtree
// delegated to this process. If they cannot be used the error says what is
// missing and what to do.
func Open(root, parent string) (*Tree, error) {
	t := &Tree{root: root, parent: "/" + strings.Trim(parent, "/"), burs: map[string]int64{}}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		t.V2 = true
	} else {
		for _, c := range controllers {
			if _, err := os.Stat(filepath.Join(root, c, "cgroup.procs")); err == nil {
				t.on = append(t.on, c)
			}
		}
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	for _, dir := range []string{t.pods(), t.class(corev1.PodQOSBurstable), t.class(corev1.PodQOSBestEffort)} {
		if err := t.mkdir(dir); err != nil {
			return nil, fmt.Errorf("cgroup %s cannot be made: %w%s", dir, err, advice(err))
		}
	}
	return t, t.set(t.class(corev1.PodQOSBestEffort), Resources{Shares: 2})
}

func (t *Tree) check() error {
	if t.V2 {
		b, err := os.ReadFile(filepath.Join(t.root, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("cgroup v2 at %s: %w", t.root, err)
		}
		have := strings.Fields(string(b))
		for _, c := range []string{"cpu", "memory", "pids"} {
			if !slices.Contains(have, c) {
				return fmt.Errorf("cgroup v2 at %s has no %s controller (it has: %s): delegate it to this process (systemd: Delegate=yes), or enable it in the kernel (boot with cgroup_enable=%s)",
					t.root, c, strings.Join(have, " "), c)
			}
		}
		return nil
	}
	if len(t.on) == 0 {
		return fmt.Errorf("no cgroups are mounted at %s: mount them (mount -t cgroup2 none %s), or start on a machine or in a container that has them", t.root, t.root)
	}
	for _, c := range []string{"cpu", "memory", "devices"} {
		if !slices.Contains(t.on, c) {
			return fmt.Errorf("cgroup v1 at %s has no %s controller: mount it (mount -t cgroup -o %s none %s/%s)", t.root, c, c, t.root, c)
		}
	}
	return nil
}

func advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return " (run as root, or in a subtree that is delegated to this user)"
	case errors.Is(err, syscall.EROFS):
		return " (cgroups are mounted read-only: in a container, run it privileged)"
	}
	return ""
}

func (t *Tree) pods() string { return filepath.Join(t.parent, "kubepods") }

func (t *Tree) class(q corev1.PodQOSClass) string {
	if q == corev1.PodQOSGuaranteed {
		return t.pods()
	}
	return filepath.Join(t.pods(), strings.ToLower(string(q)))
}

// Pod is the cgroup of a pod, as the runtime wants it named.
func (t *Tree) Pod(q corev1.PodQOSClass, uid string) string {
	return filepath.Join(t.class(q), "pod"+uid)
}

// Create makes a pod's cgroup, or sets the limits of one that is there.
func (t *Tree) Create(path string, r Resources) error {
	if err := t.mkdir(path); err != nil {
		return fmt.Errorf("cgroup %s cannot be made: %w%s", path, err, advice(err))
	}
	if err := t.set(path, r); err != nil {
		return err
	}
	return t.charge(path, r.Shares)
}

// charge keeps the CPU shares of the Burstable class at the sum of its pods'.
func (t *Tree) charge(path string, shares int64) error {
	class := t.class(corev1.PodQOSBurstable)
	if filepath.Dir(path) != class {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if shares == 0 {
		delete(t.burs, path)
	} else {
		t.burs[path] = shares
	}
	sum := int64(2)
	for _, s := range t.burs {
		sum += s
	}
	return t.set(class, Resources{Shares: min(sum, 262144)})
}

// mkdir makes a cgroup and those above it, and on v2 hands the controllers down.
func (t *Tree) mkdir(path string) error {
	if !t.V2 {
		for _, c := range t.on[:t.used()] {
			if err := os.MkdirAll(filepath.Join(t.root, c, path), 0o755); err != nil {
				return err
			}
		}
		return nil
	}
	dir := t.root
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		if err := t.handDown(dir); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return t.handDown(dir)
}

// used is how many of the controllers that are there are set by this package.
func (t *Tree) used() int {
	n := 0
	for n < len(t.on) && slices.Contains([]string{"cpu", "memory", "pids"}, t.on[n]) {
		n++
	}
	return n
}

// handDown enables the controllers for the cgroups below dir. A cgroup that holds
// processes cannot do that: they are moved into a leaf of it first.
func (t *Tree) handDown(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "cgroup.subtree_control")
	down, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	on := strings.Fields(string(down))
	for _, c := range strings.Fields(string(have)) {
		if slices.Contains(on, c) || !slices.Contains([]string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}, c) {
			continue
		}
		err := os.WriteFile(file, []byte("+"+c), 0o644)
		if errors.Is(err, syscall.EBUSY) {
			if err = evacuate(dir); err == nil {
				err = os.WriteFile(file, []byte("+"+c), 0o644)
			}
		}
		if err != nil && slices.Contains([]string{"cpu", "memory", "pids"}, c) {
			return fmt.Errorf("controller %s cannot be enabled below %s: %w", c, dir, err)
		}
	}
	return nil
}

// evacuate moves the processes of a cgroup into a leaf of it.
func evacuate(dir string) error {
	leaf := filepath.Join(dir, "supervisor")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for range 10 { // processes may be born meanwhile
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || len(b) == 0 {
			return err
		}
		for _, pid := range strings.Fields(string(b)) {
			err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0o644)
			if err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, syscall.EINVAL) {
				return err
			}
		}
	}
	return fmt.Errorf("processes in %s cannot be moved: %w", dir, syscall.EBUSY)
}

// set writes the limits of a cgroup.
func (t *Tree) set(path string, r Resources) error {
	type file struct{ name, value string }
	var files []file
	if t.V2 {
		base := filepath.Join(t.root, path)
		if r.Shares > 0 {
			files = append(files, file{filepath.Join(base, "cpu.weight"), strconv.FormatInt(Weight(r.Shares), 10)})
		}
		quota := "max"
		if r.Quota > 0 {
			quota = strconv.FormatInt(r.Quota, 10)
		}
		files = append(files, file{filepath.Join(base, "cpu.max"), fmt.Sprintf("%s %d", quota, period)},
			file{filepath.Join(base, "memory.max"), orMax(r.Memory)}, file{filepath.Join(base, "pids.max"), orMax(r.Pids)})
	} else {
		in := func(c, name string) string { return filepath.Join(t.root, c, path, name) }
		if r.Shares > 0 {
			files = append(files, file{in("cpu", "cpu.shares"), strconv.FormatInt(r.Shares, 10)})
		}
		if r.Quota > 0 {
			files = append(files, file{in("cpu", "cpu.cfs_period_us"), strconv.Itoa(period)},
				file{in("cpu", "cpu.cfs_quota_us"), strconv.FormatInt(r.Quota, 10)})
		} else {
			files = append(files, file{in("cpu", "cpu.cfs_quota_us"), "-1"})
		}
		if r.Memory > 0 {
			files = append(files, file{in("memory", "memory.limit_in_bytes"), strconv.FormatInt(r.Memory, 10)})
		}
		if slices.Contains(t.on, "pids") && r.Pids > 0 {
			files = append(files, file{in("pids", "pids.max"), strconv.FormatInt(r.Pids, 10)})
		}
	}
	for _, f := range files {
		if err := write(f.name, f.value); err != nil {
			return fmt.Errorf("cgroup limit %s=%s: %w", f.name, f.value, err)
		}
	}
	return nil
}

// write sets a file unless it says so already.
func write(name, value string) error {
	if have, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	err := os.WriteFile(name, []byte(value), 0o644)
	if errors.Is(err, fs.ErrNotExist) && (value == "max" || value == "-1" || strings.HasPrefix(value, "max ")) {
		return nil // a kernel without this limit has no limit
	}
	return err
}

func orMax(n int64) string {
	if n <= 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// Weight is the cgroup v2 cpu.weight for cgroup v1 cpu.shares: the quadratic that
// maps 2, 1024 and 262144 to 1, 100 and 10000, which is how runc computes it for
// the containers inside.
func Weight(shares int64) int64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return int64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// Remove removes a pod's cgroup and all below it. What still runs in it is killed.
func (t *Tree) Remove(path string) error {
	if !strings.HasPrefix(path, t.pods()+"/") {
		return fmt.Errorf("cgroup %s is not below %s", path, t.pods())
	}
	if err := t.charge(path, 0); err != nil {
		return err
	}
	dirs := []string{filepath.Join(t.root, path)}
	if !t.V2 {
		dirs = nil
		for _, c := range t.on {
			dirs = append(dirs, filepath.Join(t.root, c, path))
		}
		dirs = append(dirs, filepath.Join(t.root, "unified", path))
	}
	for _, d := range dirs {
		if err := removeTree(d); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", path, err)
		}
	}
	return nil
}

// Sweep removes the cgroups of pods that are not known.
func (t *Tree) Sweep(known func(uid string) bool) error {
	hierarchies := []string{""}
	if !t.V2 {
		hierarchies = append(slices.Clone(t.on), "unified")
	}
	var all []error
	for _, q := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		for _, h := range hierarchies {
			entries, err := os.ReadDir(filepath.Join(t.root, h, t.class(q)))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				all = append(all, err)
			}
			for _, e := range entries {
				uid, ok := strings.CutPrefix(e.Name(), "pod")
				if ok && e.IsDir() && !known(uid) {
					all = append(all, t.Remove(t.Pod(q, uid)))
				}
			}
		}
	}
	return errors.Join(all...)
}

// RemoveAll removes everything under the parent, for a node that is cleaned up.
func (t *Tree) RemoveAll() error {
	dirs := []string{filepath.Join(t.root, t.parent)}
	for _, c := range append(slices.Clone(t.on), "unified") {
		dirs = append(dirs, filepath.Join(t.root, c, t.parent))
	}
	var first error
	for _, d := range dirs {
		if err := removeTree(d); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// removeTree removes a cgroup with all below it, the deepest first.
func removeTree(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(all)
	for _, d := range all {
		if err := rmdir(d); err != nil {
			return err
		}
	}
	return nil
}

// rmdir removes one cgroup. Processes that are left in it are killed, and their
// ends awaited; they may have borne others meanwhile, so this is done a few times.
func rmdir(dir string) error {
	var err error
	for range 10 {
		if err = syscall.Rmdir(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			break
		}
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
				killed(pid)
			}
		}
	}
	return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
}

// killed kills a process and waits until it has ended, a second at most.
func killed(pid int) {
	p, err := host.Find(pid)
	if err != nil {
		return // it has ended
	}
	defer p.Close()
	if p.Signal(syscall.SIGKILL) == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Wait(ctx)
	}
}
