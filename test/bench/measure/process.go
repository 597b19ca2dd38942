package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"proa/internal/host"

	"golang.org/x/sys/unix"
)

// A Process is a program that a benchmark has started.
type Process struct {
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}
	err   error
}

// AnyCore is a program that may run on every core.
const AnyCore = -1

// Start starts a program on one core, with its output in a file.
func Start(core int, log string, name string, args ...string) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: exec.Command(name, args...), log: f, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if err := onCore(core, p.cmd.Start); err != nil {
		f.Close()
		return nil, fmt.Errorf("start %s: %w", filepath.Base(name), err)
	}
	gone := clearAway(&left.processes, p)
	go func() {
		p.err = p.cmd.Wait()
		gone()
		f.Close()
		close(p.ended)
	}()
	return p, nil
}

// onCore calls start on a thread that is bound to a core, which what it starts
// inherits.
func onCore(core int, start func() error) error {
	if core == AnyCore {
		return start()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		var set unix.CPUSet
		set.Set(core)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			result <- err
			return
		}
		result <- start()
	}()
	return <-result
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Stop asks the process to end, and makes it after ten seconds.
func (p *Process) Stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// Await tries until it succeeds, the process has ended, or a minute is over.
func (p *Process) Await(what string, every time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", what, err, host.LastLines(p.log.Name(), 8))
		case <-p.ended:
			return fmt.Errorf("%s ended: %w\n%s", what, errors.Join(p.err, err), host.LastLines(p.log.Name(), 8))
		}
	}
}

// PinSelf binds this program to a core, so that it takes no time from what it
// measures. On a machine with one core it does nothing.
func PinSelf(core int) error {
	var set unix.CPUSet
	set.Set(core)
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("bind this program to core %d: %w", core, err)
		}
	}
	runtime.GOMAXPROCS(1)
	return nil
}

// Proa is the program that is measured.
func Proa() (string, error) {
	file := os.Getenv("PROA_TEST_PROA")
	if file == "" {
		file = filepath.Join("build", "proa")
	}
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("%w: run 'make build' first", err)
	}
	return filepath.Abs(file)
}

// CPU is the processor time that a process has used.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// PSS is the memory of a process in bytes, shared pages divided by their users.
func PSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	return kilobytes(b, "Pss:")
}

// peak is the most memory that a process has had in RAM at once, in bytes.
func peak(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return kilobytes(b, "VmHWM:")
}

// kilobytes reads a line of a file of proc(5), in bytes.
func kilobytes(b []byte, name string) (int64, error) {
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("the kernel tells no %s of a process", name)
}
