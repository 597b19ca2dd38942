package host_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"proa/internal/host"
)

func TestProcess(t *testing.T) {
	cmd := exec.Command("cat") // runs until its input ends
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := host.Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Wait for a process that runs: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Wait(t.Context()) }()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatalf("Wait after SIGTERM: %v", err)
	}
	_ = cmd.Wait() // reaped: from here on there is no such process
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("a signal to a process that has ended: %v", err)
	}
	if _, err := host.Find(cmd.Process.Pid); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Find after its end: %v", err)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "key")
	for _, text := range []string{"old, and longer", "new"} {
		if err := host.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(name)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("mode %v, %v", st.Mode(), err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != text {
			t.Fatalf("read %q, %v", b, err)
		}
	}
	if err := host.WriteFile(filepath.Join(dir, "none", "key"), nil, 0o600); err == nil {
		t.Error("a file in a folder that is not there was written")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLastLines(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	if got := host.LastLines(name, 2); !strings.Contains(got, "no such file") {
		t.Errorf("of no file: %q", got)
	}
	for _, tt := range []struct{ text, want string }{
		{"", ""}, {"a\n", "a"}, {"a\nb\nc\n", "b\nc"}, {"a\nb\nc", "b\nc"}, {strings.Repeat("x\n", 1<<20) + "y\nz\n", "y\nz"},
	} {
		if err := os.WriteFile(name, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := host.LastLines(name, 2); got != tt.want {
			t.Errorf("of %.20q: %.40q, want %q", tt.text, got, tt.want)
		}
	}
}
