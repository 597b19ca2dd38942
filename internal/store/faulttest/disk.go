// Package faulttest runs an engine that keeps its data on a file system through
// crashes, failing and full disks, flipped bits, slow watchers and races, and
// compares what it then holds with what its clients were told. The engine under
// test is handed in (see [Opener]), so that the tests of an engine and the long
// run of test/fault are the same code. docs/design/013-faults.md says what is
// injected and what is checked.
package faulttest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A Kind is a sort of operation on a disk.
type Kind byte

// The operations. Those from Create on change the disk.
const (
	Open Kind = iota
	Read
	List
	Stat
	Create
	Write
	Sync
	SyncDir
	Rename
	Reuse
	Link
	Remove
	Mkdir
)

var kindNames = [...]string{"open", "read", "list", "stat", "create", "write", "sync", "syncdir", "rename", "reuse", "link", "remove", "mkdir"}

func (k Kind) String() string { return kindNames[k] }

// Changes says whether operations of the kind change the disk.
func (k Kind) Changes() bool { return k >= Create }

// An Op is one operation, before it is done.
type Op struct {
	N    int64 // 1 for the first that changes the disk; of a read, that of the change before it
	Kind Kind
	Name string
}

func (o Op) String() string { return fmt.Sprintf("operation %d, %s %s", o.N, o.Kind, o.Name) }

// A Disk is a file system in memory that knows what a crash would leave of it.
// Paths are slash-separated; folders must exist. Its zero value is not usable.
type Disk struct {
	// Before is called before every operation, with no lock held; if it returns an
	// error that is the operation's result. It is set before the disk is used.
	Before func(Op) error

	changes atomic.Int64
	free    atomic.Int64 // what GetDiskUsage says

	mu      sync.Mutex
	names   map[string]*node // what programs see
	durable map[string]*node // what is sure to be there after a crash
	pending []change         // between durable and names, in order
	locked  map[string]bool
}

// A change is one of names that is not yet durable; it is made whole or not at
// all, as by a file system with a journal.
type change struct {
	add, remove string
	node        *node
}

// A node is a file or folder.
type node struct {
	dir     bool
	data    []byte
	synced  []byte         // never changed in place; shared with pictures of the disk
	shared  bool           // data begins with synced, in the same memory
	dirty   map[int64]bool // sectors written since the last sync
	lengths []int          // of the file after the writes since the last sync
}

const sector = 512

// NewDisk makes an empty disk with room without end.
func NewDisk() *Disk {
	root := &node{dir: true}
	d := &Disk{names: map[string]*node{".": root}, durable: map[string]*node{".": root}, locked: map[string]bool{}}
	d.free.Store(1 << 40)
	return d
}

// Changes is the number of operations so far that change the disk.
func (d *Disk) Changes() int64 { return d.changes.Load() }

// SetFree sets the free space that the disk claims to have, in bytes.
func (d *Disk) SetFree(n int64) { d.free.Store(n) }

// intercept changes Before while the disk is in use.
func (d *Disk) intercept(f func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Before = f
}

// before counts an operation and asks whether it may be done.
func (d *Disk) before(k Kind, name string) error {
	n := d.changes.Load()
	if k.Changes() {
		n = d.changes.Add(1)
	}
	d.mu.Lock()
	ask := d.Before
	d.mu.Unlock()
	if ask == nil {
		return nil
	}
	if err := ask(Op{N: n, Kind: k, Name: name}); err != nil {
		return &fs.PathError{Op: k.String(), Path: name, Err: err}
	}
	return nil
}

func clean(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }

func missing(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// put makes name stand for n, and takes away another name with the same step.
func (d *Disk) put(name string, n *node, gone string) {
	if gone != "" {
		delete(d.names, gone)
	}
	if n != nil {
		d.names[name] = n
	}
	d.pending = append(d.pending, change{add: name, node: n, remove: gone})
}

func (c *change) apply(names map[string]*node) {
	if c.remove != "" {
		delete(names, c.remove)
	}
	if c.node != nil {
		names[c.add] = c.node
	}
}

func (c *change) in(dir string) bool {
	return c.node != nil && path.Dir(c.add) == dir || c.remove != "" && path.Dir(c.remove) == dir
}

// Create implements vfs.FS.
func (d *Disk) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	name = clean(name)
	if err := d.before(Create, name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[path.Dir(name)] == nil {
		return nil, missing("create", name)
	}
	n := &node{}
	d.put(name, n, "")
	return &file{d: d, n: n, name: name}, nil
}

// Link implements vfs.FS.
func (d *Disk) Link(from, to string) error {
	from, to = clean(from), clean(to)
	if err := d.before(Link, to); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[from]
	if n == nil || d.names[to] != nil {
		return missing("link", from)
	}
	d.put(to, n, "")
	return nil
}

// Open implements vfs.FS.
func (d *Disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.open(name, opts)
}

// OpenReadWrite implements vfs.FS: a file that is not there is made.
func (d *Disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.open(name, opts)
	if errors.Is(err, fs.ErrNotExist) {
		return d.Create(name, c)
	}
	return f, err
}

// OpenDir implements vfs.FS.
func (d *Disk) OpenDir(name string) (vfs.File, error) { return d.open(name, nil) }

func (d *Disk) open(name string, opts []vfs.OpenOption) (vfs.File, error) {
	name = clean(name)
	if err := d.before(Open, name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	n := d.names[name]
	d.mu.Unlock()
	if n == nil {
		return nil, missing("open", name)
	}
	f := &file{d: d, n: n, name: name}
	for _, o := range opts {
		o.Apply(f)
	}
	return f, nil
}

// Remove implements vfs.FS.
func (d *Disk) Remove(name string) error {
	name = clean(name)
	if err := d.before(Remove, name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return missing("remove", name)
	}
	d.put("", nil, name)
	return nil
}

// RemoveAll implements vfs.FS.
func (d *Disk) RemoveAll(name string) error {
	name = clean(name)
	d.mu.Lock()
	var all []string
	for n := range d.names {
		if n == name || strings.HasPrefix(n, name+"/") {
			all = append(all, n)
		}
	}
	d.mu.Unlock()
	slices.Sort(all)
	for _, n := range slices.Backward(all) {
		if err := d.Remove(n); err != nil {
			return err
		}
	}
	return nil
}

// Rename implements vfs.FS.
func (d *Disk) Rename(from, to string) error { return d.rename(Rename, from, to) }

func (d *Disk) rename(k Kind, from, to string) error {
	from, to = clean(from), clean(to)
	if err := d.before(k, to); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[from]
	if n == nil {
		return missing("rename", from)
	}
	d.put(to, n, from)
	return nil
}

// ReuseForWrite implements vfs.FS: the file keeps its content.
func (d *Disk) ReuseForWrite(from, to string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.rename(Reuse, from, to); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &file{d: d, n: d.names[clean(to)], name: clean(to)}, nil
}

// MkdirAll implements vfs.FS.
func (d *Disk) MkdirAll(name string, perm os.FileMode) error {
	name = clean(name)
	d.mu.Lock()
	have := d.names[name] != nil
	d.mu.Unlock()
	if have {
		return nil
	}
	if err := d.MkdirAll(path.Dir(name), perm); err != nil {
		return err
	}
	if err := d.before(Mkdir, name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.put(name, &node{dir: true}, "")
	return nil
}

type unlocker func()

func (f unlocker) Close() error { f(); return nil }

// Lock implements vfs.FS. The lock ends with a crash.
func (d *Disk) Lock(name string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locked[name] {
		return nil, syscall.EAGAIN
	}
	d.locked[name] = true
	return unlocker(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.locked, name)
	}), nil
}

// List implements vfs.FS.
func (d *Disk) List(dir string) ([]string, error) {
	dir = clean(dir)
	if err := d.before(List, dir); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[dir] == nil {
		return nil, missing("list", dir)
	}
	var out []string
	for n := range d.names {
		if n != dir && path.Dir(n) == dir {
			out = append(out, path.Base(n))
		}
	}
	slices.Sort(out)
	return out, nil
}

// Stat implements vfs.FS.
func (d *Disk) Stat(name string) (vfs.FileInfo, error) {
	name = clean(name)
	if err := d.before(Stat, name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	if n == nil {
		return nil, missing("stat", name)
	}
	return info{name: path.Base(name), size: int64(len(n.data)), dir: n.dir}, nil
}

// PathBase implements vfs.FS.
func (d *Disk) PathBase(p string) string { return path.Base(p) }

// PathJoin implements vfs.FS.
func (d *Disk) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir implements vfs.FS.
func (d *Disk) PathDir(p string) string { return path.Dir(p) }

// GetDiskUsage implements vfs.FS.
func (d *Disk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free := uint64(d.free.Load())
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: 1 << 41, UsedBytes: 1<<41 - free}, nil
}

// Unwrap implements vfs.FS.
func (d *Disk) Unwrap() vfs.FS { return nil }

// Files are the names of all files, sorted.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for n, f := range d.names {
		if !f.dir {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Size is the length of a file, in bytes; 0 if it is not there.
func (d *Disk) Size(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.names[name]; n != nil {
		return len(n.data)
	}
	return 0
}

type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string           { return i.name }
func (i info) Size() int64            { return i.size }
func (i info) IsDir() bool            { return i.dir }
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
