package node

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"proa/internal/host"
	"proa/internal/node/cri"
)

// Gauge returns a function that measures this machine: its memory and threads by
// /proc, the file system of dir, and the one that the runtime's images are on. A
// call costs a few system calls. What cannot be read is not known.
func Gauge(dir string, images cri.Images) func(context.Context) Signals {
	g := &gauge{dir: dir, images: images, proc: "/proc", stat: unix.Statfs}
	return g.read
}

// A gauge measures a machine.
type gauge struct {
	dir    string
	images cri.Images
	proc   string
	stat   func(path string, to *unix.Statfs_t) error

	mu    sync.Mutex
	store string // where the images are, once the runtime has said so
}

func (g *gauge) read(ctx context.Context) (s Signals) {
	s.Disk, s.Inodes = g.fileSystem(g.dir)
	if at := g.imageDir(ctx); at != "" {
		s.Images, s.ImageInodes = g.fileSystem(at)
	}
	s.Memory = g.memory()
	s.PIDs = g.threads()
	return s
}

func (g *gauge) fileSystem(path string) (bytes, inodes Left) {
	var st unix.Statfs_t
	if g.stat(path, &st) != nil {
		return Left{}, Left{}
	}
	size := uint64(st.Bsize)
	return Left{Free: st.Bavail * size, Total: st.Blocks * size}, Left{Free: st.Ffree, Total: st.Files}
}

// imageDir asks the runtime until it has told where its images are.
func (g *gauge) imageDir(ctx context.Context) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.store == "" && g.images != nil {
		if list, err := g.images.ImageFS(ctx); err == nil && len(list) > 0 {
			g.store = list[0].GetFsId().GetMountpoint()
		}
	}
	return g.store
}

// memory: MemAvailable is what can be had without swapping.
func (g *gauge) memory() Left {
	m, err := host.Memory(g.proc, "MemTotal", "MemAvailable")
	if err != nil {
		return Left{}
	}
	return Left{Total: m[0], Free: m[1]}
}

// threads compares loadavg's count with the lower of the kernel's two limits.
func (g *gauge) threads() Left {
	b, err := os.ReadFile(filepath.Join(g.proc, "loadavg"))
	if err != nil {
		return Left{}
	}
	f := strings.Fields(string(b)) // 0.20 0.18 0.12 1/80 11206
	if len(f) < 4 {
		return Left{}
	}
	_, all, _ := strings.Cut(f[3], "/")
	run, err := strconv.ParseUint(all, 10, 64)
	if err != nil {
		return Left{}
	}
	most := uint64(0)
	for _, name := range []string{"pid_max", "threads-max"} {
		b, err := os.ReadFile(filepath.Join(g.proc, "sys/kernel", name))
		if err != nil {
			continue
		}
		if v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil && (most == 0 || v < most) {
			most = v
		}
	}
	return Left{Free: most - min(run, most), Total: most}
}
