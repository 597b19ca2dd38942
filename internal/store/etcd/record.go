package etcd

import (
	"encoding/binary"
	"errors"
	"time"

	"proa/internal/store"
	"proa/internal/store/seal"
)

// What etcd keeps as a value: see docs/formats/etcd.md. A record carries who
// wrote it and when, and the mark of the write, by which a writer recognizes its
// own change. A tombstone is the same without a value.
const (
	recordFormat = 1
	flagExpires  = 1 << 0
	flagDeleted  = 1 << 1
	flagPrev     = 1 << 4
	flagWas      = 1 << 5

	weightShift = 2 // in the flags: two bits
	weightMask  = 3
)

var errFormat = errors.New("the record has an unknown format: was it written by another program?")

// A mark names one write: the engine that made it, and its number there.
type mark struct {
	session uint64
	seq     uint64
}

// A stored is a decoded value.
type stored struct {
	mark    mark
	time    time.Time
	user    string
	codec   uint16
	expires int64 // unix nanoseconds; 0: never
	weight  store.Weight
	linked  bool           // prev is known
	prev    store.Revision // the change that this one followed
	was     store.Revision // of a restored state: the revision that it had; 0 of others
	value   []byte         // shares memory with what was decoded
}

// flags says what of it is there.
func (s *stored) flags() byte {
	flags := byte(s.weight) << weightShift
	if s.expires != 0 {
		flags |= flagExpires
	}
	if s.linked {
		flags |= flagPrev
	}
	if s.was != 0 {
		flags |= flagWas
	}
	return flags
}

// weightIn is the weight of a record that is not decoded, and whether it says which
// change it followed.
func weightIn(b []byte) (w store.Weight, linked bool) {
	if len(b) < seal.Size {
		return store.Full, false
	}
	return store.Weight(b[1] >> weightShift & weightMask), b[1]&flagPrev != 0
}

// encode makes a value for a key of a record, which the checksum covers.
func (s *stored) encode(key []byte, deleted bool) []byte {
	flags := s.flags()
	if deleted {
		flags |= flagDeleted
	}
	b := make([]byte, 0, seal.Size+8+7*binary.MaxVarintLen64+len(s.user)+len(s.value))
	b = append(b, recordFormat, flags, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, s.mark.session)
	b = binary.AppendUvarint(b, s.mark.seq)
	b = binary.AppendVarint(b, s.time.UnixNano())
	b = binary.AppendUvarint(b, uint64(s.codec))
	if s.expires != 0 {
		b = binary.AppendVarint(b, s.expires)
	}
	if s.linked {
		b = binary.AppendUvarint(b, uint64(s.prev))
	}
	if s.was != 0 {
		b = binary.AppendUvarint(b, uint64(s.was))
	}
	b = binary.AppendUvarint(b, uint64(len(s.user)))
	b = append(b, s.user...)
	b = append(b, s.value...)
	seal.Put(key, b)
	return b
}

// A decoder reads values and keeps one copy of what many of them share.
type decoder struct{ user string }

func (d *decoder) decode(key, b []byte) (stored, error) {
	switch {
	case len(b) < seal.Size:
		return stored{}, seal.ErrTruncated
	case b[0] != recordFormat:
		return stored{}, errFormat
	case !seal.Intact(key, b):
		return stored{}, seal.ErrChecksum
	}
	f := seal.Fields{Rest: b[seal.Size:]}
	s := stored{}
	s.weight, _ = weightIn(b)
	if session := f.Bytes(8); !f.Bad {
		s.mark.session = binary.BigEndian.Uint64(session)
	}
	s.mark.seq = f.Uvarint()
	s.time = time.Unix(0, f.Varint()).UTC()
	s.codec = uint16(f.Uvarint())
	if b[1]&flagExpires != 0 {
		s.expires = f.Varint()
	}
	if s.linked = b[1]&flagPrev != 0; s.linked {
		s.prev = store.Revision(f.Uvarint())
	}
	if b[1]&flagWas != 0 {
		s.was = store.Revision(f.Uvarint())
	}
	user := f.Bytes(f.Uvarint())
	if f.Bad {
		return stored{}, seal.ErrTruncated
	}
	if d.user != string(user) {
		d.user = string(user)
	}
	s.user = d.user
	if len(f.Rest) > 0 {
		s.value = f.Rest[:len(f.Rest):len(f.Rest)]
	}
	return s, nil
}

// record is the record that a value of a key is.
func (s *stored) record(key string, rev, created store.Revision) store.Record {
	r := store.Record{Key: key, Value: s.value, Revision: rev, Created: created, Time: s.time, User: s.user, Codec: s.codec}
	if s.expires != 0 {
		r.Expires = time.Unix(0, s.expires).UTC()
	}
	return r
}
