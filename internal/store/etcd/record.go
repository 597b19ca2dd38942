package etcd

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"proa/internal/store"
)

// What etcd keeps as a value: see docs/formats/etcd.md. A record carries who
// wrote it and when, and the mark of the write, by which a writer recognizes its
// own change. A tombstone is the same without a value.
const (
	recordFormat = 1
	flagExpires  = 1 << 0
	flagDeleted  = 1 << 1
	recordFixed  = 6 // format, flags, checksum
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errChecksum  = errors.New("the checksum does not match")
	errTruncated = errors.New("the record is cut short")
	errFormat    = errors.New("the record has an unknown format: was it written by another program?")
)

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
	expires int64  // unix nanoseconds; 0: never
	value   []byte // shares memory with what was decoded
}

// encode makes a value for a key of a record, which the checksum covers.
func (s *stored) encode(key []byte, deleted bool) []byte {
	flags := byte(0)
	if s.expires != 0 {
		flags |= flagExpires
	}
	if deleted {
		flags |= flagDeleted
	}
	b := make([]byte, 0, recordFixed+8+5*binary.MaxVarintLen64+len(s.user)+len(s.value))
	b = append(b, recordFormat, flags, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, s.mark.session)
	b = binary.AppendUvarint(b, s.mark.seq)
	b = binary.AppendVarint(b, s.time.UnixNano())
	b = binary.AppendUvarint(b, uint64(s.codec))
	if s.expires != 0 {
		b = binary.AppendVarint(b, s.expires)
	}
	b = binary.AppendUvarint(b, uint64(len(s.user)))
	b = append(b, s.user...)
	b = append(b, s.value...)
	binary.LittleEndian.PutUint32(b[2:], checksum(key, b))
	return b
}

func checksum(key, rec []byte) uint32 {
	sum := crc32.Update(0, castagnoli, key)
	sum = crc32.Update(sum, castagnoli, rec[:2])
	return crc32.Update(sum, castagnoli, rec[recordFixed:])
}

// A decoder reads values and keeps one copy of what many of them share.
type decoder struct{ user string }

func (d *decoder) decode(key, b []byte) (stored, error) {
	switch {
	case len(b) < recordFixed:
		return stored{}, errTruncated
	case b[0] != recordFormat:
		return stored{}, errFormat
	case checksum(key, b) != binary.LittleEndian.Uint32(b[2:]):
		return stored{}, errChecksum
	}
	f := fields{rest: b[recordFixed:]}
	s := stored{}
	if session := f.bytes(8); !f.bad {
		s.mark.session = binary.BigEndian.Uint64(session)
	}
	s.mark.seq = f.uvarint()
	s.time = time.Unix(0, f.varint()).UTC()
	s.codec = uint16(f.uvarint())
	if b[1]&flagExpires != 0 {
		s.expires = f.varint()
	}
	user := f.bytes(f.uvarint())
	if f.bad {
		return stored{}, errTruncated
	}
	if d.user != string(user) {
		d.user = string(user)
	}
	s.user = d.user
	if len(f.rest) > 0 {
		s.value = f.rest[:len(f.rest):len(f.rest)]
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

// fields takes a value apart.
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
