package containerd

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"proa/internal/host"
)

func TestEndShims(t *testing.T) {
	dir := t.TempDir()
	run := func(name, socket string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-c", "read line", "x", "-namespace", "k8s.io", "-address", socket)
		cmd.Args[0] = filepath.Join(dir, name)
		if _, err := cmd.StdinPipe(); err != nil { // nothing comes, and so it waits
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	mine := run("containerd-shim-runc-v2", dir+"/a.sock")
	run("containerd-shim-runc-v2", dir+"/a.sock2")
	run("other", dir+"/a.sock")
	done := make(chan *os.ProcessState, 1)
	go func() { _ = mine.Wait(); done <- mine.ProcessState }()
	if n, err := EndShims(t.Context(), dir+"/a.sock"); n != 1 || err != nil {
		t.Errorf("ended %d, %v; want 1", n, err)
	}
	if s := <-done; s.Success() {
		t.Errorf("the shim ended by itself: %v", s)
	}
	if n, err := EndShims(t.Context(), dir+"/a.sock"); n != 0 || err != nil {
		t.Errorf("ended %d, %v; want none left", n, err)
	}
}

// A shim is ended with what it has started, and others are left alone.
func TestEndStray(t *testing.T) {
	dir := t.TempDir()
	start := func(id string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-c", "sleep 1000 & echo $!; wait", "x", "-namespace", "k8s.io", "-id", id, "-address", dir+"/a.sock")
		cmd.Args[0] = filepath.Join(dir, "containerd-shim-runc-v2")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = EndStray(t.Context(), dir+"/a.sock", cmd.Process.Pid); _ = cmd.Wait() })
		if _, err := out.Read(make([]byte, 1)); err != nil { // then the child is there
			t.Fatal(err)
		}
		return cmd
	}
	stray, other := start("one"), start("two")
	shims, err := Shims(dir + "/a.sock")
	for end := time.Now().Add(30 * time.Second); len(shims) > 2 && time.Now().Before(end); { // a child is its parent's image until it runs its own
		shims, err = Shims(dir + "/a.sock")
	}
	if err != nil || len(shims) != 2 || shims[stray.Process.Pid] != "one" || shims[other.Process.Pid] != "two" {
		t.Fatalf("%v, %v", shims, err)
	}
	children, err := host.Children(stray.Process.Pid)
	if err != nil || len(children) != 1 {
		t.Fatalf("children %v, %v", children, err)
	}
	go func() { _ = stray.Wait() }()
	if err := EndStray(t.Context(), dir+"/a.sock", stray.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := host.Await(t.Context(), children[0]); err != nil {
		t.Errorf("what it had started runs on: %v", err)
	}
	if shims, err = Shims(dir + "/a.sock"); err != nil || len(shims) != 1 {
		t.Errorf("left are %v, %v", shims, err)
	}
}
