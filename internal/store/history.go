package store

import (
	"context"
	"errors"
	"iter"
)

// A Weight says what a state is worth to history once another has followed it.
// The writer knows; the engine keeps it with the change.
type Weight uint8

// The weights.
const (
	Full    Weight = iota // kept, while there are not too many
	Light                 // of little consequence, such as a change of status: a few are kept
	Passing               // not kept: somebody else's writes make it, and would make it again
)

// A Version is one state that a key was in, or the mark of its deletion, which
// has no value: the revision, the time and the user are then the deletion's.
type Version struct {
	Record
	Deleted bool
	Weight  Weight
	Prev    Revision // the change that this one followed; Absent if the key was new
	Until   Revision // the change that ended this state: a deletion's own; 0 if it is the present one

	// Was is the revision that this state had before it was restored, the last time;
	// 0 if it was not. Prev, and the Until of the state before, are then of that time.
	Was Revision
}

// Keeping says which versions an engine keeps when they fall below its horizon.
// The zero value keeps none.
type Keeping struct {
	Keep  func(key string) bool // whose versions are kept; nil: nobody's
	Full  int                   // versions of one key that are kept, the newest
	Light int                   // and versions of light weight beside them
	Bytes int64                 // of all versions together, about; those that ended first go first
}

// Keeps says whether the versions of a key are kept.
func (k *Keeping) Keeps(key string) bool { return k.Keep != nil && k.Keep(key) }

// A Historian is an engine with a history: versions move there, instead of being
// deleted, when the horizon passes them, so that a write costs nothing more. If
// one of full weight is too many, all of its key that are older go with it: what
// is missing between two versions is always of light weight only.
type Historian interface {
	// History yields the versions of key, newest first: those above the horizon,
	// all of them, and those that were kept. It reads as it goes and holds no lock
	// while the caller works; what is compacted away meanwhile may be missing. A
	// damaged version is a *CorruptError in its place, after which the sequence
	// goes on. ErrNoHistory if the key is none whose versions are kept.
	History(ctx context.Context, key string) (iter.Seq2[Version, error], error)

	// Past yields what there is to be kept of all keys as it was at a revision (0: now),
	// in the order of keys and newest first: of each key the present state, if there is
	// one, whatever it weighs, and the versions that would be kept if the horizon were
	// there. Damage is as in History. ErrNoHistory if no versions are kept at all.
	Past(ctx context.Context, at Revision) (iter.Seq2[Version, error], error)

	// Adopt takes over versions of another engine's history, in any order, but all
	// of a key in one call. They have ended below the horizon, and what is kept here
	// already is of the same life: a revision means the same change. What is too much,
	// or not to be kept here, is left out, and what is there already stays.
	Adopt(ctx context.Context, versions []Version) error

	// Forget drops what was kept of all keys with the prefix. What is above the
	// horizon is not history yet, and stays.
	Forget(ctx context.Context, prefix string) error
}

// ErrNoHistory says that a Historian keeps no versions of a key.
var ErrNoHistory = errors.New("no history is kept of this key")
