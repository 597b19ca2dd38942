// Package snapshot writes all records of a store at one revision into a file that
// belongs to no engine, checks such files, and puts them back into any engine. The
// format is described in docs/formats/snapshot.md.
package snapshot

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"

	"proa/internal/store"
	"proa/internal/store/seal"
)

const (
	magic     = "PROASNAP"
	format    = 1
	maxFrame  = store.MaxValue + 4*store.MaxKey // larger lengths are damage
	fixedSize = 4                               // a frame's checksum
)

// Kinds of frames.
const (
	frameHeader  = 'H' // JSON: Header
	frameSection = 'S' // begins a section: JSON
	frameRecord  = 'R' // of the section "records"
	frameVersion = 'V' // of the section "history"
	frameEnd     = 'E' // ends a section: JSON, what it held
	frameTrailer = 'T' // the last: JSON
	frameFailed  = 'X' // whoever wrote could not go on: the reason as text
)

// Sections.
const (
	Records = "records" // the newest record of every key
	Past    = "history" // what is known of earlier states; optional
)

// A Header says what a snapshot is of.
type Header struct {
	Format   int            `json:"format"`
	Revision store.Revision `json:"revision"` // of the store when it was taken
	Time     time.Time      `json:"time"`
	Proa     string         `json:"proa,omitempty"`  // version that wrote it
	Store    string         `json:"store,omitempty"` // where the data was kept
	Cluster  Cluster        `json:"cluster"`
}

// A Cluster is which cluster a snapshot is of, and what a place must be started
// with to go on with it. All may be empty.
type Cluster struct {
	UID         string `json:"uid,omitempty"` // of the namespace kube-system
	PodCIDR     string `json:"podCIDR,omitempty"`
	ServiceCIDR string `json:"serviceCIDR,omitempty"`
	Domain      string `json:"clusterDomain,omitempty"`
}

// section begins a section. A reader skips one that it does not know if it is
// optional, and refuses the file otherwise.
type section struct {
	Name     string `json:"name"`
	Optional bool   `json:"optional,omitempty"`
}

// end is what a section held: frames between S and E, and bytes of their payloads.
type end struct {
	Frames int64 `json:"frames"`
	Bytes  int64 `json:"bytes"`
}

// trailer is about everything before it.
type trailer struct {
	SHA256 []byte `json:"sha256"`
}

// A DamageError says that a file is no whole snapshot, and where that shows.
type DamageError struct {
	Offset int64
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("the snapshot is damaged at byte %d: %s", e.Offset, e.Reason)
}

// A FailedError says why whoever wrote a snapshot could not finish it.
type FailedError struct{ Reason string }

func (e *FailedError) Error() string { return "the snapshot was not finished: " + e.Reason }

// A writer writes frames.
type writer struct {
	w    *bufio.Writer
	sum  hash.Hash
	head []byte
	err  error
}

func newWriter(w io.Writer) *writer {
	x := &writer{sum: sha256.New()}
	x.w = bufio.NewWriterSize(w, 32<<10)
	x.write([]byte(magic))
	return x
}

func (w *writer) write(b []byte) {
	if w.err == nil {
		w.sum.Write(b)
		_, w.err = w.w.Write(b)
	}
}

func (w *writer) frame(kind byte, payload []byte) {
	w.head = binary.AppendUvarint(append(w.head[:0], kind), uint64(len(payload)))
	crc := crc32.Update(crc32.Checksum(w.head, seal.Castagnoli), seal.Castagnoli, payload)
	w.write(w.head)
	w.write(payload)
	w.write(binary.LittleEndian.AppendUint32(nil, crc))
}

func (w *writer) json(kind byte, v json.Marshaler) {
	b, err := v.MarshalJSON()
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	w.frame(kind, b)
}

// appendRecord encodes a record as a payload.
func appendRecord(b []byte, r *store.Record) []byte {
	b = binary.AppendUvarint(b, uint64(r.Revision))
	b = binary.AppendUvarint(b, uint64(r.Created))
	b = binary.AppendVarint(b, nanos(r.Time))
	b = binary.AppendVarint(b, nanos(r.Expires))
	b = binary.AppendUvarint(b, uint64(r.Codec))
	for _, s := range []string{r.User, r.Key} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return append(b, r.Value...)
}

// Flags of a version. The two bits between are its weight.
const (
	versionDeleted = 1 << 0
	versionPresent = 1 << 1 // the state that the section "records" has, and not its value
	weightShift    = 2
	weightMask     = 3
)

// appendVersion encodes a version as a payload.
func appendVersion(b []byte, v *store.Version) []byte {
	flags := byte(v.Weight) << weightShift
	if v.Deleted {
		flags |= versionDeleted
	}
	if v.Until == 0 {
		flags |= versionPresent
	}
	b = append(b, flags)
	for _, n := range []store.Revision{v.Revision, v.Prev, v.Until, v.Was, v.Created} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendVarint(b, nanos(v.Time))
	b = binary.AppendUvarint(b, uint64(v.Codec))
	for _, s := range []string{v.User, v.Key} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	if v.Until == 0 {
		return b
	}
	return append(b, v.Value...)
}

func parseVersion(b []byte) (v store.Version, err error) {
	if len(b) == 0 {
		return v, errRecord
	}
	f := seal.Fields{Rest: b[1:]}
	rev := func() store.Revision { return store.Revision(f.Uvarint()) }
	text := func() string { return string(f.Bytes(f.Uvarint())) }
	v.Deleted, v.Weight = b[0]&versionDeleted != 0, store.Weight(b[0]>>weightShift&weightMask)
	v.Revision, v.Prev, v.Until, v.Was, v.Created = rev(), rev(), rev(), rev(), rev()
	v.Time, v.Codec = fromNanos(f.Varint()), uint16(f.Uvarint())
	v.User, v.Key = text(), text()
	if len(f.Rest) > 0 {
		v.Value = f.Rest
	}
	present := b[0]&versionPresent != 0
	switch {
	case f.Bad:
		return store.Version{}, errRecord
	case v.Weight > store.Passing, v.Prev < 0, v.Prev >= v.Revision, v.Was < 0, v.Created < 0, v.Created > v.Revision,
		present != (v.Until == 0), present && (v.Deleted || v.Value != nil),
		v.Deleted && (v.Until != v.Revision || v.Value != nil), !v.Deleted && !present && v.Until <= v.Revision:
		return store.Version{}, errors.New("a version contradicts itself")
	}
	return v, nil
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

var errRecord = errors.New("a record is cut short")

func parseRecord(b []byte) (r store.Record, err error) {
	f := seal.Fields{Rest: b}
	text := func() string { return string(f.Bytes(f.Uvarint())) }
	r.Revision, r.Created = store.Revision(f.Uvarint()), store.Revision(f.Uvarint())
	r.Time, r.Expires = fromNanos(f.Varint()), fromNanos(f.Varint())
	r.Codec = uint16(f.Uvarint())
	r.User, r.Key = text(), text()
	if f.Bad {
		return store.Record{}, errRecord
	}
	if len(f.Rest) > 0 {
		r.Value = f.Rest
	}
	return r, nil
}

// A reader reads frames and checks them.
type reader struct {
	r   *bufio.Reader
	sum hash.Hash
	at  int64
	buf []byte
}

func (r *reader) bad(reason string) error { return &DamageError{r.at, reason} }

// take reads n bytes. What is returned stays as it is until the next take.
func (r *reader) take(n int) ([]byte, error) {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	got, err := io.ReadFull(r.r, b)
	r.at += int64(got)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, r.bad("the file is cut short")
	}
	return b, err
}

// frame reads one frame; before is the checksum over all that came before it.
func (r *reader) frame() (kind byte, payload, before []byte, err error) {
	before = r.sum.Sum(nil)
	var head []byte
	for {
		c, err := r.r.ReadByte()
		if err == io.EOF {
			return 0, nil, nil, r.bad("the file is cut short")
		}
		if err != nil {
			return 0, nil, nil, err
		}
		r.at++
		head = append(head, c)
		if len(head) > 1 && c < 0x80 {
			break
		}
		if len(head) > binary.MaxVarintLen64 {
			return 0, nil, nil, r.bad("a length is no number")
		}
	}
	n, _ := binary.Uvarint(head[1:])
	if n > maxFrame {
		return 0, nil, nil, r.bad(fmt.Sprintf("a frame of %d bytes cannot be", n))
	}
	b, err := r.take(int(n) + fixedSize)
	if err != nil {
		return 0, nil, nil, err
	}
	payload = b[:n]
	if crc32.Update(crc32.Checksum(head, seal.Castagnoli), seal.Castagnoli, payload) != binary.LittleEndian.Uint32(b[n:]) {
		return 0, nil, nil, r.bad("the checksum of a frame does not match")
	}
	r.sum.Write(head)
	r.sum.Write(b)
	return head[0], payload, before, nil
}
