package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"proa/internal/host"
	"proa/internal/system"
)

// Between 'proa up -d' and its child: the child writes progress lines to this
// descriptor, then readyLine, and closes it.
const (
	pipeFD    = 3
	pipeEnv   = "PROA_PROGRESS_FD"
	readyLine = "ready"
)

// detach starts the cluster in a session of its own, shows its progress and
// returns when it is ready.
func detach(ctx context.Context, c *Call, places system.Places) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(places.Log()), 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(places.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"up"}, childArgs(c)...)...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", pipeEnv, pipeFD))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.Close()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	ready := follow(r, c.Out)
	if ready && stop() {
		fmt.Fprintf(c.Out, "\nRunning in the background, process %d, log in %s\n", cmd.Process.Pid, places.Log())
		return cmd.Process.Release()
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the cluster did not start (%v):\n%s\nthe whole log is in %s", err, host.LastLines(places.Log(), 5), places.Log())
}

// follow prints progress lines until the child is ready or its end is closed.
func follow(r io.Reader, out io.Writer) (ready bool) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if lines.Text() == readyLine {
			return true
		}
		fmt.Fprintln(out, lines.Text())
	}
	return false
}

// childArgs are the flags of this call, without -d.
func childArgs(c *Call) (args []string) {
	for _, x := range settingList {
		if strings.HasPrefix(c.Settings.from[x.Name], "flag ") {
			args = append(args, "--"+x.Name+"="+c.Settings.values[x.Name])
		}
	}
	if c.Settings.file != "" {
		args = append(args, "--config="+c.Settings.file)
	}
	if c.nodes > 0 {
		args = append(args, fmt.Sprintf("--nodes=%d", c.nodes))
	}
	if c.pretend {
		args = append(args, "--pretend")
	}
	if c.script != "" {
		args = append(args, "--pretend-script="+c.script)
	}
	return args
}

// parentPipe is where 'proa up -d' reads progress, or nil.
func parentPipe() *os.File {
	if os.Getenv(pipeEnv) == "" {
		return nil
	}
	os.Unsetenv(pipeEnv)
	syscall.CloseOnExec(pipeFD)
	return os.NewFile(pipeFD, "progress")
}

// systemdReady tells systemd that the service is up (sd_notify(3)).
func systemdReady() {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return // systemd will say that the service did not become ready
	}
	defer conn.Close()
	io.WriteString(conn, "READY=1")
}
