package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
)

// lateStore is a runtime that at first does not know where its images are.
type lateStore struct {
	cri.Images
	asked int
}

func (s *lateStore) ImageFS(context.Context) ([]*v1.FilesystemUsage, error) {
	if s.asked++; s.asked == 1 {
		return nil, errors.New("not yet")
	}
	return []*v1.FilesystemUsage{{FsId: &v1.FilesystemIdentifier{Mountpoint: "/images"}}}, nil
}

func TestGauge(t *testing.T) {
	proc := t.TempDir()
	for name, text := range map[string]string{
		"meminfo":                "MemTotal:       1000 kB\nMemFree:         10 kB\nMemAvailable:    300 kB\n",
		"loadavg":                "0.20 0.18 0.12 1/80 11206\n",
		"sys/kernel/pid_max":     "4000\n",
		"sys/kernel/threads-max": "100\n",
	} {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	store := &lateStore{}
	g := &gauge{dir: "/pods", images: store, proc: proc, stat: func(path string, to *unix.Statfs_t) error {
		switch path {
		case "/pods":
			*to = unix.Statfs_t{Bsize: 10, Blocks: 50, Bfree: 9, Bavail: 8, Files: 7, Ffree: 6}
		case "/images":
			*to = unix.Statfs_t{Bsize: 1, Blocks: 5, Bavail: 4, Files: 3, Ffree: 2}
		default:
			return unix.ENOENT
		}
		return nil
	}}
	want := Signals{Memory: Left{300 << 10, 1000 << 10}, Disk: Left{80, 500}, Inodes: Left{6, 7}, PIDs: Left{20, 100}}
	if got := g.read(t.Context()); got != want {
		t.Errorf("before the runtime knows: %+v, want %+v", got, want)
	}
	want.Images, want.ImageInodes = Left{4, 5}, Left{2, 3}
	for range 2 {
		if got := g.read(t.Context()); got != want {
			t.Errorf("read: %+v, want %+v", got, want)
		}
	}
	if store.asked != 2 {
		t.Errorf("the runtime was asked %d times", store.asked)
	}
	g = &gauge{dir: "/none", proc: "/none", stat: g.stat}
	if got := g.read(t.Context()); got != (Signals{}) {
		t.Errorf("of nothing: %+v", got)
	}
	if got := Gauge(proc, nil)(t.Context()); got.Memory.Total == 0 || got.Disk.Total == 0 || got.PIDs.Total == 0 || got.Memory.Free > got.Memory.Total {
		t.Errorf("this machine: %+v", got)
	}
}
