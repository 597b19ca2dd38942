package lsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/internal/store"
	"proa/internal/store/expiry"
)

// openPebble opens the database with what suits a server that shares its
// machine: small memory, one compaction at a time, no work while nothing is
// written.
func openPebble(dir string, g *guard, logger *slog.Logger, tune func(*pebble.Options)) (*pebble.DB, error) {
	o := &pebble.Options{
		FS:                          g,
		Comparer:                    comparer,
		FormatMajorVersion:          pebble.FormatValueSeparation, // the first whose tables have a checksum in their footer too
		CacheSize:                   32 << 20,                     // the memtables count in it
		MemTableSize:                8 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       64,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                256,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
		DisableTableStats:           true, // for the same reason, where a table is damaged
		WALMinSyncInterval:          func() time.Duration { return 0 },
		Logger:                      pebbleLog{g, logger},
	}
	o.Experimental.FileCacheShards = 1
	o.Experimental.ReadSamplingMultiplier = -1
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].BlockSize = 16 << 10
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
	}
	for i := range o.TargetFileSizes {
		o.TargetFileSizes[i] = min(int64(4<<20)<<i, 64<<20)
	}
	o.EventListener = &pebble.EventListener{BackgroundError: func(err error) {
		g.trip(fmt.Errorf("in the background: %w", err))
	}}
	if tune != nil {
		tune(o)
	}
	turn := &turns{}
	turn.over.L = &turn.mu
	o.Experimental.CompactionScheduler = turn
	db, err := openOrLeave(dir, o, g)
	if err == nil {
		turn.start()
	}
	return db, err
}

// openOrLeave opens the database. Pebble tries a flush that fails while it
// opens again and again; when the guard has tripped, all of it is left behind,
// asleep in the guard.
func openOrLeave(dir string, o *pebble.Options, g *guard) (*pebble.DB, error) {
	type result struct {
		db  *pebble.DB
		err error
	}
	c := make(chan result, 1)
	go func() {
		db, err := pebble.Open(dir, o)
		c <- result{db, err}
	}()
	select {
	case r := <-c:
		return r.db, r.err
	case <-g.trippedC:
		g.leaveBehind()
		return nil, g.err
	}
}

// pebbleLog takes Pebble's messages. What Pebble holds for fatal trips the
// guard before Pebble goes on.
type pebbleLog struct {
	g      *guard
	logger *slog.Logger
}

func (l pebbleLog) Infof(string, ...any) {}

func (l pebbleLog) Errorf(format string, args ...any) {
	if l.g.tripped() != nil {
		return // it says the same again with each attempt
	}
	l.logger.Error("The database reports an error", "message", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if l.g.trip(errors.New(msg)) {
		l.logger.Error("The database has failed", "message", msg)
	}
}

// loaded is what the engine keeps in memory of a database.
type loaded struct {
	newest, horizon store.Revision
	expiries        []expiry.Item
}

// load reads a database just opened, and marks a new one.
func (s *session) load() (loaded, error) {
	var l loaded
	err := s.checkFormat()
	if err == nil {
		l.horizon, err = s.meta(metaHorizon)
	}
	if err == nil {
		l.newest, err = s.meta(metaNewest)
	}
	if err == nil {
		l.newest, err = s.lastLogged(max(l.newest, l.horizon))
	}
	if err == nil {
		l.expiries, err = s.loadExpiries()
	}
	if err == nil {
		s.past.bytes, err = s.meta(metaPast)
	}
	return l, err
}

// lastLogged returns the last revision of the log, or atLeast.
func (s *session) lastLogged(atLeast store.Revision) (store.Revision, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceLog}, UpperBound: []byte{spaceLog + 1}})
	if err != nil {
		return 0, err
	}
	if it.Last() {
		l, err := decodeLogEntry(it.Key(), it.Value())
		if err != nil {
			it.Close()
			return 0, err
		}
		atLeast = max(atLeast, l.rev)
	}
	return atLeast, it.Close()
}

func (s *session) loadExpiries() ([]expiry.Item, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceExpiry}, UpperBound: []byte{spaceExpiry + 1}})
	if err != nil {
		return nil, err
	}
	var items []expiry.Item
	for ok := it.First(); ok; ok = it.Next() {
		k := it.Key()
		if len(k) != 17 {
			it.Close()
			return nil, fmt.Errorf("%q is no key of an expiry", k)
		}
		items = append(items, expiry.Item{
			At:       time.Unix(0, int64(binary.BigEndian.Uint64(k[1:]))),
			Revision: store.Revision(binary.BigEndian.Uint64(k[9:])),
			Key:      string(it.Value()),
		})
	}
	return items, it.Close()
}

// layout is the generation of the keyspaces that this package reads and writes.
const layout = 1

func (s *session) checkFormat() error {
	have, err := s.meta(metaFormat)
	if err != nil || have == layout {
		return err
	}
	if have != 0 {
		return fmt.Errorf("the data has layout %d, written by a newer program; this one knows %d", have, layout)
	}
	return s.db.Set(metaFormat, appendRevision(nil, layout), pebble.Sync)
}

// meta reads one of the meta keys; absent ones are 0.
func (s *session) meta(key []byte) (store.Revision, error) {
	v, c, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if len(v) != 8 {
		return 0, fmt.Errorf("%s holds %d bytes instead of 8", key, len(v))
	}
	return store.Revision(binary.BigEndian.Uint64(v)), nil
}

func appendRevision(dst []byte, rev store.Revision) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(rev))
}

// space watches the free space of the disk that holds the data.
type space struct {
	fs       vfs.FS
	dir      string
	reserve  int64
	logger   *slog.Logger
	readOnly bool
}

// check says what may be written now.
func (s *space) check() (writes, deletes bool) {
	if s.reserve < 0 {
		return true, true
	}
	u, err := s.fs.GetDiskUsage(s.dir)
	if err != nil {
		return true, true // a file system that does not tell
	}
	low := u.AvailBytes < uint64(s.reserve)
	if low != s.readOnly {
		s.readOnly = low
		if low {
			s.logger.Error("The disk is nearly full: the store takes no more writes", "dir", s.dir, "free", u.AvailBytes, "reserve", s.reserve)
		} else {
			s.logger.Info("The disk has space again: the store takes writes", "dir", s.dir, "free", u.AvailBytes)
		}
	}
	return !low, u.AvailBytes >= uint64(s.reserve)/2
}

// low says whether the disk is nearly full.
func (s *space) low() bool {
	if s.reserve < 0 {
		return false
	}
	u, err := s.fs.GetDiskUsage(s.dir)
	return err == nil && u.AvailBytes < uint64(s.reserve)
}
