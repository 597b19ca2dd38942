package main

import (
	"bufio"
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A system is what the guest is made of.
type system struct {
	kernel  string
	modules string // folder
	busybox string
	proa    string
	image   string // archive
}

// packages of Debian that the guest comes from: the first depends on the kernel.
const kernelPackage, busyboxPackage = "linux-image-cloud-amd64", "busybox-static"

// fetch downloads the packages once, and unpacks them; nothing is installed.
func fetch(ctx context.Context, dir string) (s system, err error) {
	s.proa, s.image = filepath.Join("build", "proa"), filepath.Join("build", "images", "proa-test-1.tar")
	for _, file := range []string{s.proa, s.image} {
		if _, err := os.Stat(file); err != nil {
			return s, fmt.Errorf("%w: run 'make build' first", err)
		}
	}
	root := filepath.Join(dir, "root")
	done := filepath.Join(dir, "complete")
	if _, err := os.Stat(done); errors.Is(err, fs.ErrNotExist) {
		if err := download(ctx, dir, root); err != nil {
			return s, err
		}
		if err := os.WriteFile(done, nil, 0o644); err != nil {
			return s, err
		}
	}
	if s.kernel, err = only(filepath.Join(root, "boot", "vmlinuz-*")); err != nil {
		return s, err
	}
	if s.modules, err = only(filepath.Join(root, "lib", "modules", "*")); err != nil {
		return s, err
	}
	s.busybox, err = only(filepath.Join(root, "bin", "busybox"))
	return s, err
}

func only(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("%s: not there (%v): remove build/vm to fetch it again", pattern, err)
	}
	return found[0], nil
}

func download(ctx context.Context, dir, root string) error {
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the guest is made of Debian packages and needs %s", tool)
		}
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	kernel, err := kernelImage(ctx)
	if err != nil {
		if err := command(ctx, "", "apt-get", "-qq", "update"); err != nil {
			return err
		}
		if kernel, err = kernelImage(ctx); err != nil {
			return err
		}
	}
	fmt.Println("test-vm: fetching", kernel)
	if err := command(ctx, dir, "apt-get", "-o", "APT::Sandbox::User=root", "download", kernel, busyboxPackage); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := command(ctx, "", "dpkg-deb", "-x", deb, root); err != nil {
			return err
		}
	}
	return nil
}

// kernelImage is the package that the newest kernel is in.
func kernelImage(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", kernelPackage).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache does not know %s: the guest's kernel is Debian's", kernelPackage)
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s depends on no kernel", kernelPackage)
}

// wanted is the modules that a node needs, and the guest's devices.
var wanted = []string{
	"virtio_pci", "virtio_net", "overlay", "veth", "bridge", "br_netfilter", "vxlan", "nf_conntrack", "nf_nat", "nf_tables",
	"nft_chain_nat", "nft_nat", "nft_masq", "nft_redir", "nft_ct", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_numgen", "nft_hash",
	"nft_limit", "nft_log", "nft_reject", "nft_reject_inet", "nft_reject_ipv4", "nft_objref",
}

// inOrder is the files of the wanted modules and of what they depend on, each
// after what it needs.
func inOrder(modules string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(modules, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []string
	var add func(name string) error
	add = func(name string) error {
		path, ok := files[strings.ReplaceAll(name, "-", "_")]
		if !ok || slices.Contains(out, path) {
			return nil // built in
		}
		needs, err := depends(path)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		out = append(out, path)
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// depends reads what a module says that it needs.
func depends(module string) ([]string, error) {
	f, err := elf.Open(module)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", module, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s tells nothing of itself", module)
	}
	b, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(b), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

//go:embed init.sh
var initScript string

//go:embed guest.sh
var guestScript string

// pack writes the guest's first file system.
func pack(name string, s system) error {
	modules, err := inOrder(s.modules)
	if err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &archive{w: bufio.NewWriterSize(f, 1<<20)}
	for _, dir := range []string{"bin", "modules", "proc", "sys", "dev", "root"} {
		w.entry(dir, 0o040755, nil)
	}
	w.entry("init", 0o100755, []byte(initScript))
	w.entry("bin/guest", 0o100755, []byte(guestScript))
	w.file("bin/busybox", s.busybox)
	w.file("bin/proa", s.proa)
	w.file("image.tar", s.image)
	var load strings.Builder
	for _, m := range modules {
		w.file("modules/"+filepath.Base(m), m)
		load.WriteString(filepath.Base(m) + "\n")
	}
	w.entry("modules/order", 0o100644, []byte(load.String()))
	return w.close()
}

// An archive is a cpio archive in the new ASCII format, which the kernel reads
// (Documentation/driver-api/early-userspace/buffer-format).
type archive struct {
	w   *bufio.Writer
	n   int
	err error
}

func (a *archive) file(name, from string) {
	b, err := os.ReadFile(from)
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	a.entry(name, 0o100755, b)
}

func (a *archive) entry(name string, mode int, body []byte) {
	if a.err != nil {
		return
	}
	a.n++
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.n, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0, name)
	a.write([]byte(head))
	a.write(body)
}

// write writes and fills up to a multiple of four bytes, as each part wants it.
func (a *archive) write(b []byte) {
	if _, err := a.w.Write(b); err != nil {
		a.err = errors.Join(a.err, err)
	}
	if _, err := a.w.Write(make([]byte, (4-len(b)%4)%4)); err != nil {
		a.err = errors.Join(a.err, err)
	}
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	return errors.Join(a.err, a.w.Flush())
}
