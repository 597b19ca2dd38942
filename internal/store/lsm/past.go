package lsm

import (
	"errors"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
	"proa/internal/store/past"
)

// The history. A compaction moves versions from the version space to the history
// space. The index says which of a key are there, so that its caps are kept
// without reading them; the order says what ended first, so that the cap of all
// together is. All of it changes in one batch with the horizon, and only under
// Engine.compactMu.

// A pastSize is how much there is.
type pastSize struct {
	bytes int64
	from  store.Revision // nothing in the order is below
}

// A mover makes one batch's changes to the history.
type mover struct {
	s       *session
	b       *pebble.Batch
	keep    *store.Keeping
	full    bool // the disk is: nothing more is kept
	keys    map[string]*shelf
	pending int64 // bytes of what has been put on shelves
	bytes   int64 // by how much the history grows
	dec     decoder
	buf     []byte
}

// A shelf is what is kept of one key.
type shelf struct {
	entries []past.Entry
	fresh   map[store.Revision][]byte // records that are not in the database yet
}

func (s *session) mover(b *pebble.Batch) *mover {
	return &mover{s: s, b: b, keep: &s.e.opts.History, full: s.space.low(), keys: map[string]*shelf{}}
}

// move takes over the version that a change ended, and the mark of a deletion. On
// a disk that is nearly full the history of what changes ends instead.
func (m *mover) move(l *logEntry) error {
	if l.prev == store.Absent && !l.deleted || !m.keep.Keeps(l.key) {
		return nil
	}
	if m.full {
		return m.end(l.key, func(past.Entry) bool { return true })
	}
	if l.prev != store.Absent && l.ended != store.Passing {
		if err := m.put(l, l.prev, l.ended); err != nil {
			return err
		}
	}
	if l.deleted && l.weight != store.Passing {
		return m.put(l, l.rev, l.weight)
	}
	return nil
}

// put reads a version and puts it on its key's shelf. One that is damaged is left
// out: it would be lost without a history too.
func (m *mover) put(l *logEntry, rev store.Revision, w store.Weight) error {
	v, err := readVersion(m.s.db, &m.dec, l.key, rev)
	if errors.As(err, new(*store.CorruptError)) {
		m.s.e.logger.Error("A damaged version is lost to history", "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	v.until, v.weight = l.rev, w
	return m.shelve(&v)
}

// shelve puts a version on its key's shelf, unless it is there.
func (m *mover) shelve(v *version) error {
	k, err := m.shelf(v.Key)
	if err != nil {
		return err
	}
	v.expires = 0
	m.buf = appendPastKey(m.buf[:0], v.Key, v.Revision)
	rec := appendRecord(nil, m.buf, v)
	size := int64(len(m.buf) + len(rec))
	x := past.Index{Entries: k.entries}
	if !x.Insert(past.Entry{Revision: v.Revision, Until: v.until, Size: size, Light: v.weight == store.Light}) {
		return nil
	}
	k.fresh[v.Revision] = rec
	m.pending += size
	var gone []past.Entry
	k.entries, gone = past.Trim(x.Entries, m.keep)
	m.drop(v.Key, k, gone)
	return nil
}

// adopt takes over as many versions as make a batch, and returns how many.
func (s *session) adopt(versions []store.Version) (int, error) {
	m := s.mover(s.db.NewBatch())
	n := 0
	for ; n < len(versions) && m.pending < compactBytes; n++ {
		o := &versions[n]
		if m.full || o.Weight == store.Passing || !m.keep.Keeps(o.Key) {
			continue
		}
		v := version{Record: o.Record, prev: o.Prev, until: o.Until, was: o.Was, deleted: o.Deleted, weight: o.Weight}
		if o.Was != 0 {
			v.before = o.Prev
		}
		s.past.from = min(s.past.from, o.Until)
		if err := m.shelve(&v); err != nil {
			return n, err
		}
	}
	return n, m.finish()
}

// drop removes what is no longer among a shelf's entries.
func (m *mover) drop(key string, k *shelf, gone []past.Entry) {
	for _, e := range gone {
		if k.fresh[e.Revision] != nil {
			delete(k.fresh, e.Revision)
			m.pending -= e.Size
			continue
		}
		m.bytes -= e.Size
		m.buf = appendPastKey(m.buf[:0], key, e.Revision)
		_ = m.b.Delete(m.buf, nil)
		if !slices.ContainsFunc(k.entries, func(o past.Entry) bool { return o.Until == e.Until }) {
			m.buf = appendOrderKey(m.buf[:0], e.Until)
			_ = m.b.Delete(m.buf, nil)
		}
	}
}

// finish puts what is on the shelves into the batch, and applies it.
func (m *mover) finish() error {
	for key, k := range m.keys {
		for _, e := range k.entries {
			rec := k.fresh[e.Revision]
			if rec == nil {
				continue
			}
			m.bytes += e.Size
			m.buf = appendPastKey(m.buf[:0], key, e.Revision)
			_ = m.b.Set(m.buf, rec, nil)
			m.buf = appendOrderKey(m.buf[:0], e.Until)
			_ = m.b.Set(m.buf, appendLogEntry(nil, m.buf, &logEntry{key: key}), nil)
		}
		m.buf = appendIndexKey(m.buf[:0], key)
		if len(k.entries) == 0 {
			_ = m.b.Delete(m.buf, nil)
		} else {
			x := past.Index{Entries: k.entries}
			_ = m.b.Set(m.buf, x.Append(nil, m.buf), nil)
		}
	}
	if m.bytes != 0 {
		_ = m.b.Set(metaPast, appendRevision(nil, m.s.past.bytes+m.bytes), nil)
	}
	if err := m.s.applyLoosely(m.b); err != nil {
		return err
	}
	m.s.past.bytes += m.bytes
	return nil
}

// shelf returns the shelf of a key, as the batch so far leaves it.
func (m *mover) shelf(key string) (*shelf, error) {
	if k := m.keys[key]; k != nil {
		return k, nil
	}
	entries, err := m.index(key)
	if err != nil {
		return nil, err
	}
	k := &shelf{entries: entries, fresh: map[store.Revision][]byte{}}
	m.keys[key] = k
	return k, nil
}

// index reads which versions of a key are kept. A damaged index is made anew
// from the versions.
func (m *mover) index(key string) ([]past.Entry, error) {
	m.buf = appendIndexKey(m.buf[:0], key)
	rec, c, err := m.s.db.Get(m.buf)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err == nil {
		defer c.Close()
		var x past.Index
		if x, err = past.ParseIndex(m.buf, rec); err == nil {
			return x.Entries, nil
		}
	}
	m.s.e.logger.Error("A damaged index of the history is made anew", "key", key, "error", err)
	lo, hi := pastBounds(key)
	it, err := m.s.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return nil, err
	}
	var entries []past.Entry
	for ok := it.Last(); ok; ok = it.Prev() {
		if v, err := m.dec.record(it.Key(), it.Value()); err == nil {
			entries = append(entries, past.Entry{Revision: v.Revision, Until: v.until,
				Size: int64(len(it.Key()) + len(it.Value())), Light: v.weight == store.Light})
		}
	}
	return entries, it.Close()
}

// pastBounds is where the versions of a key lie in the history.
func pastBounds(key string) (lo, hi []byte) {
	lo = append(append([]byte{spacePast}, key...), 0)
	hi = slices.Clone(lo)
	hi[len(hi)-1] = 1
	return lo, hi
}

// fitPast drops what ended first until the history is no larger than it may be.
func (s *session) fitPast() error {
	for s.past.bytes > s.e.opts.History.Bytes && s.e.opts.History.Keep != nil {
		dropped, err := s.dropOldest(compactEntries / 4)
		if err != nil {
			return err
		}
		if !dropped { // which takes a damaged disk
			s.e.logger.Error("The history is too large, but holds nothing that could go", "bytes", s.past.bytes)
			return nil
		}
	}
	return nil
}

// dropOldest drops versions from the front of the order, at most n; false if there is none.
func (s *session) dropOldest(n int) (bool, error) {
	lo := appendOrderKey(nil, s.past.from)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: []byte{spaceOrder + 1}})
	if err != nil {
		return false, err
	}
	m := s.mover(s.db.NewBatch())
	last := store.Revision(0)
	for ok := it.First(); ok && n > 0 && s.past.bytes+m.bytes > s.e.opts.History.Bytes; ok = it.Next() {
		l, err := decodeOrder(it.Key(), it.Value())
		n, last = n-1, l.rev
		if err != nil { // its versions go when their key has too many
			s.e.logger.Error("A damaged entry of the history's order is dropped", "error", err)
			continue
		}
		if err := m.end(l.key, func(e past.Entry) bool { return e.Until == l.rev }); err != nil {
			it.Close()
			return false, err
		}
	}
	if err := it.Close(); err != nil || last == 0 {
		return false, err
	}
	_ = m.b.DeleteRange(lo, appendOrderKey(nil, last+1), nil)
	if err := m.finish(); err != nil {
		return false, err
	}
	s.past.from = last + 1
	return true, nil
}

// end drops some of a key's versions.
func (m *mover) end(key string, which func(past.Entry) bool) error {
	k, err := m.shelf(key)
	if err != nil {
		return err
	}
	var gone []past.Entry
	k.entries = slices.DeleteFunc(k.entries, func(e past.Entry) bool {
		drop := which(e)
		if drop {
			gone = append(gone, e)
		}
		return drop
	})
	m.drop(key, k, gone)
	return nil
}

// decodeOrder reads an entry of the order, which is written like one of the log.
func decodeOrder(dbKey, rec []byte) (logEntry, error) {
	l, err := decodeLogEntry(dbKey, rec)
	if err != nil {
		return l, damaged("(the order of the history)", l.rev, errors.Unwrap(err))
	}
	return l, nil
}

// forget drops what is kept of at most n keys with a prefix; false if there is none.
func (s *session) forget(prefix string, n int) (bool, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: appendIndexKey(nil, prefix), UpperBound: []byte{spaceIndex + 1}})
	if err != nil {
		return false, err
	}
	m := s.mover(s.db.NewBatch())
	for ok := it.First(); ok && len(m.keys) < n; ok = it.Next() {
		key := string(it.Key()[1:])
		if !strings.HasPrefix(key, prefix) {
			break
		}
		if err := m.end(key, func(past.Entry) bool { return true }); err != nil {
			it.Close()
			return false, err
		}
	}
	if err := it.Close(); err != nil {
		return false, err
	}
	if len(m.keys) == 0 {
		return false, m.b.Close()
	}
	return true, m.finish()
}
