package lsm

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
)

// Compact is store.Engine's. Its cost goes by the number of changes between the
// old horizon and the new one.
func (e *Engine) Compact(ctx context.Context, rev store.Revision) error {
	e.compactMu.Lock()
	defer e.compactMu.Unlock()
	return e.use(func(s *session) error {
		switch {
		case rev > e.newest.Load():
			return store.ErrFuture
		case rev <= e.horizon.Load():
			return nil
		case s.guard.tripped() != nil:
			return s.poisoned()
		}
		return s.compact(ctx, rev)
	})
}

// Bounds of one batch of a compaction.
const (
	compactEntries = 4096      // log entries
	compactBytes   = 512 << 10 // of versions that move to the history; one may be larger
)

// compact deletes, for every change up to rev, the version that it replaced and
// the change itself; a deletion's own version too. What the history keeps it moves
// there, in the same batch.
func (s *session) compact(ctx context.Context, rev store.Revision) error {
	s.e.horizon.Store(rev) // readers look at it after they have fixed their view
	for done, err := s.meta(metaHorizon); done < rev; {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		upTo, err := s.compactChunk(done, min(done+compactEntries, rev))
		if err != nil {
			return fmt.Errorf("store: compact from revision %d to %d: %w", done, upTo, err)
		}
		done = upTo
		if err := s.fitPast(); err != nil {
			return fmt.Errorf("store: shorten the history: %w", err)
		}
	}
	return nil
}

// compactChunk compacts from one revision up to another, or less if that would
// be too much for a batch, and returns how far it came.
func (s *session) compactChunk(after, upTo store.Revision) (store.Revision, error) {
	lo, hi := appendLogKey(nil, after+1), appendLogKey(nil, upTo+1)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return upTo, err
	}
	b := s.db.NewBatch()
	m := s.mover(b)
	var key []byte
	for ok := it.First(); ok; ok = it.Next() {
		l, err := decodeLogEntry(it.Key(), it.Value())
		if err == nil {
			err = m.move(&l)
		}
		if err != nil {
			it.Close()
			return upTo, err
		}
		if l.prev != store.Absent {
			key = appendVersionKey(key[:0], l.key, l.prev)
			_ = b.Delete(key, nil) // fails only for an indexed batch
		}
		if l.deleted {
			key = appendVersionKey(key[:0], l.key, l.rev)
			_ = b.Delete(key, nil)
		}
		if m.pending >= compactBytes {
			upTo = l.rev
			hi = appendLogKey(nil, upTo+1)
			break
		}
	}
	if err := it.Close(); err != nil {
		return upTo, err
	}
	_ = b.DeleteRange(lo, hi, nil)
	_ = b.Set(metaHorizon, appendRevision(nil, upTo), nil)
	return upTo, m.finish()
}

// applyLoosely writes a batch without waiting for its sync: what of it a crash
// loses is done again.
func (s *session) applyLoosely(b *pebble.Batch) (err error) {
	applied := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil { // closed meanwhile, after a failure
				applied <- fmt.Errorf("panic: %v", p)
			}
		}()
		applied <- s.db.Apply(b, pebble.NoSync)
	}()
	select {
	case err = <-applied:
	case <-s.guard.trippedC: // it may wait for room that no flush will ever make
	}
	if s.guard.tripped() != nil {
		return s.poisoned()
	}
	if err != nil {
		return err
	}
	return b.Close()
}

// Advance is store.Advancer's.
func (e *Engine) Advance(ctx context.Context, to store.Revision) error {
	if to <= 0 {
		return &store.InvalidError{Reason: "cannot advance to a revision that is not positive"}
	}
	e.compactMu.Lock()
	defer e.compactMu.Unlock()
	r := &request{advance: to, done: make(chan struct{})}
	if err := e.submit(ctx, r); err != nil {
		return err
	}
	return r.err
}

// advance is the committer's part of Advance.
func (s *session) advance(to store.Revision) (store.Revision, error) {
	newest := s.e.newest.Load()
	if to < newest {
		return 0, fmt.Errorf("store: cannot advance from revision %d back to %d", newest, to)
	}
	if err := s.compact(context.Background(), newest); err != nil {
		return 0, err
	}
	b := s.db.NewBatch()
	_ = b.Set(metaNewest, appendRevision(nil, to), nil)
	_ = b.Set(metaHorizon, appendRevision(nil, to), nil)
	if err := s.apply(b); err != nil {
		s.guard.trip(err)
		return 0, s.poisoned()
	}
	s.publish.Lock()
	defer s.publish.Unlock()
	if s.guard.tripped() != nil {
		return 0, s.poisoned()
	}
	s.e.newest.Store(to)
	s.e.horizon.Store(to)
	s.e.feed.Skip(to)
	return to, nil
}
