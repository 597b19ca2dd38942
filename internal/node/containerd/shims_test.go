package containerd

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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
