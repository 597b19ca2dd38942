// Package store is the contract between the API server and what keeps its
// data. An [Engine] holds records under string keys and gives every change a
// revision; revisions, watch events and acknowledgements have one order. The
// engines live in the folders below, and storetest holds the suite that each
// of them passes.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// A Revision numbers the changes of an engine, from 1, in the order in which
// they were acknowledged. It never goes back, not even over a restore (see
// [Advancer]), and a number is never given to two changes that anybody saw.
type Revision = int64

// Revisions with a meaning of their own, for [Op.Expect].
const (
	Absent Revision = 0  // the key must not exist
	Any    Revision = -1 // whatever is there
)

// MaxKey and MaxValue bound an Op, in bytes. They are far above what the API
// server lets through; an engine need not cope with more.
const (
	MaxKey   = 4 << 10
	MaxValue = 16 << 20
)

// An Op is one write.
type Op struct {
	Key    string        // not empty, without NUL bytes, at most MaxKey long
	Value  []byte        // ignored if Delete; not changed by the caller afterwards
	Delete bool          // remove the key instead
	Expect Revision      // the revision the key's record must have now, or Absent, or Any
	User   string        // who asked; kept in the record, at most MaxKey long
	Codec  uint16        // generation of the codec that made Value
	TTL    time.Duration // if positive, the engine deletes the record once it is that old
	Weight Weight        // what the change is worth to history (see [Historian])
	Origin *Origin       // of a restore: what the state was before; nil otherwise
}

// An Origin says of a state that a restore makes anew which one it is. The record
// gets its time, and history goes on from there (see [Version.Was]).
type Origin struct {
	Revision Revision  // that it had
	Prev     Revision  // the change that it followed; Absent if it made the key
	Time     time.Time // of the change; zero: now
}

// A Record is one key's state.
type Record struct {
	Key      string
	Value    []byte   // shared; never changed by a reader
	Revision Revision // of the change that made this state
	Created  Revision // of the change that made the key
	Time     time.Time
	User     string
	Codec    uint16
	Expires  time.Time // when the engine deletes it; zero if never. A deletion has none
}

// An Event is one change. Deleted events carry the last value and its codec,
// with the revision, time and user of the deletion; an expiry has the user
// [Expired].
type Event struct {
	Record
	Deleted bool
	Prev    Revision // the record's revision before this change, Absent if it is new
}

// Expired is the User of the deletions that the engine makes because a record's
// TTL has passed.
const Expired = "system:expired"

// An Engine keeps records. All methods are safe for concurrent use. A context
// that ends stops the wait, not necessarily the write.
type Engine interface {
	// Write makes one change and returns its revision once the change is
	// durable and visible to reads. Concurrent writes share one sync. If the key
	// is not as op.Expect says the error is a *ConflictError; deleting an absent
	// key with Expect Any is a ConflictError too. After an I/O error that leaves
	// durability in doubt every write fails with ErrPoisoned (a write that was
	// under way then may have been made: nobody knows before the reopening); when
	// the disk is nearly full with ErrReadOnly, deletions a little later than the
	// rest. An Op that no engine can take is an *InvalidError.
	Write(ctx context.Context, op Op) (Revision, error)

	// Get returns the newest record of key, or nil, and the newest revision.
	Get(ctx context.Context, key string) (*Record, Revision, error)

	// Range yields the records with from <= key < to in key order as they were
	// at revision at (0: now), at most limit if positive. The revision it
	// returns is that of the state it shows. An empty to means no upper bound.
	// ErrCompacted if at is below the horizon, ErrFuture if it is above the
	// newest. The sequence reads as it goes and holds no lock while the caller
	// works: it ends with ErrCompacted if the horizon overtakes it, and with a
	// *CorruptError that names the key if a record is damaged.
	Range(ctx context.Context, from, to string, at Revision, limit int) (iter.Seq2[Record, error], Revision, error)

	// Watch yields every change with a revision above after to keys with the
	// given prefix, in order, in batches (the changes of one group commit
	// travel together), until ctx ends. A batch with no events is a progress
	// note: everything up to Batch.Revision has been delivered.
	// ErrCompacted if after is below the horizon, also in mid-course when a
	// reader is too slow; ErrFuture if it is above the newest. The sequence ends
	// without an error when ctx does, and with ErrClosed when the engine does.
	Watch(ctx context.Context, prefix string, after Revision) (iter.Seq2[Batch, error], error)

	// Compact moves the horizon: states before rev need not be kept. A rev below
	// the horizon does nothing; above the newest it is ErrFuture.
	Compact(ctx context.Context, rev Revision) error

	// Revision is the newest revision; Horizon the oldest that Range and Watch
	// still answer for.
	Revision() Revision
	Horizon() Revision

	// Close ends the watches, lets the writes under way finish and frees the
	// data for another process. What is called afterwards fails with ErrClosed.
	Close() error
}

// An Advancer can jump: the newest revision and the horizon become to, and the
// jump is durable when Advance returns. A restore calls it with a revision above
// all that its cluster ever gave out, so that every watcher from before lists
// anew instead of travelling in time. A to below the newest is an error.
type Advancer interface {
	Advance(ctx context.Context, to Revision) error
}

// A Reopener is an engine that can be taken into use again, in place, after an
// I/O error poisoned it. Failed is closed as soon as that happens (the channel is
// a new one after a Reopen), and Err then says why. Reopen reads everything
// back from the disk: the writes that were under way are there or they are not,
// and the watches go on over it without a gap.
type Reopener interface {
	Failed() <-chan struct{}
	Err() error
	Reopen(ctx context.Context) error
}

// A Batch is what one Watch step delivers.
type Batch struct {
	Events   []Event
	Revision Revision // everything up to here has been delivered
}

// Errors of engines.
var (
	ErrCompacted = errors.New("the requested revision has been compacted")
	ErrFuture    = errors.New("the requested revision is newer than the store")
	ErrPoisoned  = errors.New("the store failed to write to its disk and acknowledges nothing more until it is reopened")
	ErrReadOnly  = errors.New("the disk is nearly full: the store is read-only")
	ErrClosed    = errors.New("the store is closed")

	// ErrUnavailable is of an engine whose data is elsewhere: nothing was done.
	ErrUnavailable = errors.New("the store cannot be reached")

	// ErrUnknown says that a write was sent, and nobody knows whether it was made
	// or will be.
	ErrUnknown = errors.New("the store did not answer: whether this write was made is not known")
)

// A ConflictError says that a key was not as a write expected.
type ConflictError struct {
	Key     string
	Expect  Revision
	Current *Record // nil if the key does not exist
}

func (e *ConflictError) Error() string {
	now := Absent
	if e.Current != nil {
		now = e.Current.Revision
	}
	return fmt.Sprintf("%s is at revision %d, not at %d", e.Key, now, e.Expect)
}

// An InvalidError says what is wrong with an Op.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return "store: " + e.Reason }

// Check returns an *InvalidError if no engine takes the op.
func (o *Op) Check() error {
	switch {
	case o.Key == "":
		return &InvalidError{"the key is empty"}
	case len(o.Key) > MaxKey:
		return &InvalidError{fmt.Sprintf("the key has %d bytes, more than %d", len(o.Key), MaxKey)}
	case strings.IndexByte(o.Key, 0) >= 0:
		return &InvalidError{fmt.Sprintf("the key %q holds a NUL byte", o.Key)}
	case len(o.User) > MaxKey:
		return &InvalidError{fmt.Sprintf("%s: the user name has %d bytes, more than %d", o.Key, len(o.User), MaxKey)}
	case !o.Delete && len(o.Value) > MaxValue:
		return &InvalidError{fmt.Sprintf("%s: the value has %d bytes, more than %d", o.Key, len(o.Value), MaxValue)}
	case o.Weight > Passing:
		return &InvalidError{fmt.Sprintf("%s: %d is no weight", o.Key, o.Weight)}
	case o.Origin != nil && (o.Delete || o.Origin.Revision <= 0 || o.Origin.Prev < 0 || o.Origin.Prev >= o.Origin.Revision):
		return &InvalidError{o.Key + ": it cannot have been what it says it was"}
	case o.Expect < Any:
		return &InvalidError{fmt.Sprintf("%s: %d is no revision to expect", o.Key, o.Expect)}
	case o.Delete && o.Expect == Absent:
		return &InvalidError{o.Key + ": a deletion cannot expect that there is nothing"}
	}
	return nil
}

// A HeldError says that another process has the data folder open.
type HeldError struct {
	Dir string
	PID int // 0 if the holder has not said
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("the data in %s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("the data in %s is in use by process %d", e.Dir, e.PID)
}

// A FullError says why a store takes no writes for lack of room, and what would
// help. Its kind is ErrReadOnly.
type FullError struct{ Reason string }

func (e *FullError) Error() string { return "the store is read-only: " + e.Reason }

func (e *FullError) Unwrap() error { return ErrReadOnly }

// A CorruptError says that what was read for a key is not what was written.
type CorruptError struct {
	Key      string   // "" if not even the first of a range can be told
	Revision Revision // 0 if not known
	Err      error
}

func (e *CorruptError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("the first record is damaged, or one after it: %v", e.Err)
	}
	return fmt.Sprintf("the record of %s at revision %d is damaged: %v", e.Key, e.Revision, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }
