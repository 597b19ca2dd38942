package lsm

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
)

// The keyspaces; docs/formats/store.md describes them.
const (
	spaceVersion = 'v' // v<key>\0<^revision> → record
	spaceLog     = 'r' // r<revision> → which key changed
	spaceExpiry  = 't' // t<unix nanoseconds><revision> → key
	spaceMeta    = 'm' // m<name> → revision
	spacePast    = 'h' // h<key>\0<^revision> → record: what is kept from below the horizon
	spaceIndex   = 'i' // i<key> → which of them there are
	spaceOrder   = 'o' // o<revision that ended them> → key
)

// comparer orders bytes like the default one, and knows that the versions of
// one key share a prefix, which is what Bloom filters and NextPrefix go by. Its
// name is part of the format.
var comparer = func() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "proa.store.v1"
	c.Split = split
	c.ImmediateSuccessor = func(dst, a []byte) []byte {
		if n := len(a); n > 0 && a[0] == spaceVersion && a[n-1] == 0 {
			dst = append(dst, a...)
			dst[len(dst)-1] = 1
			return dst
		}
		return append(append(dst, a...), 0)
	}
	return &c
}()

func split(k []byte) int {
	if len(k) > 0 && k[0] == spaceVersion {
		if i := bytes.IndexByte(k, 0); i >= 0 {
			return i + 1
		}
	}
	return len(k)
}

func appendVersionKey(dst []byte, key string, rev store.Revision) []byte {
	dst = append(dst, spaceVersion)
	dst = append(dst, key...)
	dst = append(dst, 0)
	return binary.BigEndian.AppendUint64(dst, ^uint64(rev))
}

// parseVersionKey splits the key of a version, or of one in the history; ok is
// false if it is neither.
func parseVersionKey(k []byte) (key []byte, rev store.Revision, ok bool) {
	n := bytes.IndexByte(k, 0) + 1
	if n < 3 || len(k) != n+8 || k[0] != spaceVersion && k[0] != spacePast {
		return nil, 0, false
	}
	return k[1 : n-1], store.Revision(^binary.BigEndian.Uint64(k[n:])), true
}

// appendPastKey is appendVersionKey for the history.
func appendPastKey(dst []byte, key string, rev store.Revision) []byte {
	n := len(dst)
	dst = appendVersionKey(dst, key, rev)
	dst[n] = spacePast
	return dst
}

func appendIndexKey(dst []byte, key string) []byte { return append(append(dst, spaceIndex), key...) }

func appendOrderKey(dst []byte, until store.Revision) []byte {
	return binary.BigEndian.AppendUint64(append(dst, spaceOrder), uint64(until))
}

func appendLogKey(dst []byte, rev store.Revision) []byte {
	return binary.BigEndian.AppendUint64(append(dst, spaceLog), uint64(rev))
}

func appendExpiryKey(dst []byte, nanos int64, rev store.Revision) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, spaceExpiry), uint64(nanos))
	return binary.BigEndian.AppendUint64(dst, uint64(rev))
}

// bound turns a bound of a range of keys into one of the version space. Keys
// hold no NUL byte, so what follows "a" is what begins with "a\x01" or more.
func bound(key string) []byte {
	if i := strings.IndexByte(key, 0); i >= 0 {
		key = key[:i] + "\x01"
	}
	return append([]byte{spaceVersion}, key...)
}

var (
	metaFormat  = []byte("mformat")  // generation of this layout
	metaHorizon = []byte("mhorizon") // states below are gone
	metaNewest  = []byte("mnewest")  // the newest revision is at least this
	metaPast    = []byte("mpast")    // bytes in the history
)
