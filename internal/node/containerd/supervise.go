package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"proa/internal/host"
	"proa/internal/node/cri"
)

// A Supervisor keeps one containerd running. Make it with [Start].
type Supervisor struct {
	c       Config
	log     *slog.Logger
	cancel  context.CancelFunc
	done    chan struct{}
	mu      sync.Mutex
	pid     int
	adopted bool
	stop    bool        // it is to end
	early   func(error) // told of deaths before the first answer
	deaths  int
}

// Pauses between starts after deaths.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
	calm       = 30 * time.Second // after so long a run the pauses begin anew
	mostDeaths = 3                // before the first answer
)

// Start writes the configuration and starts containerd, or takes up the one that
// an earlier process started with the same configuration. It returns when CRI
// calls are answered. When containerd dies it is started again, until Stop or
// Leave. Containers live on through all of that.
func Start(ctx context.Context, c Config, log *slog.Logger) (*Supervisor, error) {
	if err := c.Fill(); err != nil {
		return nil, err
	}
	for _, d := range []string{c.Dir, c.State, filepath.Join(c.State, "s"), filepath.Dir(c.Socket), filepath.Dir(c.Log)} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if _, err := os.Stat(filepath.Join(c.Bin, name)); err != nil {
			return nil, fmt.Errorf("the container runtime's program %s is missing: %w", name, err)
		}
	}
	s := &Supervisor{c: c, log: log, done: make(chan struct{})}
	same, err := s.configure()
	if err != nil {
		return nil, err
	}
	if pid := s.running(); pid != 0 {
		if same {
			s.pid, s.adopted = pid, true
			log.Info("containerd runs already and is taken up", "pid", pid)
		} else {
			log.Info("containerd is started again with a new configuration", "pid", pid)
			if err := end(ctx, pid); err != nil {
				return nil, err
			}
		}
	}
	if s.pid == 0 {
		if err := s.launch(); err != nil {
			return nil, err
		}
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	up, dead := context.WithCancelCause(ctx)
	s.early = dead
	go s.keep(run)
	err = s.wait(up)
	s.mu.Lock()
	s.early = nil
	s.mu.Unlock()
	dead(nil)
	if err != nil {
		_ = s.Stop(context.WithoutCancel(ctx))
		return nil, err
	}
	return s, nil
}

func (s *Supervisor) configPath() string { return filepath.Join(s.c.Dir, "config.toml") }
func (s *Supervisor) pidPath() string    { return filepath.Join(s.c.State, "containerd.pid") }

// configure writes the configuration, and says whether it was there already.
func (s *Supervisor) configure() (same bool, err error) {
	text := s.c.TOML()
	if have, err := os.ReadFile(s.configPath()); err == nil && bytes.Equal(have, text) {
		return true, nil
	}
	return false, host.WriteFile(s.configPath(), text, 0o600)
}

// running finds the containerd that an earlier process started; 0 if none runs.
// The file with its process ID may be missing: that process may have been killed
// before it wrote it. A recycled process ID is told apart by the command line.
func (s *Supervisor) running() int {
	if b, err := os.ReadFile(s.pidPath()); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && s.isOurs(pid) {
			return pid
		}
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, d := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil && s.isOurs(pid) {
			return pid
		}
	}
	return 0
}

func (s *Supervisor) isOurs(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(args, []byte("\x00"+s.configPath()+"\x00")) {
		return false
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "containerd"
}

// launch starts containerd in a session of its own, so that no signal to this
// process's group or terminal reaches it.
func (s *Supervisor) launch() error {
	if st, err := os.Stat(s.c.Log); err == nil && st.Size() > 10<<20 {
		_ = os.Rename(s.c.Log, s.c.Log+".1")
	}
	out, err := os.OpenFile(s.c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(s.c.Bin, "containerd"), "--config", s.configPath())
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "PATH="+s.c.Bin+":"+os.Getenv("PATH"), "TMPDIR="+os.TempDir())
	for i := 0; i < len(cmd.Env); i++ { // a service manager's greetings are not for it
		if strings.HasPrefix(cmd.Env[i], "NOTIFY_SOCKET=") || strings.HasPrefix(cmd.Env[i], "LISTEN_") {
			cmd.Env = append(cmd.Env[:i], cmd.Env[i+1:]...)
			i--
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	pid := cmd.Process.Pid
	go func() { _ = cmd.Wait() }()
	s.mu.Lock()
	s.pid = pid
	s.mu.Unlock()
	tmp := s.pidPath() + ".tmp"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.pidPath()); err != nil {
		return err
	}
	s.log.Info("containerd started", "pid", pid, "log", s.c.Log)
	return nil
}

// keep starts containerd again whenever it dies.
func (s *Supervisor) keep(ctx context.Context) {
	defer close(s.done)
	pause := firstPause
	for {
		began := time.Now()
		if err := host.Await(ctx, s.PID()); ctx.Err() != nil {
			return
		} else if err != nil {
			s.log.Warn("cannot watch containerd", "err", err)
		}
		s.mu.Lock()
		stop := s.stop
		if s.deaths++; s.deaths == mostDeaths && s.early != nil {
			s.early(fmt.Errorf("it ended %d times", s.deaths))
		}
		s.mu.Unlock()
		if stop {
			return
		}
		if time.Since(began) > calm {
			pause = firstPause
		}
		s.log.Warn("containerd has ended and is started again", "pid", s.PID(), "pause", pause, "log", s.c.Log, "last", host.LastLines(s.c.Log, 5))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
		for {
			err := s.launch()
			if err == nil {
				break
			}
			s.log.Error("containerd cannot be started", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(maxPause):
			}
		}
	}
}

// wait returns when CRI calls are answered, or with the end of the log if
// containerd does not come up.
func (s *Supervisor) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rt, err := cri.Dial(s.c.Socket)
	if err != nil {
		return err
	}
	defer rt.Close()
	if err := rt.Wait(ctx); err != nil {
		return fmt.Errorf("containerd does not answer: %w; the end of %s:\n%s", err, s.c.Log, host.LastLines(s.c.Log, 5))
	}
	return nil
}

// PID is containerd's process ID.
func (s *Supervisor) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Adopted says whether the containerd was there before this process.
func (s *Supervisor) Adopted() bool { return s.adopted }

// Leave lets containerd run on without supervision.
func (s *Supervisor) Leave() {
	s.cancel()
	<-s.done
}

// Stop ends containerd, and leaves the containers running.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stop = true
	s.mu.Unlock()
	err := end(ctx, s.PID())
	s.cancel()
	<-s.done
	if err == nil {
		_ = os.Remove(s.pidPath())
	}
	return err
}

// end asks a process to end and waits until it has, at most 15 s; then it is killed.
func end(ctx context.Context, pid int) error {
	p, err := host.Find(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	soft, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := p.Wait(soft); err == nil {
		return nil
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return p.Wait(hard)
}
