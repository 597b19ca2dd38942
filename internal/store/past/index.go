package past

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"proa/internal/store"
	"proa/internal/store/seal"
)

// An Index says which versions of a key are kept, so that its caps are kept
// without reading them.
type Index struct {
	Entries []Entry // ascending

	// Head is the key's state below the horizon that is still valid, if its record
	// does not say itself which change it followed; Before is that change. 0 if there
	// is no such state.
	Head, Before store.Revision
}

const (
	indexFormat = 1
	flagHead    = 1 << 0
)

var errFormat = errors.New("the index has an unknown format")

// Append encodes the index: the head, if there is one, and for each entry how far its
// revision is above the last one's, how far the one that ended it is above that,
// its size, and whether it is light. dbKey is the key that it is stored under,
// which the checksum covers.
func (x *Index) Append(dst, dbKey []byte) []byte {
	start := len(dst)
	dst = append(dst, indexFormat, 0, 0, 0, 0, 0)
	if x.Head != 0 {
		dst[start+1] = flagHead
		dst = binary.AppendUvarint(dst, uint64(x.Head))
		dst = binary.AppendUvarint(dst, uint64(x.Before))
	}
	last := store.Revision(0)
	for _, e := range x.Entries {
		dst = binary.AppendUvarint(dst, uint64(e.Revision-last))
		dst = binary.AppendUvarint(dst, uint64(e.Until-e.Revision))
		light := uint64(0)
		if e.Light {
			light = 1
		}
		dst = binary.AppendUvarint(dst, uint64(e.Size)<<1|light)
		last = e.Revision
	}
	seal.Put(dbKey, dst[start:])
	return dst
}

// ParseIndex decodes an index.
func ParseIndex(dbKey, rec []byte) (x Index, err error) {
	switch {
	case len(rec) < seal.Size:
		return x, seal.ErrTruncated
	case !seal.Intact(dbKey, rec):
		return x, seal.ErrChecksum
	case rec[0] != indexFormat || rec[1]&^flagHead != 0:
		return x, errFormat
	}
	p := seal.Fields{Rest: rec[seal.Size:]}
	if rec[1]&flagHead != 0 {
		x.Head, x.Before = store.Revision(p.Uvarint()), store.Revision(p.Uvarint())
	}
	last := store.Revision(0)
	for len(p.Rest) > 0 {
		e := Entry{Revision: last + store.Revision(p.Uvarint())}
		e.Until = e.Revision + store.Revision(p.Uvarint())
		size := p.Uvarint()
		if p.Bad {
			return Index{}, seal.ErrTruncated
		}
		e.Size, e.Light = int64(size>>1), size&1 != 0
		x.Entries, last = append(x.Entries, e), e.Revision
	}
	if p.Bad {
		return Index{}, seal.ErrTruncated
	}
	return x, nil
}

// Insert puts an entry where it belongs; false if one of its revision is there.
func (x *Index) Insert(e Entry) bool {
	i, there := slices.BinarySearchFunc(x.Entries, e.Revision, func(o Entry, r store.Revision) int { return cmp.Compare(o.Revision, r) })
	if !there {
		x.Entries = slices.Insert(x.Entries, i, e)
	}
	return !there
}

// Ends says whether an entry ended with a revision.
func (x *Index) Ends(until store.Revision) bool {
	return slices.ContainsFunc(x.Entries, func(e Entry) bool { return e.Until == until })
}
