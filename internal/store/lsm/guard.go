package lsm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A guard stands between Pebble and the disk. The first write, sync, create or
// rename that fails trips it, and so does Pebble itself when it meets something
// fatal. From then on nothing on the disk changes any more, whatever Pebble goes
// on to do with its idea of the state: what was durable stays what a reopening
// finds. Reads work as before.
type guard struct {
	vfs.FS
	trippedC chan struct{} // closed by trip
	released chan struct{} // closed by release

	once    sync.Once
	relOnce sync.Once
	err     error // why; set before trippedC is closed
}

var errFrozen = errors.New("nothing is written after an I/O error")

func newGuard(fs vfs.FS) *guard {
	return &guard{FS: fs, trippedC: make(chan struct{}), released: make(chan struct{})}
}

func (g *guard) trip(err error) {
	g.once.Do(func() {
		g.err = err
		close(g.trippedC)
	})
}

// release lets go of the operations that wait since the guard tripped; they
// fail.
func (g *guard) release() { g.relOnce.Do(func() { close(g.released) }) }

// tripped returns why, or nil.
func (g *guard) tripped() error {
	select {
	case <-g.trippedC:
		return g.err
	default:
		return nil
	}
}

// enter is called before what changes the folder. Once the guard has tripped it
// holds its caller until the end, because Pebble tries a failed flush or
// compaction again at once, forever.
func (g *guard) enter() error {
	if g.tripped() == nil {
		return nil
	}
	<-g.released
	return errFrozen
}

func (g *guard) leave(op, name string, err error) error {
	if err != nil {
		g.trip(fmt.Errorf("%s %s: %w", op, name, err))
	}
	return err
}

func (g *guard) file(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &guardedFile{File: f, g: g, name: name}, nil
}

func (g *guard) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.enter(); err != nil {
		return nil, err
	}
	f, err := g.FS.Create(name, c)
	return g.file(f, name, g.leave("create", name, err))
}

func (g *guard) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := g.enter(); err != nil {
		return nil, err
	}
	f, err := g.FS.OpenReadWrite(name, c, opts...)
	return g.file(f, name, err)
}

func (g *guard) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.enter(); err != nil {
		return nil, err
	}
	f, err := g.FS.ReuseForWrite(from, to, c)
	return g.file(f, to, g.leave("reuse", to, err))
}

func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	return g.file(f, name, err)
}

func (g *guard) Link(from, to string) error {
	if err := g.enter(); err != nil {
		return err
	}
	return g.leave("link", to, g.FS.Link(from, to))
}

func (g *guard) Rename(from, to string) error {
	if err := g.enter(); err != nil {
		return err
	}
	return g.leave("rename", to, g.FS.Rename(from, to))
}

func (g *guard) Remove(name string) error {
	if err := g.enter(); err != nil {
		return err
	}
	return g.FS.Remove(name)
}

func (g *guard) RemoveAll(name string) error {
	if err := g.enter(); err != nil {
		return err
	}
	return g.FS.RemoveAll(name)
}

func (g *guard) MkdirAll(name string, perm os.FileMode) error {
	if err := g.enter(); err != nil {
		return err
	}
	return g.FS.MkdirAll(name, perm)
}

// Lock is what Pebble calls to lock the folder, which the engine has done.
func (g *guard) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (g *guard) Unwrap() vfs.FS { return g.FS }

// A guardedFile is a file of a guard. Its writes and syncs fail at once after
// the trip, so that nobody who waits for one is left waiting.
type guardedFile struct {
	vfs.File
	g    *guard
	name string
}

func (f *guardedFile) Write(p []byte) (int, error) {
	if f.g.tripped() != nil {
		return 0, errFrozen
	}
	n, err := f.File.Write(p)
	return n, f.g.leave("write", f.name, err)
}

func (f *guardedFile) WriteAt(p []byte, off int64) (int, error) {
	if f.g.tripped() != nil {
		return 0, errFrozen
	}
	n, err := f.File.WriteAt(p, off)
	return n, f.g.leave("write", f.name, err)
}

func (f *guardedFile) Sync() error {
	if f.g.tripped() != nil {
		return errFrozen
	}
	return f.g.leave("sync", f.name, f.File.Sync())
}

func (f *guardedFile) SyncData() error {
	if f.g.tripped() != nil {
		return errFrozen
	}
	return f.g.leave("sync", f.name, f.File.SyncData())
}

func (f *guardedFile) SyncTo(n int64) (bool, error) {
	if f.g.tripped() != nil {
		return false, errFrozen
	}
	full, err := f.File.SyncTo(n)
	return full, f.g.leave("sync", f.name, err)
}
