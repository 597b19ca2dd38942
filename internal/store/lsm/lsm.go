// Package lsm is the embedded default engine: Pebble, a log-structured merge
// tree, in a folder of the local disk. Concurrent writes share one sync, every
// version of a record above the horizon is there to be read, and the first I/O
// error ends all acknowledging until the database is opened again. The layout
// on disk is described in docs/formats/store.md.
package lsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/internal/store"
	"proa/internal/store/expiry"
	"proa/internal/store/feed"
	"proa/internal/store/planted"
)

// DefaultReserve is how much free disk space the engine leaves alone.
const DefaultReserve = 64 << 20

// Options of an engine. The zero value is what a server runs with.
type Options struct {
	Clock  store.Clock  // nil: the system's
	Logger *slog.Logger // nil: none

	// Reserve is the free space, in bytes, below which the engine takes no more
	// writes (store.ErrReadOnly), until there is more again; deletions are taken
	// until half of it is gone, expiries and Compact always. 0 means
	// DefaultReserve; negative means none.
	Reserve int64

	// FS is the file system that dir is a path of; nil is the machine's. Another
	// one is for tests; the folder is then locked by that file system's means.
	FS vfs.FS

	// FeedEvents and FeedBytes bound the newest changes that are kept in memory
	// for watchers. 0 means feed.DefaultEvents and feed.DefaultBytes.
	FeedEvents, FeedBytes int

	// ScrubEvery is the time between two passes of the scrub, which reads the
	// whole store and verifies its checksums, and ScrubRate how many bytes a second
	// it reads at most. 0 means DefaultScrubEvery and DefaultScrubRate; a negative
	// ScrubEvery means no scrub.
	ScrubEvery time.Duration
	ScrubRate  int64

	// Tune changes how Pebble is set up, for tests: small files, say.
	Tune func(*pebble.Options)
}

// An Engine is a store.Engine, store.Advancer and store.Reopener on Pebble.
type Engine struct {
	dir    string
	opts   Options
	fs     vfs.FS
	clock  store.Clock
	logger *slog.Logger
	lock   io.Closer
	feed   *feed.Feed
	ttl    *expiry.Queue

	newest    atomic.Int64 // of what is durable
	horizon   atomic.Int64
	syncs     atomic.Int64
	compactMu sync.Mutex
	scrub     scrubber
	scrubEnd  context.CancelFunc
	scrubbing sync.WaitGroup

	mu     sync.RWMutex // guards ses and closed; read-locked while the database is used
	ses    *session
	closed bool
}

var (
	_ store.Engine   = (*Engine)(nil)
	_ store.Advancer = (*Engine)(nil)
	_ store.Reopener = (*Engine)(nil)
)

// A session is the time between an opening of the database and its end.
type session struct {
	e     *Engine
	guard *guard
	db    *pebble.DB

	mu      sync.Mutex
	arrived sync.Cond
	queue   []*request
	ending  bool
	done    chan struct{} // closed when the committer has ended
	publish sync.Mutex    // held while a durable group is made visible

	heads heads
	space space
	reach reach
	ended bool // guarded by e.mu
}

// Open opens the data in dir, which it makes if it is not there. If another
// process has it open the error is a *store.HeldError.
func Open(dir string, o Options) (*Engine, error) {
	e := &Engine{dir: dir, opts: o, fs: o.FS, clock: o.Clock, logger: o.Logger}
	if e.clock == nil {
		e.clock = store.SystemClock{}
	}
	if e.logger == nil {
		e.logger = slog.New(slog.DiscardHandler)
	}
	if err := e.take(); err != nil {
		return nil, err
	}
	e.ttl = expiry.New(e.clock, e.expire)
	ses, l, err := e.open()
	if err != nil {
		e.lock.Close()
		return nil, err
	}
	e.ses = ses
	e.newest.Store(l.newest)
	e.horizon.Store(l.horizon)
	e.feed = feed.New(l.newest, o.FeedEvents, o.FeedBytes, e.older)
	go ses.run()
	if !planted.Is("expiry-forgotten") {
		e.ttl.Add(l.expiries...)
	}
	e.startScrub()
	return e, nil
}

// take makes the folder if it is not there and locks it.
func (e *Engine) take() (err error) {
	custom := e.fs != nil
	if !custom {
		e.fs = vfs.Default
	}
	if err = makeDir(e.fs, e.fs.PathJoin(e.dir, "db")); err == nil {
		if custom {
			e.lock, err = e.fs.Lock(e.fs.PathJoin(e.dir, "lock"))
		} else {
			e.lock, err = store.Hold(e.dir)
		}
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// open opens the database and reads what the engine keeps in memory.
func (e *Engine) open() (*session, loaded, error) {
	s := &session{e: e, guard: newGuard(e.fs, &e.syncs), done: make(chan struct{})}
	s.arrived.L = &s.mu
	dir := e.fs.PathJoin(e.dir, "db")
	err := s.reach.open(s.guard, e.fs.PathJoin(e.dir, "reached"))
	if err == nil {
		err = s.reach.checkManifest(e.fs, dir)
	}
	if err == nil {
		s.db, err = openPebble(dir, s.guard, e.logger, e.opts.Tune)
	}
	if err != nil {
		s.guard.trip(err)
		s.reach.close()
		return nil, loaded{}, fmt.Errorf("store: open %s: %w", dir, err)
	}
	s.space = space{fs: e.fs, dir: dir, reserve: e.opts.Reserve, logger: e.logger}
	if s.space.reserve == 0 {
		s.space.reserve = DefaultReserve
	}
	l, err := s.load()
	if err == nil {
		err = s.guard.tripped()
	}
	if err != nil {
		s.discard(err)
		return nil, loaded{}, fmt.Errorf("store: open %s: %w", dir, err)
	}
	return s, l, nil
}

// Failed is store.Reopener's.
func (e *Engine) Failed() <-chan struct{} {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.ses.guard.trippedC
}

// Err is store.Reopener's.
func (e *Engine) Err() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.ses.guard.tripped()
}

// Reopen is store.Reopener's. It closes the database first, whatever state that
// is in; writes fail until it is open again, and if that does not succeed it
// can be tried again.
func (e *Engine) Reopen(context.Context) error {
	e.compactMu.Lock()
	defer e.compactMu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	e.ses.guard.trip(errReopened)
	e.ses.publish.Lock() // what the committer has not published by now it will not
	e.ses.end()
	e.ses.publish.Unlock()
	e.ttl.Reset()
	ses, l, err := e.open()
	if err != nil {
		return err
	}
	if was := e.newest.Load(); l.newest < was {
		ses.discard(errReopened)
		return fmt.Errorf("store: reopen %s: the disk has lost the revisions %d to %d", e.dir, l.newest+1, was)
	}
	e.ses = ses
	e.newest.Store(l.newest)
	e.horizon.Store(max(l.horizon, e.horizon.Load())) // a broken-off compaction may have announced more
	if !planted.Is("reopen-loses-watch") {
		e.feed.Skip(l.newest)
	}
	go ses.run()
	e.ttl.Add(l.expiries...)
	return nil
}

var errReopened = errors.New("the database is being reopened")

// Close is store.Engine's.
func (e *Engine) Close() error {
	e.mu.RLock()
	ses, closed := e.ses, e.closed
	e.mu.RUnlock()
	if closed {
		return store.ErrClosed
	}
	e.scrubEnd()
	e.scrubbing.Wait()
	ses.stop()
	e.ttl.Close()
	e.compactMu.Lock()
	defer e.compactMu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	e.closed = true
	e.feed.Close(store.ErrClosed)
	err := e.ses.end()
	e.lock.Close()
	return err
}

// stop lets the committer finish what has arrived and waits for it, unless the
// disk has failed.
func (s *session) stop() {
	s.mu.Lock()
	s.ending = true
	s.arrived.Signal()
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-s.guard.trippedC:
	}
}

// discard ends a session whose committer was not started.
func (s *session) discard(err error) {
	s.guard.trip(err)
	close(s.done)
	s.end()
}

// end closes the database. Nobody uses it any more, but for a committer that
// is stuck in it after an I/O error.
func (s *session) end() error {
	if s.ended {
		return nil
	}
	s.ended = true
	failed := s.guard.tripped() != nil
	s.mu.Lock()
	s.ending = true
	s.arrived.Signal()
	s.mu.Unlock()
	defer s.reach.close()
	if !failed {
		return s.db.Close()
	}
	select {
	case <-s.done:
	case <-time.After(abandonAfter):
		// It waits for room that a flush was to make, in the database's lock, so
		// there is no closing. All of it stays behind, asleep; the data is safe.
		s.guard.leaveBehind()
		s.e.logger.Error("The failed database is stuck and is left behind")
		return nil
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		defer func() {
			if p := recover(); p != nil {
				s.e.logger.Error("The failed database did not close", "panic", p)
			}
		}()
		_ = s.db.Close() // says again what made it fail
	}()
	select {
	case <-closed:
	case <-time.After(abandonAfter):
		s.guard.leaveBehind()
		s.e.logger.Error("The failed database does not close and is left behind")
	}
	return nil
}

const abandonAfter = 2 * time.Second

// use calls f with the session, which stays open meanwhile.
// Pebble may panic over a damaged file; then the error says so.
func (e *Engine) use(f func(*session) error) (err error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	defer func() {
		if p := recover(); p != nil {
			e.logger.Error("The database has panicked", "panic", p, "stack", string(debug.Stack()))
			err = damaged("(unknown)", 0, fmt.Errorf("panic: %v", p))
		}
	}()
	if e.closed {
		return store.ErrClosed
	}
	if e.ses.ended { // a Reopen has failed
		return e.ses.poisoned()
	}
	return f(e.ses)
}

// Syncs is how often this engine has made the disk sync a file or a folder since
// it was opened: what a write costs a disk.
func (e *Engine) Syncs() int64 { return e.syncs.Load() }

// Revision is store.Engine's.
func (e *Engine) Revision() store.Revision { return e.newest.Load() }

// Horizon is store.Engine's.
func (e *Engine) Horizon() store.Revision { return e.horizon.Load() }
