// Package seal is the beginning that the engines' records share, and how what
// follows it is taken apart: a byte for the format, one for flags, and a CRC-32C,
// little-endian, over the key that the record is stored under, the two bytes before
// and all after. See docs/formats.
package seal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Size is that of the beginning, in bytes.
const Size = 6

// Castagnoli is the polynomial of all checksums in the stores (RFC 3720).
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// What is wrong with a record.
var (
	ErrChecksum  = errors.New("the checksum does not match")
	ErrTruncated = errors.New("the record is cut short")
)

// Put puts the checksum into a record of at least Size bytes.
func Put(key, rec []byte) { binary.LittleEndian.PutUint32(rec[2:], checksum(key, rec)) }

// Intact says whether a record of at least Size bytes is as it was sealed.
func Intact(key, rec []byte) bool { return binary.LittleEndian.Uint32(rec[2:]) == checksum(key, rec) }

func checksum(key, rec []byte) uint32 {
	sum := crc32.Update(0, Castagnoli, key)
	sum = crc32.Update(sum, Castagnoli, rec[:2])
	return crc32.Update(sum, Castagnoli, rec[Size:])
}

// Fields takes bytes apart, from the front. What is asked for beyond the end is
// zero, and Bad says so from then on.
type Fields struct {
	Rest []byte
	Bad  bool
}

// Uvarint takes an unsigned number.
func (f *Fields) Uvarint() uint64 {
	x, n := binary.Uvarint(f.Rest)
	return f.took(x, n)
}

// Varint takes a signed number.
func (f *Fields) Varint() int64 {
	x, n := binary.Varint(f.Rest)
	f.took(0, n)
	return x
}

func (f *Fields) took(x uint64, n int) uint64 {
	if n <= 0 {
		f.Bad, f.Rest = true, nil
		return 0
	}
	f.Rest = f.Rest[n:]
	return x
}

// Bytes takes n bytes, which share memory with what is taken apart.
func (f *Fields) Bytes(n uint64) []byte {
	if n > uint64(len(f.Rest)) {
		f.Bad = true
		return nil
	}
	b := f.Rest[:n]
	f.Rest = f.Rest[n:]
	return b
}
