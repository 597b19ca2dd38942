package lsm

import (
	"encoding/binary"
	"errors"
	"time"

	"proa/internal/store"
	"proa/internal/store/planted"
	"proa/internal/store/seal"
)

// A head is what a write must know of the state before it.
type head struct {
	rev     store.Revision // Absent if the key does not exist
	created store.Revision
	expires int64 // unix nanoseconds, 0 for never
	weight  store.Weight
}

// A version is a stored record.
type version struct {
	store.Record
	prev    store.Revision
	until   store.Revision // of versions in the history: the change that ended it
	was     store.Revision // of a restored state: the revision that it had; 0 of others
	before  store.Revision // and the one that it followed
	expires int64
	deleted bool
	weight  store.Weight
}

const (
	recordFormat = 1
	flagDeleted  = 1 << 0
	flagExpires  = 1 << 1
	flagUntil    = 1 << 4
	flagWas      = 1 << 5

	weightShift = 2 // in the flags: two bits
	weightMask  = 3
	prevShift   = 4 // in a log entry's flags: the weight of the version that it ended
)

var errFormat = errors.New("the record has an unknown format")

// recordBound is the most bytes that appendRecord adds for op.
func recordBound(op *store.Op) int {
	return seal.Size + 8*binary.MaxVarintLen64 + len(op.User) + len(op.Value)
}

// appendRecord encodes a version. dbKey is the key that it is stored under,
// which the checksum covers.
func appendRecord(dst, dbKey []byte, v *version) []byte {
	flags := byte(0)
	if v.deleted {
		flags |= flagDeleted
	}
	if v.expires != 0 {
		flags |= flagExpires
	}
	if v.until != 0 {
		flags |= flagUntil
	}
	if v.was != 0 {
		flags |= flagWas
	}
	flags |= byte(v.weight) << weightShift
	start := len(dst)
	dst = append(dst, recordFormat, flags, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(v.prev))
	dst = binary.AppendUvarint(dst, uint64(v.Created))
	dst = binary.AppendVarint(dst, v.Time.UnixNano())
	dst = binary.AppendUvarint(dst, uint64(v.Codec))
	if v.expires != 0 {
		dst = binary.AppendVarint(dst, v.expires)
	}
	if v.until != 0 {
		dst = binary.AppendUvarint(dst, uint64(v.until))
	}
	if v.was != 0 {
		dst = binary.AppendUvarint(dst, uint64(v.was))
		dst = binary.AppendUvarint(dst, uint64(v.before))
	}
	dst = binary.AppendUvarint(dst, uint64(len(v.User)))
	dst = append(dst, v.User...)
	if !v.deleted {
		dst = append(dst, v.Value...)
	}
	seal.Put(dbKey, dst[start:])
	return dst
}

// A decoder reads records and keeps one copy of what many of them share.
type decoder struct{ user string }

// record decodes a stored version, be it in the history. The strings and the
// value are copies.
func (d *decoder) record(dbKey, rec []byte) (version, error) {
	key, rev, ok := parseVersionKey(dbKey)
	if !ok {
		return version{}, &store.CorruptError{Key: string(dbKey), Err: errFormat}
	}
	v := version{Record: store.Record{Key: string(key), Revision: rev}}
	if err := d.fill(&v, dbKey, rec); err != nil {
		return version{}, &store.CorruptError{Key: v.Key, Revision: rev, Err: err}
	}
	return v, nil
}

func (d *decoder) fill(v *version, dbKey, rec []byte) error {
	if len(rec) < seal.Size {
		return seal.ErrTruncated
	}
	if !seal.Intact(dbKey, rec) && !planted.Is("checksum-ignored") {
		return seal.ErrChecksum
	}
	if rec[0] != recordFormat {
		return errFormat
	}
	flags := rec[1]
	p := seal.Fields{Rest: rec[seal.Size:]}
	v.deleted = flags&flagDeleted != 0
	v.prev = store.Revision(p.Uvarint())
	v.Created = store.Revision(p.Uvarint())
	v.Time = time.Unix(0, p.Varint()).UTC()
	v.Codec = uint16(p.Uvarint())
	if flags&flagExpires != 0 {
		v.expires = p.Varint()
		v.Expires = time.Unix(0, v.expires).UTC()
	}
	if flags&flagUntil != 0 {
		v.until = store.Revision(p.Uvarint())
	}
	if flags&flagWas != 0 {
		v.was, v.before = store.Revision(p.Uvarint()), store.Revision(p.Uvarint())
	}
	v.weight = store.Weight(flags >> weightShift & weightMask)
	user := p.Bytes(p.Uvarint())
	if planted.Is("user-lost") {
		user = nil
	}
	if p.Bad {
		return seal.ErrTruncated
	}
	if d.user != string(user) {
		d.user = string(user)
	}
	v.User = d.user
	if !v.deleted {
		v.Value = append(make([]byte, 0, len(p.Rest)), p.Rest...)
	}
	return nil
}

// A logEntry says what a revision changed.
type logEntry struct {
	rev     store.Revision
	prev    store.Revision
	deleted bool
	weight  store.Weight // of the change
	ended   store.Weight // of the version that it ended
	key     string
}

func appendLogEntry(dst, dbKey []byte, l *logEntry) []byte {
	start := len(dst)
	flags := byte(l.weight)<<weightShift | byte(l.ended)<<prevShift
	if l.deleted {
		flags |= flagDeleted
	}
	dst = append(dst, recordFormat, flags, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(l.prev))
	dst = append(dst, l.key...)
	seal.Put(dbKey, dst[start:])
	return dst
}

func decodeLogEntry(dbKey, rec []byte) (logEntry, error) {
	if len(dbKey) != 9 {
		return logEntry{}, &store.CorruptError{Key: string(dbKey), Err: errFormat}
	}
	l := logEntry{rev: store.Revision(binary.BigEndian.Uint64(dbKey[1:]))}
	bad := func(err error) (logEntry, error) {
		return logEntry{}, &store.CorruptError{Key: "(the log)", Revision: l.rev, Err: err}
	}
	if len(rec) < seal.Size {
		return bad(seal.ErrTruncated)
	}
	if !seal.Intact(dbKey, rec) {
		return bad(seal.ErrChecksum)
	}
	if rec[0] != recordFormat {
		return bad(errFormat)
	}
	p := seal.Fields{Rest: rec[seal.Size:]}
	l.deleted = rec[1]&flagDeleted != 0
	l.weight, l.ended = store.Weight(rec[1]>>weightShift&weightMask), store.Weight(rec[1]>>prevShift&weightMask)
	l.prev = store.Revision(p.Uvarint())
	if p.Bad {
		return bad(seal.ErrTruncated)
	}
	l.key = string(p.Rest)
	return l, nil
}
