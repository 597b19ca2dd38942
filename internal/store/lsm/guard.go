package lsm

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/internal/store/planted"
	"proa/internal/store/seal"
)

// A guard stands between Pebble and the disk. The first write, sync, create or
// rename that fails trips it, and so does Pebble itself when it meets something
// fatal. From then on nothing on the disk changes any more, whatever Pebble goes
// on to do with its idea of the state: what was durable stays what a reopening
// finds. Reads work as before.
//
// Pebble ends the process when it cannot rotate its log. The guard therefore
// trips and then tells it that all went well with the log: nothing is
// acknowledged before the guard has been asked.
//
// Pebble tries a failed flush or compaction again at once, forever, and holds
// locks meanwhile that readers wait for. What it tries after the trip therefore
// fails, but only after a pause; and once the database is left behind, never.
type guard struct {
	vfs.FS
	trippedC chan struct{} // closed by trip
	left     atomic.Bool   // set by leaveBehind
	syncs    *atomic.Int64 // of files and folders, counted for the engine

	// manifest, if set, is told before a MANIFEST is made, with size 0, and after
	// each sync of it: its size, and the CRC-32C of it all.
	manifest func(name string, size int64, sum uint32) error

	once sync.Once
	err  error // why; set before trippedC is closed
}

// retryPause is how long an attempt to write takes to fail after the trip.
const retryPause = 50 * time.Millisecond

var errFrozen = errors.New("nothing is written after an I/O error")

func newGuard(fs vfs.FS, syncs *atomic.Int64) *guard {
	return &guard{FS: fs, syncs: syncs, trippedC: make(chan struct{})}
}

// trip says whether this was the call that tripped the guard.
func (g *guard) trip(err error) (first bool) {
	g.once.Do(func() {
		g.err = err
		close(g.trippedC)
		first = true
	})
	return first
}

// leaveBehind puts to sleep, for good, whoever of a database that nobody can
// close still tries to write.
func (g *guard) leaveBehind() { g.left.Store(true) }

// fail is how an attempt to write ends after the trip.
func (g *guard) fail() error {
	if g.left.Load() {
		select {}
	}
	<-time.After(retryPause)
	return errFrozen
}

// tripped returns why, or nil.
func (g *guard) tripped() error {
	select {
	case <-g.trippedC:
		return g.err
	default:
		return nil
	}
}

// enter is called before what changes the folder.
func (g *guard) enter() error {
	if g.tripped() == nil {
		return nil
	}
	return g.fail()
}

func (g *guard) leave(op, name string, err error) error {
	if err != nil && !planted.Is("failure-unnoticed") {
		g.trip(fmt.Errorf("%s %s: %w", op, name, err))
	}
	return err
}

func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

// log opens a file of the write-ahead log, or one that nothing ever comes out
// of.
func (g *guard) log(op, name string, open func() (vfs.File, error)) (vfs.File, error) {
	if g.tripped() == nil {
		f, err := open()
		if g.leave(op, name, err) == nil {
			return g.file(f, name, nil)
		}
	}
	return g.file(vfs.NewMemFile(nil), name, nil)
}

func (g *guard) file(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &guardedFile{File: f, g: g, name: name, mute: isLog(name)}, nil
}

func (g *guard) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if isLog(name) {
		return g.log("create", name, func() (vfs.File, error) { return g.FS.Create(name, c) })
	}
	if err := g.enter(); err != nil {
		return nil, err
	}
	// A marker names another file of the folder, whose entry must not come later
	// to the disk than the marker's own.
	if err := g.settle(name); err != nil {
		return nil, err
	}
	manifest := strings.HasPrefix(g.FS.PathBase(name), "MANIFEST-")
	if manifest && g.manifest != nil {
		if err := g.manifest(g.FS.PathBase(name), 0, 0); err != nil {
			return nil, err
		}
	}
	f, err := g.FS.Create(name, c)
	if err := g.leave("create", name, err); err != nil {
		return nil, err
	}
	return &guardedFile{File: f, g: g, name: name, manifest: manifest, table: strings.HasSuffix(name, ".sst")}, nil
}

func (g *guard) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := g.enter(); err != nil {
		return nil, err
	}
	f, err := g.FS.OpenReadWrite(name, c, opts...)
	return g.file(f, name, err)
}

func (g *guard) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return g.log("reuse", to, func() (vfs.File, error) { return g.FS.ReuseForWrite(from, to, c) })
}

func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardedFile{File: f, g: g, name: name, mute: true}, nil
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
	if g.tripped() != nil {
		return errFrozen
	}
	// Nor may the marker before be gone sooner than the new one is there.
	if err := g.settle(name); err != nil {
		return err
	}
	return g.FS.Remove(name)
}

// settle makes the folder durable as it is if name is that of a marker.
func (g *guard) settle(name string) error {
	if !strings.HasPrefix(g.FS.PathBase(name), "marker.") {
		return nil
	}
	g.syncs.Add(1)
	dir := g.FS.PathDir(name)
	return g.leave("sync", dir, syncDir(g.FS, dir))
}

func (g *guard) RemoveAll(name string) error {
	if g.tripped() != nil {
		return errFrozen
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

// syncDir makes the entries of a folder durable.
func syncDir(fs vfs.FS, name string) error {
	d, err := fs.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes a folder with those above it, all durable.
func makeDir(fs vfs.FS, name string) error {
	if _, err := fs.Stat(name); err == nil {
		return nil
	}
	above := fs.PathDir(name)
	if above != name {
		if err := makeDir(fs, above); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(name, 0o700); err != nil {
		return err
	}
	return syncDir(fs, above)
}

// A guardedFile is a file of a guard. After the trip its writes and syncs fail;
// those of the log and of folders seem to succeed.
type guardedFile struct {
	vfs.File
	g    *guard
	name string
	mute bool

	// Who writes a table, block after block, has time: Go would take the processor away from it
	// only after 10 ms, and a request changes goroutines a dozen times.
	table bool

	manifest bool // made by this process; one goroutine at a time writes it
	size     int64
	sum      uint32
}

// do makes a change unless the guard has tripped.
func (f *guardedFile) do(op string, change func() error) error {
	if f.g.tripped() == nil {
		err := f.g.leave(op, f.name, change())
		if f.mute {
			return nil
		}
		return err
	}
	if f.mute {
		return nil
	}
	return f.g.fail()
}

func (f *guardedFile) Write(p []byte) (n int, err error) {
	err = f.do("write", func() (err error) {
		n, err = f.File.Write(p)
		if f.manifest {
			f.size, f.sum = f.size+int64(n), crc32.Update(f.sum, seal.Castagnoli, p[:n])
		}
		return err
	})
	if err == nil {
		n = len(p)
	}
	if f.table {
		runtime.Gosched()
	}
	return n, err
}

func (f *guardedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.do("write", func() (err error) {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	if err == nil {
		n = len(p)
	}
	return n, err
}

func (f *guardedFile) Sync() error {
	f.g.syncs.Add(1)
	return f.do("sync", func() error {
		if err := f.File.Sync(); err != nil || !f.manifest || f.g.manifest == nil {
			return err
		}
		return f.g.manifest(f.g.PathBase(f.name), f.size, f.sum)
	})
}

func (f *guardedFile) SyncData() error {
	f.g.syncs.Add(1)
	return f.do("sync", f.File.SyncData)
}

func (f *guardedFile) SyncTo(n int64) (full bool, err error) {
	f.g.syncs.Add(1)
	err = f.do("sync", func() (err error) {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}

func (f *guardedFile) Close() error {
	if err := f.File.Close(); !f.mute {
		return err
	}
	return nil
}
