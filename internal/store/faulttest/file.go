package faulttest

import (
	"io"
	"path"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A file is an open file of a Disk. One goroutine at a time reads or writes at
// its position; ReadAt and WriteAt are for all.
type file struct {
	d    *Disk
	n    *node
	name string
	pos  int64
}

var _ vfs.File = (*file)(nil)

func (f *file) Close() error { return nil }

func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.d.before(Read, f.name); err != nil {
		return 0, err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.d.before(Write, f.name); err != nil {
		return 0, err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.n.write(p, off)
	return len(p), nil
}

func (n *node) write(p []byte, off int64) {
	end := off + int64(len(p))
	if off < int64(len(n.synced)) && n.shared {
		n.data, n.shared = slices.Clone(n.data), false
	}
	if grow := end - int64(len(n.data)); grow > 0 {
		n.data = append(n.data, make([]byte, grow)...)
	}
	copy(n.data[off:], p)
	if n.dirty == nil {
		n.dirty = map[int64]bool{}
	}
	for s := off / sector; s*sector < end; s++ {
		n.dirty[s] = true
	}
	n.lengths = append(n.lengths, len(n.data))
}

func (f *file) Sync() error {
	f.d.mu.Lock()
	dir := f.n.dir
	f.d.mu.Unlock()
	kind := Sync
	if dir {
		kind = SyncDir
	}
	if err := f.d.before(kind, f.name); err != nil {
		return err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if !dir {
		f.n.synced, f.n.shared = f.n.data[:len(f.n.data):len(f.n.data)], true
		f.n.dirty, f.n.lengths = nil, nil
		return nil
	}
	// A journal brings to the disk what came before, too, but a program must not
	// count on it: only the folder's own names.
	var left []change
	for _, c := range f.d.pending {
		if c.in(path.Clean(f.name)) {
			c.apply(f.d.durable)
		} else {
			left = append(left, c)
		}
	}
	f.d.pending = left
	return nil
}

func (f *file) SyncData() error { return f.Sync() }

// SyncTo promises nothing, as the real one may.
func (f *file) SyncTo(int64) (bool, error) { return false, nil }

func (f *file) Preallocate(int64, int64) error { return nil }
func (f *file) Prefetch(int64, int64) error    { return nil }
func (f *file) Fd() uintptr                    { return vfs.InvalidFd }

func (f *file) Stat() (vfs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return info{name: path.Base(f.name), size: int64(len(f.n.data)), dir: f.n.dir}, nil
}
