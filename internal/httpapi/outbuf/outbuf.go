// Package outbuf has the buffers of connections that have something to send. While
// nothing waits a connection has none. Many connections send little at a time, each one event or
// one answer, and few send much, so there are two sizes.
package outbuf

import "sync"

// The sizes.
const (
	Little = 8 << 10
	Much   = 64 << 10
)

// The pools hold pointers to arrays, which are put back without an allocation.
var (
	littles = sync.Pool{New: func() any { return new([Little]byte) }}
	muches  = sync.Pool{New: func() any { return new([Much]byte) }}
)

// Fit returns b, which may be nil, with room for n more bytes; if that is more than
// Much in all, with as much as there is: append makes more.
func Fit(b []byte, n int) []byte {
	switch {
	case len(b)+n <= cap(b) || cap(b) >= Much:
		return b
	case b == nil && n <= Little:
		return littles.Get().(*[Little]byte)[:0]
	}
	much := append(muches.Get().(*[Much]byte)[:0], b...)
	Free(b)
	return much
}

// Free gives a buffer back, which nobody has any more.
func Free(b []byte) {
	switch cap(b) {
	case Little:
		littles.Put((*[Little]byte)(b[:Little]))
	case Much:
		muches.Put((*[Much]byte)(b[:Much]))
	}
}
