package lsm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
	"proa/internal/store/planted"
)

const (
	expireRetry = 10 * time.Second
	chunkCount  = 512     // records that a range reads at a time
	chunkBytes  = 1 << 20 // or bytes of them
	logChunk    = 1024    // log entries that a watch reads at a time
)

// damaged makes of an error met at a key's record a *store.CorruptError, unless
// it is the disk's: what cannot be read now need not be damaged.
func damaged(key string, rev store.Revision, err error) error {
	if errors.As(err, new(syscall.Errno)) {
		return fmt.Errorf("store: read the record of %s at revision %d: %w", key, rev, err)
	}
	return &store.CorruptError{Key: key, Revision: rev, Err: err}
}

// newestVersion reads the version of key that is valid at a revision; ok is
// false if there is none, not even a deletion.
func (s *session) newestVersion(key string, at store.Revision) (v version, ok bool, err error) {
	k := appendVersionKey(make([]byte, 0, len(key)+10), key, at)
	it, err := s.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	if err != nil {
		return version{}, false, err
	}
	defer it.Close()
	if !it.SeekPrefixGE(k) {
		if err := it.Error(); err != nil {
			return version{}, false, damaged(key, 0, err)
		}
		return version{}, false, nil
	}
	rec, err := it.ValueAndErr()
	if err != nil {
		return version{}, false, damaged(key, 0, err)
	}
	var d decoder
	v, err = d.record(it.Key(), rec)
	return v, err == nil, err
}

// Get is store.Engine's.
func (e *Engine) Get(ctx context.Context, key string) (*store.Record, store.Revision, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	var out *store.Record
	at := store.Revision(0)
	err := e.use(func(s *session) error {
		at = e.newest.Load()
		if planted.Is("stale-read") {
			at = max(at-1, 0)
		}
		v, ok, err := s.newestVersion(key, at)
		if err == nil && ok && !v.deleted {
			out = &v.Record
		}
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return out, at, nil
}

// Range is store.Engine's.
func (e *Engine) Range(ctx context.Context, from, to string, at store.Revision, limit int) (iter.Seq2[store.Record, error], store.Revision, error) {
	err := e.use(func(*session) error {
		switch newest := e.newest.Load(); {
		case at == 0:
			at = newest
		case at < e.horizon.Load():
			return store.ErrCompacted
		case at > newest:
			return store.ErrFuture
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return func(yield func(store.Record, error) bool) {
		c := chunker{e: e, at: at, to: to, next: from, left: limit}
		for more := true; more; {
			err := ctx.Err()
			if err == nil {
				more, err = c.read()
			}
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			for i := range c.out {
				if !yield(c.out[i], nil) {
					return
				}
			}
		}
	}, at, nil
}

// A chunker reads a range piece by piece, so that a slow caller holds nothing
// of the database open.
type chunker struct {
	e        *Engine
	at       store.Revision
	next, to string
	left     int // 0: no limit
	dec      decoder
	out      []store.Record
}

// read fills out; it returns whether there may be more.
func (c *chunker) read() (more bool, err error) {
	c.out = make([]store.Record, 0, min(chunkCount, max(16, len(c.out)*4)))
	err = c.e.use(func(s *session) error {
		o := &pebble.IterOptions{LowerBound: bound(c.next), UpperBound: []byte{spaceVersion + 1}}
		if c.to != "" {
			o.UpperBound = bound(c.to)
			if planted.Is("bound-included") {
				o.UpperBound = append(o.UpperBound, 0, 255)
			}
		}
		it, err := s.db.NewIter(o)
		if err != nil {
			return err
		}
		defer it.Close()
		if c.at < c.e.horizon.Load() { // after the iterator has fixed what it sees
			return store.ErrCompacted
		}
		more, err = c.scan(it)
		return err
	})
	return more, err
}

func (c *chunker) scan(it *pebble.Iterator) (more bool, err error) {
	bytes := 0
	ok := it.First()
	for ok {
		key, rev, valid := parseVersionKey(it.Key())
		if !valid {
			return false, damaged(string(it.Key()), 0, errFormat)
		}
		if rev > c.at && !planted.Is("old-range-shows-newer") {
			ok = it.Next()
			continue
		}
		rec, err := it.ValueAndErr()
		if err != nil {
			return false, damaged(string(key), rev, err)
		}
		v, err := c.dec.record(it.Key(), rec)
		if err != nil {
			return false, err
		}
		if !v.deleted {
			c.out = append(c.out, v.Record)
			bytes += len(v.Value)
			if c.left > 0 {
				if c.left--; c.left == 0 && !planted.Is("limit-one-too-many") || c.left < 0 {
					return false, nil
				}
			}
			if len(c.out) == cap(c.out) || bytes >= chunkBytes {
				c.next = v.Key + "\x00"
				return true, nil
			}
		}
		ok = it.NextPrefix()
	}
	if err := it.Error(); err != nil {
		if last := c.lastKey(); last != "" {
			return false, damaged(last, 0, fmt.Errorf("at or after this key: %w", err))
		}
		return false, damaged("", 0, err)
	}
	return false, nil
}

func (c *chunker) lastKey() string {
	if n := len(c.out); n > 0 {
		return c.out[n-1].Key
	}
	return strings.TrimSuffix(c.next, "\x00")
}

// Watch is store.Engine's.
func (e *Engine) Watch(ctx context.Context, prefix string, after store.Revision) (iter.Seq2[store.Batch, error], error) {
	err := e.use(func(*session) error {
		switch {
		case after < e.horizon.Load() && !planted.Is("compacted-unsaid"):
			return store.ErrCompacted
		case after > e.newest.Load():
			return store.ErrFuture
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return e.feed.Watch(ctx, prefix, after), nil
}

// older reads changes from the log, for watchers that the feed cannot serve.
func (e *Engine) older(ctx context.Context, prefix string, after store.Revision) (b store.Batch, err error) {
	err = e.use(func(s *session) error {
		newest := e.newest.Load()
		snap := s.db.NewSnapshot()
		defer snap.Close()
		if after < e.horizon.Load() { // after the snapshot has fixed what it sees
			return store.ErrCompacted
		}
		b.Revision = min(newest, after+logChunk)
		it, err := snap.NewIter(&pebble.IterOptions{LowerBound: appendLogKey(nil, after+1), UpperBound: appendLogKey(nil, b.Revision+1)})
		if err != nil {
			return err
		}
		defer it.Close()
		var d decoder
		bytes := 0
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
			if strings.HasPrefix(l.key, prefix) {
				ev, err := loggedEvent(snap, &d, &l)
				if err != nil {
					return err
				}
				if planted.Is("watch-resumes-late") && l.rev == after+1 {
					continue
				}
				b.Events = append(b.Events, ev)
				if bytes += len(ev.Value); bytes >= chunkBytes {
					b.Revision = l.rev
					if planted.Is("progress-ahead") {
						b.Revision++
					}
					return ctx.Err()
				}
			}
		}
		if err := it.Error(); err != nil {
			return err
		}
		if want != b.Revision+1 {
			return damaged("(the log)", want, errMissing)
		}
		return ctx.Err()
	})
	return b, err
}

var errMissing = fmt.Errorf("the change is missing")

// loggedEvent puts an event together from the versions that it is about.
func loggedEvent(r pebble.Reader, d *decoder, l *logEntry) (store.Event, error) {
	v, err := readVersion(r, d, l.key, l.rev)
	if err != nil {
		return store.Event{}, err
	}
	if l.deleted {
		last, err := readVersion(r, d, l.key, l.prev)
		if err != nil {
			return store.Event{}, err
		}
		v.Value, v.Codec = last.Value, last.Codec
	}
	return store.Event{Record: v.Record, Deleted: l.deleted, Prev: l.prev}, nil
}

func readVersion(r pebble.Reader, d *decoder, key string, rev store.Revision) (version, error) {
	k := appendVersionKey(nil, key, rev)
	rec, c, err := r.Get(k)
	if err != nil {
		return version{}, damaged(key, rev, err)
	}
	v, err := d.record(k, rec)
	if bad := c.Close(); bad != nil { // Get says nothing of a value that could not be read
		return version{}, damaged(key, rev, bad)
	}
	return v, err
}
