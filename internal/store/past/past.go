// Package past decides which versions of a key a history keeps. The engines
// that have one share it.
package past

import (
	"cmp"
	"slices"
	"strings"

	"proa/internal/store"
)

// An Entry is a kept version, as far as the decision goes.
type Entry struct {
	Revision store.Revision
	Until    store.Revision // the change that ended it
	Size     int64          // what it counts in [store.Keeping].Bytes
	Light    bool
}

// Trim says which of a key's entries, in ascending order, are too many. It
// changes list, of which kept is a part.
func Trim(list []Entry, k *store.Keeping) (kept, gone []Entry) {
	full, light := 0, 0
	from := len(list) // where what is kept begins
	for i := len(list) - 1; i >= 0; i-- {
		e := list[i]
		switch {
		case full > k.Full: // all that is older goes with it
			gone = append(gone, e)
			continue
		case e.Light:
			light++
		default:
			full++
		}
		if e.Light && light > k.Light || full > k.Full {
			gone = append(gone, e)
			continue
		}
		from--
		list[from] = e
	}
	return list[from:], gone
}

// Ascending returns versions in the order in which they were made, key by key.
func Ascending(versions []store.Version) []store.Version {
	return slices.SortedFunc(slices.Values(versions), func(a, b store.Version) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), cmp.Compare(a.Revision, b.Revision))
	})
}
