package lsm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/internal/store"
	"proa/internal/store/past"
	"proa/internal/store/planted"
)

// Defaults of the scrub: see [Options].
const (
	DefaultScrubEvery = 24 * time.Hour
	DefaultScrubRate  = 1 << 20
)

// A Scrub says what the background scrub has done since the engine was opened.
type Scrub struct {
	Passes   int64     // over the whole store
	Finished time.Time // the last of them; zero if there was none
	Bytes    int64     // read from the disk, in all passes and the present one
	Records  int64     // whose checksums were verified
	Damaged  []error   // what the last pass and the present one found; each a *store.CorruptError
}

// mostDamages bounds what is remembered.
const mostDamages = 100

// A scrubber reads all that is on the disk, at its own pace, past the caches.
type scrubber struct {
	e    *Engine
	rate int64 // bytes a second; 0: as they come

	mu      sync.Mutex
	now     Scrub
	earlier []error // the Damaged of the last whole pass
}

// Scrubbed is what the scrub has done so far.
func (e *Engine) Scrubbed() Scrub {
	s := &e.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.now
	out.Damaged = slices.Concat(s.earlier, s.now.Damaged)
	return out
}

// Health returns an error while a scrub's findings or a failed disk stand
// against the engine, and says which.
func (e *Engine) Health() error {
	if err := e.Err(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrPoisoned, err)
	}
	if d := e.Scrubbed().Damaged; len(d) > 0 {
		return fmt.Errorf("%d places of the store are damaged, the first: %w", len(d), d[0])
	}
	return nil
}

// scrubLoop makes one pass after another until ctx ends: the first after a part
// of the time between two.
func (e *Engine) scrubLoop(ctx context.Context, every time.Duration) {
	wait := time.NewTimer(every / 24)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		if err := e.scrub.pass(ctx); err != nil && ctx.Err() == nil {
			e.logger.Warn("The scrub of the store was broken off", "error", err)
		}
		wait.Reset(max(every-time.Since(began), every/24))
	}
}

// pass reads the whole store once. Damage is noted and logged; the error is
// that of a pass that did not get to its end.
func (s *scrubber) pass(ctx context.Context) error {
	tables, err := s.e.tables()
	if err != nil {
		return err
	}
	p := &pace{ctx: ctx, rate: s.rate, next: time.Now()}
	for name, first := range tables {
		if err := s.table(p, name, first); err != nil {
			return err
		}
	}
	if err := s.e.checkLog(ctx, s.damage); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Passes++
	s.now.Finished = s.e.clock.Now()
	s.earlier, s.now.Damaged = s.now.Damaged, nil
	return nil
}

func (s *scrubber) damage(err error) {
	if planted.Is("scrub-blind") {
		return
	}
	s.e.logger.Error("The scrub found damage in the store", "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.now.Damaged) < mostDamages {
		s.now.Damaged = append(s.now.Damaged, err)
	}
}

// tables are the files that the database consists of now, with the first key
// of each.
func (e *Engine) tables() (map[string]string, error) {
	names := map[string]string{}
	err := e.use(func(s *session) error {
		levels, err := s.db.SSTables()
		for _, l := range levels {
			for _, t := range l {
				names[t.BackingSSTNum.String()+".sst"] = readable(t.Smallest.UserKey)
			}
		}
		return err
	})
	return names, err
}

// readable names the record that a key of the database belongs to.
func readable(dbKey []byte) string {
	if key, _, ok := parseVersionKey(dbKey); ok {
		return string(key)
	}
	return fmt.Sprintf("%q", dbKey)
}

// table reads one file.
func (s *scrubber) table(p *pace, name, first string) error {
	path := s.e.fs.PathJoin(s.e.dir, "db", name)
	f, err := s.e.fs.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // compacted away
	}
	last := first
	if err == nil {
		err = s.read(p, f, &last)
	}
	if err == nil || p.ctx.Err() != nil {
		return p.ctx.Err()
	}
	now, bad := s.e.tables()
	if _, ok := now[name]; bad != nil || !ok {
		return bad // it is not part of the database any more
	}
	if c := (*store.CorruptError)(nil); !errors.As(err, &c) {
		err = damaged(last, 0, fmt.Errorf("at or after this key, in %s: %w", path, err))
	}
	s.damage(err)
	return nil
}

// read verifies the checksums of all blocks and records of a table. It leaves
// in last the last key that was well.
func (s *scrubber) read(p *pace, f vfs.File, last *string) (err error) {
	defer func() {
		if r := recover(); r != nil { // as Pebble may do over a damaged file
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	readable, err := sstable.NewSimpleReadable(&pacedFile{f, p, s})
	if err != nil {
		return errors.Join(err, f.Close())
	}
	policy := bloom.FilterPolicy(10)
	o := pebble.Options{Comparer: comparer, Filters: map[string]pebble.FilterPolicy{policy.Name(): policy}}
	o.EnsureDefaults()
	r, err := sstable.NewReader(p.ctx, readable, o.MakeReaderOptions()) // without a cache
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	defer r.Close()
	if err := s.records(r, last); err != nil {
		return err
	}
	return r.ValidateBlockChecksums()
}

// records verifies what a table's keys say of versions and log entries.
func (s *scrubber) records(r *sstable.Reader, last *string) error {
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return err
	}
	defer it.Close()
	var d decoder
	n := int64(0)
	for kv := it.First(); kv != nil; kv = it.Next() {
		if kv.K.Kind() != pebble.InternalKeyKindSet && kv.K.Kind() != pebble.InternalKeyKindSetWithDelete {
			continue
		}
		v, _, err := kv.Value(nil)
		if err != nil {
			return err
		}
		if err := d.verify(kv.K.UserKey, v); err != nil {
			return err
		}
		*last = readable(kv.K.UserKey)
		n++
	}
	s.mu.Lock()
	s.now.Records += n
	s.mu.Unlock()
	return it.Error()
}

// verify checks one pair of the database, whatever its keyspace.
func (d *decoder) verify(dbKey, value []byte) (err error) {
	if len(dbKey) == 0 {
		return nil
	}
	switch dbKey[0] {
	case spaceVersion, spacePast:
		_, err = d.record(dbKey, value)
	case spaceLog:
		_, err = decodeLogEntry(dbKey, value)
	case spaceIndex:
		_, err = past.ParseIndex(dbKey, value)
	case spaceOrder:
		_, err = decodeOrder(dbKey, value)
	}
	return err
}

// A pace lets so many bytes a second through, in portions of a second.
type pace struct {
	ctx  context.Context
	rate int64
	next time.Time // when what was let through so far is paid for
}

func (p *pace) take(n int) error {
	if p.rate <= 0 {
		return p.ctx.Err()
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	ahead := time.Until(p.next)
	if ahead < time.Second {
		return p.ctx.Err()
	}
	t := time.NewTimer(ahead)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// A pacedFile is a table that is read at a pace.
type pacedFile struct {
	vfs.File
	p *pace
	s *scrubber
}

func (f *pacedFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.p.take(len(b)); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(b, off)
	f.s.mu.Lock()
	f.s.now.Bytes += int64(n)
	f.s.mu.Unlock()
	return n, err
}

func (e *Engine) startScrub() {
	every := e.opts.ScrubEvery
	if every == 0 {
		every = DefaultScrubEvery
	}
	e.scrub = scrubber{e: e, rate: e.opts.ScrubRate}
	if e.scrub.rate == 0 {
		e.scrub.rate = DefaultScrubRate
	}
	ctx, end := context.WithCancel(context.Background())
	e.scrubEnd = end
	if every > 0 {
		e.scrubbing.Go(func() { e.scrubLoop(ctx, every) })
	}
}
