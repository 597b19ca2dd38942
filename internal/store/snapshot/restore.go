package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"proa/internal/store"
)

// mark is the key of the record that says that a restore is not finished. It lies
// outside of the keys of objects, and no server starts while it is there.
const mark = "!restore"

// Ahead is how far a restore jumps beyond the newest revision that it knows of,
// and besides for every second since the snapshot: the cluster may have gone on
// after it, and no store gives out so many.
const (
	Ahead          = 1_000_000_000
	AheadPerSecond = 100_000
)

// writers is how many writes a restore has under way.
const writers = 64

// An UnfinishedError says that a store holds a part of a restore.
type UnfinishedError struct{ From string }

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("the store holds a part of a restore of %s that was not finished: run 'proa snapshot restore' again", e.From)
}

// A NotEmptyError says that a store that was to be filled is not empty.
type NotEmptyError struct{ Key string }

func (e *NotEmptyError) Error() string {
	return fmt.Sprintf("the store is not empty: it holds %s and perhaps more; --replace deletes all that first", e.Key)
}

// Finished returns an *UnfinishedError if a restore into the engine was begun and
// did not end.
func Finished(ctx context.Context, e store.Engine) error {
	r, _, err := e.Get(ctx, mark)
	if err == nil && r != nil {
		err = &UnfinishedError{string(r.Value)}
	}
	return err
}

// A Restore puts a snapshot into an engine that no server uses.
type Restore struct {
	Engine  store.Engine
	Name    string                        // of the snapshot, for messages
	Open    func() (io.ReadCloser, error) // the snapshot, from its beginning
	Replace bool                          // delete what is in the engine first
	Above   store.Revision                // a revision that was given out: all will be above it
	Forget  bool                          // leave the history out, and what the engine has of one as it is
	Now     func() time.Time              // time.Now if nil
	Say     func(done, of int64)          // how far it is; may be nil
}

// Run checks the whole snapshot first and then writes it. Every record gets a
// revision above all that the cluster ever gave out, so that whoever watched it
// lists anew. A history in the snapshot takes the place of the engine's: earlier states
// keep their revisions, and the present ones remember theirs (store.Version.Was). A
// Run that was cut off can be run again.
func (r *Restore) Run(ctx context.Context) (*Summary, error) {
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	s, err := r.read(Visitor{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Name, err)
	}
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	to := max(s.Revision, r.Above, r.Engine.Revision()) + Ahead
	if since := now().Sub(s.Time); since > 0 {
		to += int64(since/time.Second) * AheadPerSecond
	}
	a, ok := r.Engine.(store.Advancer)
	if !ok {
		return nil, errors.New("this store cannot jump over revisions, and so nothing can be restored into it")
	}
	if err := a.Advance(ctx, to); err != nil {
		return nil, err
	}
	past := s.History != nil && !r.Forget
	if past {
		if err := r.adopt(ctx); err != nil {
			return nil, fmt.Errorf("the history: %w", err)
		}
	}
	if err := r.write(ctx, s, past, now()); err != nil {
		return nil, err
	}
	if _, err := r.Engine.Write(ctx, store.Op{Key: mark, Delete: true, Expect: store.Any, User: user, Weight: store.Passing}); err != nil {
		return nil, err
	}
	return s, r.Engine.Compact(ctx, r.Engine.Revision())
}

// user makes the marks of a restore.
const user = "system:restore"

func (r *Restore) read(visit Visitor) (*Summary, error) {
	f, err := r.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(f, visit)
}

// begin marks the engine and empties it.
func (r *Restore) begin(ctx context.Context) error {
	again := false
	switch err := Finished(ctx, r.Engine); {
	case errors.As(err, new(*UnfinishedError)):
		again = true
	case err != nil:
		return err
	}
	if !again && !r.Replace {
		records, _, err := r.Engine.Range(ctx, "", "", 0, 1)
		if err != nil {
			return err
		}
		for rec, err := range records {
			if err != nil {
				return err
			}
			return &NotEmptyError{rec.Key}
		}
	}
	if _, err := r.Engine.Write(ctx, store.Op{Key: mark, Value: []byte(r.Name), Expect: store.Any, User: user, Weight: store.Passing}); err != nil {
		return err
	}
	records, _, err := r.Engine.Range(ctx, "/", "", 0, 0)
	if err != nil {
		return err
	}
	ops := func(yield func(store.Op) bool) error {
		for rec, err := range records {
			if err != nil {
				return err
			}
			if !yield(store.Op{Key: rec.Key, Delete: true, Expect: rec.Revision, User: user}) {
				return nil
			}
		}
		return nil
	}
	return r.all(ctx, ops, nil)
}

// adoptBytes is how much history is handed over at a time, if the last key has no more.
const adoptBytes = 1 << 20

// adopt puts the snapshot's history in the place of the engine's.
func (r *Restore) adopt(ctx context.Context) error {
	h, ok := r.Engine.(store.Historian)
	if !ok {
		return nil
	}
	if err := h.Forget(ctx, ""); err != nil {
		return err
	}
	var some []store.Version
	bytes := 0
	_, err := r.read(Visitor{Version: func(v store.Version) error {
		if v.Until == 0 {
			return nil
		}
		if bytes > adoptBytes && some[len(some)-1].Key != v.Key {
			if err := h.Adopt(ctx, some); err != nil {
				return err
			}
			some, bytes = some[:0:0], 0
		}
		some = append(some, v)
		bytes += len(v.Value) + 200
		return nil
	}})
	if err != nil {
		return err
	}
	return h.Adopt(ctx, some)
}

// presents yields what the history says of present states, in the order of keys.
func (r *Restore) presents() iter.Seq2[store.Version, error] {
	return func(yield func(store.Version, error) bool) {
		_, err := r.read(Visitor{Version: func(v store.Version) error {
			if v.Until == 0 && !yield(v, nil) {
				return errStopped
			}
			return nil
		}})
		if err != nil && !errors.Is(err, errStopped) {
			yield(store.Version{}, err)
		}
	}
}

// write makes every record of the snapshot anew. past says that they are to go on
// with a history.
func (r *Restore) write(ctx context.Context, s *Summary, past bool, now time.Time) error {
	ops := func(yield func(store.Op) bool) error {
		next, stop := iter.Pull2(r.presents())
		defer stop()
		var present store.Version
		_, err := r.read(Visitor{Record: func(rec store.Record) error {
			op := store.Op{Key: rec.Key, Value: rec.Value, User: rec.User, Codec: rec.Codec, Expect: store.Absent}
			if past {
				op.Origin = &store.Origin{Revision: rec.Revision, Time: rec.Time}
				for more := true; more && present.Key < rec.Key; {
					var err error
					if present, err, more = next(); err != nil {
						return err
					}
					if !more {
						present.Key = "\xff" // behind all keys
					}
				}
				if present.Key == rec.Key && present.Revision == rec.Revision {
					op.Origin.Prev, op.Weight = present.Prev, present.Weight
				}
			}
			if !rec.Expires.IsZero() {
				if op.TTL = rec.Expires.Sub(now); op.TTL <= 0 {
					return nil // it would be gone
				}
			}
			if !yield(op) {
				return errStopped
			}
			return nil
		}})
		if errors.Is(err, errStopped) {
			return nil
		}
		return err
	}
	return r.all(ctx, ops, func(done int64) {
		if r.Say != nil {
			r.Say(done, s.Objects)
		}
	})
}

var errStopped = errors.New("stopped")

// all makes writes, many at a time, until the first one fails.
func (r *Restore) all(ctx context.Context, ops func(func(store.Op) bool) error, say func(int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan store.Op)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := int64(0)
	for range writers {
		wg.Go(func() {
			for op := range queue {
				if _, err := r.Engine.Write(ctx, op); err != nil {
					cancel(fmt.Errorf("write %s: %w", op.Key, err))
					continue
				}
				mu.Lock()
				if done++; say != nil {
					say(done)
				}
				mu.Unlock()
			}
		})
	}
	err := ops(func(op store.Op) bool {
		select {
		case queue <- op:
			return true
		case <-ctx.Done():
			return false
		}
	})
	close(queue)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
