package outbuf

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// A buffer keeps what is in it however it grows, and is given back without an
// allocation.
func TestFit(t *testing.T) {
	for range 200 {
		var b, want []byte
		for range 1 + rand.IntN(30) {
			part := bytes.Repeat([]byte{byte(rand.Uint32())}, rand.IntN(9000))
			b = Fit(b, len(part))
			if n := len(b) + len(part); n <= Much && cap(b) < n {
				t.Fatalf("there is room for %d bytes of %d", cap(b), n)
			}
			b, want = append(b, part...), append(want, part...)
		}
		if !bytes.Equal(b, want) {
			t.Fatal("what was in the buffer is not there any more")
		}
		Free(b)
	}
	for _, n := range []int{1, Little, Little + 1, Much, Much + 1} {
		if got := cap(Fit(nil, n)); n <= Little && got != Little || n > Little && got != Much {
			t.Errorf("for %d bytes there is a buffer of %d", n, got)
		}
	}
}

func BenchmarkFit(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Free(append(Fit(nil, 100), "something"...))
	}
}
