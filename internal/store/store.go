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
	"time"
)

// A Revision numbers the changes of an engine, from 1, without gaps that a
// reader could notice. It never goes back, not even over a restore.
type Revision = int64

// Revisions with a meaning of their own, for [Op.Expect].
const (
	Absent Revision = 0  // the key must not exist
	Any    Revision = -1 // whatever is there
)

// An Op is one write.
type Op struct {
	Key    string
	Value  []byte        // ignored if Delete
	Delete bool          // remove the key instead
	Expect Revision      // the revision the key's record must have now, or Absent, or Any
	User   string        // who asked; kept in the record
	Codec  uint16        // generation of the codec that made Value
	TTL    time.Duration // if positive, the engine deletes the record once it is that old
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
}

// An Event is one change. Deleted events carry the last value, with the
// revision of the deletion.
type Event struct {
	Record
	Deleted bool
	Prev    Revision // the record's revision before this change, Absent if it is new
}

// An Engine keeps records. All methods are safe for concurrent use. A context
// that ends stops the wait, not necessarily the write.
type Engine interface {
	// Write makes one change and returns its revision once the change is
	// durable and visible to reads. Concurrent writes share one sync. If the key
	// is not as op.Expect says the error is a *ConflictError; deleting an absent
	// key with Expect Any is a ConflictError too. After an I/O error that leaves
	// durability in doubt every write fails with ErrPoisoned; when the disk is
	// nearly full with ErrReadOnly.
	Write(ctx context.Context, op Op) (Revision, error)

	// Get returns the newest record of key, or nil, and the newest revision.
	Get(ctx context.Context, key string) (*Record, Revision, error)

	// Range yields the records with from <= key < to in key order as they were
	// at revision at (0: now), at most limit if positive. The revision it
	// returns is that of the state it shows. ErrCompacted if at is below the
	// horizon, ErrFuture if it is above the newest.
	Range(ctx context.Context, from, to string, at Revision, limit int) (iter.Seq2[Record, error], Revision, error)

	// Watch yields every change with a revision above after to keys with the
	// given prefix, in order, in batches (the changes of one group commit
	// travel together), until ctx ends. A batch with no events is a progress
	// note: everything up to Batch.Revision has been delivered.
	// ErrCompacted if after is below the horizon, also in mid-course when a
	// reader is too slow.
	Watch(ctx context.Context, prefix string, after Revision) (iter.Seq2[Batch, error], error)

	// Compact moves the horizon: states before rev need not be kept.
	Compact(ctx context.Context, rev Revision) error

	// Revision is the newest revision; Horizon the oldest that Range and Watch
	// still answer for.
	Revision() Revision
	Horizon() Revision

	Close() error
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
