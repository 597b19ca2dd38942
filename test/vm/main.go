// Command vm boots a QEMU guest with Debian's kernel and cgroup v2, as users
// have it, starts proa in it, and runs a pod with limits there. It is slow
// without KVM, and apart from `make test` for that reason.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

func main() {
	limit := flag.Duration("limit", 10*time.Minute, "time the guest may take")
	dir := flag.String("dir", "build/vm", "folder for packages and the guest's files")
	accel := flag.String("accel", "tcg", "what runs the guest's code: tcg works everywhere, kvm is faster where it works")
	quiet := flag.Bool("quiet", false, "do not show what the guest prints")
	flag.Parse()
	start := time.Now()
	if err := run(*dir, *accel, *limit, *quiet); err != nil {
		fmt.Fprintln(os.Stderr, "test-vm:", err)
		os.Exit(1)
	}
	fmt.Printf("test-vm: proa runs a pod with limits on cgroup v2 (%.0f s)\n", time.Since(start).Seconds())
}

func run(dir, accel string, limit time.Duration, quiet bool) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the guest is made for amd64, this is %s", runtime.GOARCH)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	qemu, err := findQEMU(ctx)
	if err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	system, err := fetch(ctx, dir)
	if err != nil {
		return err
	}
	initrd := filepath.Join(dir, "initrd")
	if err := pack(initrd, system); err != nil {
		return err
	}
	fmt.Printf("test-vm: booting %s\n", filepath.Base(system.kernel))
	return boot(ctx, qemu, accel, system.kernel, initrd, quiet)
}

// findQEMU finds the machine, or installs it where apt is there and this is root.
func findQEMU(ctx context.Context) (string, error) {
	const program, name = "qemu-system-x86_64", "qemu-system-x86"
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Getuid() != 0 {
		return "", fmt.Errorf("needs %s: as root, apt-get install %s", program, name)
	}
	fmt.Println("test-vm: installing", name)
	install := func() error {
		return command(ctx, "", "apt-get", "-qq", "install", "-y", "--no-install-recommends", name)
	}
	if err := install(); err != nil {
		if err := errors.Join(command(ctx, "", "apt-get", "-qq", "update"), install()); err != nil {
			return "", err
		}
	}
	return exec.LookPath(program)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// What the guest's script prints at its end, alone on a line.
const pass, fail = "GUEST-PASS", "GUEST-FAIL"

// boot runs the guest until it has said how it went.
func boot(ctx context.Context, qemu, accel, kernel, initrd string, quiet bool) error {
	cmd := exec.CommandContext(ctx, qemu,
		"-accel", accel, "-cpu", "max", "-smp", "2", "-m", "3072", "-no-reboot", "-nodefaults", "-display", "none", "-serial", "stdio",
		"-nic", "user,restrict=on,model=virtio-net-pci",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 panic=-1 quiet random.trust_cpu=on")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	verdict := listen(out, quiet)
	err = cmd.Wait()
	switch {
	case verdict == pass:
		return nil
	case ctx.Err() != nil:
		return errors.New("the guest took too long")
	case verdict != "":
		return errors.New("the guest's test failed: see above")
	}
	return fmt.Errorf("the guest ended without a word: %v", err)
}

func listen(out io.Reader, quiet bool) (verdict string) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		if !quiet {
			fmt.Println("  |", line)
		}
		if line == pass || line == fail {
			verdict = line
		}
	}
	return verdict
}
