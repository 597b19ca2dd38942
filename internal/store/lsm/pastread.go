package lsm

import (
	"context"
	"errors"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
	"proa/internal/store/past"
)

// pastCount is how many versions a reader of history takes at a time, unless
// they are large (chunkBytes).
const pastCount = 64

// History is store.Historian's.
func (e *Engine) History(ctx context.Context, key string) (iter.Seq2[store.Version, error], error) {
	if !e.opts.History.Keeps(key) {
		return nil, store.ErrNoHistory
	}
	r := pastReader{e: e, key: key}
	err := e.use(func(*session) error {
		r.below = e.newest.Load() + 1
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return func(yield func(store.Version, error) bool) {
		r := r // each reading begins anew
		for more := true; more; {
			err := ctx.Err()
			if err == nil {
				more, err = r.read()
			}
			if err != nil {
				yield(store.Version{}, err)
				return
			}
			for i := range r.out {
				if !yield(r.out[i].Version, r.out[i].err) {
					return
				}
			}
		}
	}, nil
}

// A pastReader reads the versions of a key piece by piece, newest first: in each
// piece from a snapshot, in which a version is in one of the two spaces only.
type pastReader struct {
	e     *Engine
	key   string
	below store.Revision // where the next piece begins
	newer store.Revision // the version before, if it was not one of the history
	dec   decoder
	out   []readPast
	bytes int
}

type readPast struct {
	store.Version
	err error
}

// read fills out; it returns whether there may be more.
func (r *pastReader) read() (more bool, err error) {
	r.out, r.bytes = r.out[:0:0], 0
	err = r.e.use(func(s *session) error {
		snap := s.db.NewSnapshot()
		defer snap.Close()
		present, err := newPastIter(snap, r.key, r.below, appendVersionKey)
		if err != nil {
			return err
		}
		defer present.Close()
		kept, err := newPastIter(snap, r.key, r.below, appendPastKey)
		if err != nil {
			return err
		}
		defer kept.Close()
		r.merge(present, kept)
		more = present.Valid() || kept.Valid()
		if err := present.Error(); err != nil {
			return damaged(r.key, 0, err)
		}
		if err := kept.Error(); err != nil {
			return damaged(r.key, 0, err)
		}
		return nil
	})
	return more, err
}

// newPastIter stands on the newest version of key below a revision, in the space
// whose keys at makes.
func newPastIter(r pebble.Reader, key string, below store.Revision, at func([]byte, string, store.Revision) []byte) (*pebble.Iterator, error) {
	lo := at(nil, key, below-1)
	hi := append(at(nil, key, 0), 0)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err == nil {
		it.First()
	}
	return it, err
}

// merge takes versions from both until it has enough.
func (r *pastReader) merge(present, kept *pebble.Iterator) {
	for len(r.out) < pastCount && r.bytes < chunkBytes {
		it := present
		if !present.Valid() || kept.Valid() && revisionOf(kept) > revisionOf(present) {
			it = kept
		}
		if !it.Valid() {
			return
		}
		r.below = revisionOf(it)
		r.add(it, it == kept)
		it.Next()
	}
}

func (r *pastReader) add(it *pebble.Iterator, kept bool) {
	rec, err := it.ValueAndErr()
	if err != nil {
		err = damaged(r.key, r.below, err)
	}
	var v version
	if err == nil {
		v, err = r.dec.record(it.Key(), rec)
	}
	if err != nil {
		r.out, r.newer = append(r.out, readPast{err: err}), r.below
		return
	}
	if !kept {
		v.until, r.newer = r.newer, r.below
		if v.deleted {
			v.until = v.Revision
		}
	}
	if v.deleted {
		v.Codec = 0 // it is about what there was
	}
	if v.was != 0 {
		v.prev = v.before
	}
	r.bytes += len(v.Value)
	r.out = append(r.out, readPast{Version: store.Version{
		Record: v.Record, Deleted: v.deleted, Weight: v.weight, Prev: v.prev, Until: v.until, Was: v.was}})
}

func revisionOf(it *pebble.Iterator) store.Revision {
	_, rev, _ := parseVersionKey(it.Key())
	return rev
}

// Past is store.Historian's.
func (e *Engine) Past(ctx context.Context, at store.Revision) (iter.Seq2[store.Version, error], error) {
	if e.opts.History.Keep == nil {
		return nil, store.ErrNoHistory
	}
	if err := e.use(func(*session) error { return ctx.Err() }); err != nil {
		return nil, err
	}
	return func(yield func(store.Version, error) bool) {
		w := past.View{Keeping: &e.opts.History, At: at}
		last := ""
		for {
			keys, err := e.pastKeys(last)
			if err != nil {
				yield(store.Version{}, err)
				return
			}
			if len(keys) == 0 {
				return
			}
			last = keys[len(keys)-1]
			for _, key := range keys {
				if e.opts.History.Keeps(key) && !e.pastOf(ctx, key, &w, yield) {
					return
				}
			}
		}
	}, nil
}

// pastOf yields what Past does of one key; false if nothing more is wanted.
func (e *Engine) pastOf(ctx context.Context, key string, w *past.View, yield func(store.Version, error) bool) bool {
	versions, err := e.History(ctx, key)
	if err != nil {
		yield(store.Version{}, err)
		return false
	}
	for v, err := range versions {
		if (err != nil || w.Take(&v)) && !yield(v, err) {
			return false
		}
		if err != nil && !errors.As(err, new(*store.CorruptError)) {
			return false
		}
	}
	return true
}

// pastKeys returns the next keys after one that have versions, now or in the history.
func (e *Engine) pastKeys(after string) (keys []string, err error) {
	const most = 256
	err = e.use(func(s *session) error {
		present, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceVersion}, UpperBound: []byte{spaceVersion + 1}})
		if err != nil {
			return err
		}
		defer present.Close()
		kept, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceIndex}, UpperBound: []byte{spaceIndex + 1}})
		if err != nil {
			return err
		}
		defer kept.Close()
		for len(keys) < most {
			next, found := "", false
			if present.SeekGE(bound(after + "\x00")) { // behind all its versions
				key, _, ok := parseVersionKey(present.Key())
				if !ok {
					return &store.CorruptError{Key: string(present.Key()), Err: errFormat}
				}
				next, found = string(key), true
			}
			if kept.SeekGE(append(appendIndexKey(nil, after), 0)) {
				if key := string(kept.Key()[1:]); !found || key < next {
					next, found = key, true
				}
			}
			if !found {
				break
			}
			keys, after = append(keys, next), next
		}
		return errors.Join(present.Error(), kept.Error())
	})
	return keys, err
}

// Forget is store.Historian's.
func (e *Engine) Forget(ctx context.Context, prefix string) error {
	const keys = 256
	return e.changePast(ctx, func(s *session) (bool, error) { return s.forget(prefix, keys) })
}

// Adopt is store.Historian's.
func (e *Engine) Adopt(ctx context.Context, versions []store.Version) error {
	versions = past.Ascending(versions)
	return e.changePast(ctx, func(s *session) (more bool, err error) {
		if len(versions) == 0 {
			return false, s.fitPast()
		}
		n, err := s.adopt(versions)
		versions = versions[n:]
		return true, err
	})
}

// changePast changes the history step by step, while no compaction does.
func (e *Engine) changePast(ctx context.Context, step func(*session) (more bool, err error)) error {
	e.compactMu.Lock()
	defer e.compactMu.Unlock()
	return e.use(func(s *session) error {
		for more := true; more; {
			if s.guard.tripped() != nil {
				return s.poisoned()
			}
			err := ctx.Err()
			if err == nil {
				more, err = step(s)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
