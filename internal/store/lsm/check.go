package lsm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
)

// Check reads all that is stored, at once, and returns what is damaged, each a
// *store.CorruptError, or contradicts itself: the tables as the scrub reads
// them, and whether versions, log and expiries agree. Nothing may be written
// meanwhile. After an I/O error it does not compare them, because the database
// then shows what was not acknowledged. It is for tests.
func (e *Engine) Check(ctx context.Context) error {
	s := &scrubber{e: e}
	if err := s.pass(ctx); err != nil {
		return err
	}
	if len(s.earlier) > 0 {
		return errors.Join(s.earlier...)
	}
	return e.use(func(s *session) error {
		if s.guard.tripped() != nil {
			return nil
		}
		horizon, err := s.meta(metaHorizon) // a compaction that was broken off has done less than e.horizon says
		if err != nil {
			return err
		}
		c := checker{r: s.db, newest: e.newest.Load(), horizon: horizon, kept: s.past.bytes, expires: map[store.Revision]int64{}}
		for _, step := range []func() error{c.versions, c.log, c.expiries, c.past} {
			if err := step(); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

// checkLog reads the log above the horizon, piece by piece, and reports a
// change that is missing or damaged.
func (e *Engine) checkLog(ctx context.Context, report func(error)) error {
	for at, end := e.horizon.Load(), e.newest.Load(); at < end; at += logChunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := e.use(func(s *session) error { return s.checkLogChunk(max(at, e.horizon.Load()), min(at+logChunk, end)) })
		if errors.As(err, new(*store.CorruptError)) {
			if at < e.horizon.Load() {
				continue // compacted meanwhile
			}
			report(err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) checkLogChunk(after, upTo store.Revision) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: appendLogKey(nil, after+1), UpperBound: appendLogKey(nil, upTo+1)})
	if err != nil {
		return err
	}
	defer it.Close()
	want := after + 1
	for ok := it.First(); ok; ok = it.Next() {
		l, err := decodeLogEntry(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if l.rev != want {
			return damaged("(the log)", want, errMissing)
		}
		want++
	}
	if err := it.Error(); err != nil {
		return damaged("(the log)", want, err)
	}
	if want <= upTo {
		return damaged("(the log)", want, errMissing)
	}
	return nil
}

// A checker compares the keyspaces with each other.
type checker struct {
	r               pebble.Reader
	newest, horizon store.Revision
	kept            int64                    // bytes of the history, as the session believes
	expires         map[store.Revision]int64 // of the heads that end
}

func (c *checker) each(space byte, f func(key, value []byte) error) error {
	it, err := c.r.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := f(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// versions checks that a key's versions follow each other, and that of those up
// to the horizon only the one is left that it shows.
func (c *checker) versions() error {
	var d decoder
	var later version // the version of the same key above
	return c.each(spaceVersion, func(k, rec []byte) error {
		v, err := d.record(k, rec)
		if err != nil {
			return err
		}
		bad := func(format string, args ...any) error {
			return fmt.Errorf("the version of %s at %d: %s", v.Key, v.Revision, fmt.Sprintf(format, args...))
		}
		head := later.Key != v.Key
		switch {
		case v.Revision > c.newest:
			return bad("the newest revision is %d", c.newest)
		case v.Revision <= c.horizon && v.deleted:
			return bad("the mark of a deletion below the horizon %d", c.horizon)
		case !head && later.Revision <= c.horizon:
			return bad("its successor %d is not above the horizon %d", later.Revision, c.horizon)
		case !head && later.prev != v.Revision && !(v.deleted && later.prev == store.Absent):
			return bad("its successor %d follows %d", later.Revision, later.prev)
		}
		if head && v.expires != 0 {
			c.expires[v.Revision] = v.expires
		}
		later = v
		return nil
	})
}

// log checks that every change above the horizon is there with its version.
func (c *checker) log() error {
	var d decoder
	want := c.horizon + 1
	err := c.each(spaceLog, func(k, rec []byte) error {
		l, err := decodeLogEntry(k, rec)
		if err != nil {
			return err
		}
		if l.rev != want {
			return fmt.Errorf("the log has %d instead of %d", l.rev, want)
		}
		want++
		v, err := readVersion(c.r, &d, l.key, l.rev)
		if err != nil {
			return err
		}
		if v.prev != l.prev || v.deleted != l.deleted {
			return fmt.Errorf("the log says of %d that it follows %d, deleted: %v; the version of %s %d, %v", l.rev, l.prev, l.deleted, l.key, v.prev, v.deleted)
		}
		return nil
	})
	if err == nil && want != c.newest+1 {
		return fmt.Errorf("the log ends before %d, the newest is %d", want, c.newest)
	}
	return err
}

// expiries checks that what ends is exactly what is noted to end.
func (c *checker) expiries() error {
	err := c.each(spaceExpiry, func(k, key []byte) error {
		at, rev := int64(binary.BigEndian.Uint64(k[1:])), store.Revision(binary.BigEndian.Uint64(k[9:]))
		if c.expires[rev] != at {
			return fmt.Errorf("the end of %s at revision %d is noted as %d, the record says %d", key, rev, at, c.expires[rev])
		}
		delete(c.expires, rev)
		return nil
	})
	if err == nil && len(c.expires) > 0 {
		return fmt.Errorf("of %d records it is not noted that they end", len(c.expires))
	}
	return err
}
