package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"proa/internal/host"
)

// EndShims ends the shims that were started for the containerd at socket, and
// says how many there were. It is for when all containers have been stopped and
// containerd too: a shim that is left then is one that containerd forgot, because
// its caller or itself was killed while it made a pod.
func EndShims(ctx context.Context, socket string) (n int, err error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || !isShim(pid, socket) {
			continue
		}
		n++
		if err := killShim(ctx, pid, socket); err != nil {
			errs = append(errs, fmt.Errorf("shim %d: %w", pid, err))
		}
	}
	return n, errors.Join(errs...)
}

func isShim(pid int, socket string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := bytes.Split(b, []byte{0})
	if filepath.Base(string(args[0])) != "containerd-shim-runc-v2" {
		return false
	}
	for i, a := range args[1:] {
		if string(a) == "-address" && i+2 < len(args) && string(args[i+2]) == socket {
			return true
		}
	}
	return false
}

// killShim ends a shim at once: it does not heed SIGTERM.
func killShim(ctx context.Context, pid int, socket string) error {
	p, err := host.Find(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if !isShim(pid, socket) {
		return nil // the number is another process's by now
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return p.Wait(ctx)
}
