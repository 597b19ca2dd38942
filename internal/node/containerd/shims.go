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
	shims, err := Shims(socket)
	errs := []error{err}
	for pid := range shims {
		n++
		if err := killShim(ctx, pid, socket); err != nil {
			errs = append(errs, fmt.Errorf("shim %d: %w", pid, err))
		}
	}
	return n, errors.Join(errs...)
}

// Shims returns the ids of the sandboxes that shims were started for by the
// containerd at socket, by the shims' process ids.
func Shims(socket string) (map[int]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			if id, ok := shimOf(pid, socket); ok {
				found[pid] = id
			}
		}
	}
	return found, nil
}

// EndStray ends a shim that containerd has forgotten, with what it has started:
// nobody can ask containerd to.
func EndStray(ctx context.Context, socket string, pid int) error {
	children, err := host.Children(pid)
	if err != nil {
		return err
	}
	for _, c := range children {
		p, err := host.Find(c)
		if errors.Is(err, os.ErrProcessDone) {
			continue
		}
		if err != nil {
			return err
		}
		err = p.Signal(syscall.SIGKILL)
		p.Close()
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	return killShim(ctx, pid, socket)
}

func isShim(pid int, socket string) bool {
	_, ok := shimOf(pid, socket)
	return ok
}

// shimOf returns the id that a process is the shim of.
func shimOf(pid int, socket string) (id string, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "", false
	}
	args := bytes.Split(b, []byte{0})
	if filepath.Base(string(args[0])) != "containerd-shim-runc-v2" {
		return "", false
	}
	for i := 1; i+1 < len(args); i++ {
		switch next := string(args[i+1]); string(args[i]) {
		case "-address":
			ok = ok || next == socket
		case "-id":
			id = next
		}
	}
	return id, ok
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
