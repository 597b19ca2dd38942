package lsm

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"proa/internal/store"
	"proa/internal/store/planted"
)

// A head is what a write must know of the state before it.
type head struct {
	rev     store.Revision // Absent if the key does not exist
	created store.Revision
	expires int64 // unix nanoseconds, 0 for never
}

// A version is a stored record.
type version struct {
	store.Record
	prev    store.Revision
	expires int64
	deleted bool
}

const (
	recordFormat = 1
	flagDeleted  = 1 << 0
	flagExpires  = 1 << 1
	recordFixed  = 6 // format, flags, checksum
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errChecksum  = errors.New("the checksum does not match")
	errTruncated = errors.New("the record is cut short")
	errFormat    = errors.New("the record has an unknown format")
)

// recordBound is the most bytes that appendRecord adds for op.
func recordBound(op *store.Op) int {
	return recordFixed + 6*binary.MaxVarintLen64 + len(op.User) + len(op.Value)
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
	start := len(dst)
	dst = append(dst, recordFormat, flags, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(v.prev))
	dst = binary.AppendUvarint(dst, uint64(v.Created))
	dst = binary.AppendVarint(dst, v.Time.UnixNano())
	dst = binary.AppendUvarint(dst, uint64(v.Codec))
	if v.expires != 0 {
		dst = binary.AppendVarint(dst, v.expires)
	}
	dst = binary.AppendUvarint(dst, uint64(len(v.User)))
	dst = append(dst, v.User...)
	if !v.deleted {
		dst = append(dst, v.Value...)
	}
	binary.LittleEndian.PutUint32(dst[start+2:], checksum(dbKey, dst[start:]))
	return dst
}

func checksum(dbKey, rec []byte) uint32 {
	sum := crc32.Update(0, castagnoli, dbKey)
	sum = crc32.Update(sum, castagnoli, rec[:2])
	return crc32.Update(sum, castagnoli, rec[recordFixed:])
}

// A decoder reads records and keeps one copy of what many of them share.
type decoder struct{ user string }

// record decodes a stored version. The strings and the value are copies.
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
	if len(rec) < recordFixed {
		return errTruncated
	}
	if checksum(dbKey, rec) != binary.LittleEndian.Uint32(rec[2:]) && !planted.Is("checksum-ignored") {
		return errChecksum
	}
	if rec[0] != recordFormat {
		return errFormat
	}
	flags := rec[1]
	p := fields{rest: rec[recordFixed:]}
	v.deleted = flags&flagDeleted != 0
	v.prev = store.Revision(p.uvarint())
	v.Created = store.Revision(p.uvarint())
	v.Time = time.Unix(0, p.varint()).UTC()
	v.Codec = uint16(p.uvarint())
	if flags&flagExpires != 0 {
		v.expires = p.varint()
		v.Expires = time.Unix(0, v.expires).UTC()
	}
	user := p.bytes(p.uvarint())
	if planted.Is("user-lost") {
		user = nil
	}
	if p.bad {
		return errTruncated
	}
	if d.user != string(user) {
		d.user = string(user)
	}
	v.User = d.user
	if !v.deleted {
		v.Value = append(make([]byte, 0, len(p.rest)), p.rest...)
	}
	return nil
}

// A logEntry says what a revision changed.
type logEntry struct {
	rev     store.Revision
	prev    store.Revision
	deleted bool
	key     string
}

func appendLogEntry(dst, dbKey []byte, l *logEntry) []byte {
	start := len(dst)
	flags := byte(0)
	if l.deleted {
		flags = flagDeleted
	}
	dst = append(dst, recordFormat, flags, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(l.prev))
	dst = append(dst, l.key...)
	binary.LittleEndian.PutUint32(dst[start+2:], checksum(dbKey, dst[start:]))
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
	if len(rec) < recordFixed {
		return bad(errTruncated)
	}
	if checksum(dbKey, rec) != binary.LittleEndian.Uint32(rec[2:]) {
		return bad(errChecksum)
	}
	if rec[0] != recordFormat {
		return bad(errFormat)
	}
	p := fields{rest: rec[recordFixed:]}
	l.deleted = rec[1]&flagDeleted != 0
	l.prev = store.Revision(p.uvarint())
	if p.bad {
		return bad(errTruncated)
	}
	l.key = string(p.rest)
	return l, nil
}

// fields takes a record apart.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) uvarint() uint64 {
	x, n := binary.Uvarint(f.rest)
	return f.took(x, n)
}

func (f *fields) varint() int64 {
	x, n := binary.Varint(f.rest)
	f.took(0, n)
	return x
}

func (f *fields) took(x uint64, n int) uint64 {
	if n <= 0 {
		f.bad, f.rest = true, nil
		return 0
	}
	f.rest = f.rest[n:]
	return x
}

func (f *fields) bytes(n uint64) []byte {
	if n > uint64(len(f.rest)) {
		f.bad = true
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}
