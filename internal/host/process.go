// Package host is what several parts ask of the operating system: to end a
// process that is no child and see it end, to replace a file whole, to show
// the end of a log, and memory for a heap that grows.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Process is a running process, a child or not (pidfd_open(2)). It stays the
// one that was found, even after its ID is another's.
type Process struct {
	pid int
	f   *os.File
}

// Find returns the process with an ID. The error is os.ErrProcessDone if there
// is none. The caller closes it.
func Find(pid int) (*Process, error) {
	// Non-blocking: the runtime's poller waits for it, and no thread.
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, os.ErrProcessDone
	}
	if err != nil {
		return nil, fmt.Errorf("find process %d: %w", pid, err)
	}
	return &Process{pid, os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Close lets go of the process, which runs on.
func (p *Process) Close() error { return p.f.Close() }

// Signal sends a signal. One to a process that has ended is no error.
func (p *Process) Signal(s syscall.Signal) error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	if err = errors.Join(err, sent); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", s, p.pid, err)
	}
	return nil
}

// Wait returns nil when the process has ended, or the error of ctx.
func (p *Process) Wait(ctx context.Context) error {
	if err := p.f.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Await returns nil when no process has the ID any more, or the error of ctx.
func Await(ctx context.Context, pid int) error {
	p, err := Find(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Wait(ctx)
}

// Children returns the ids of the processes that a process has started and that
// have not ended, or that the system has made its own (proc(5)).
func Children(pid int) (out []int, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may hold anything; the state and the parent follow it.
		end := bytes.LastIndexByte(b, ')')
		f := bytes.Fields(b[end+1:])
		if end < 0 || len(f) < 2 || string(f[1]) != strconv.Itoa(pid) || string(f[0]) == "Z" {
			continue
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		out = append(out, child)
	}
	return out, nil
}
