package etcd

import (
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"proa/internal/store"
)

// keyspace makes the keys of one store in etcd; docs/formats/etcd.md has them.
type keyspace struct{ prefix string }

func (k keyspace) all() (from, to []byte) { return []byte(k.prefix + "/"), []byte(k.prefix + "0") }

// watched is all but the history, which no watcher is told of.
func (k keyspace) watched() (from, to []byte) {
	return []byte(k.prefix + "/"), []byte(k.prefix + "/v")
}
func (k keyspace) meta() []byte             { return []byte(k.prefix + "/meta") }
func (k keyspace) tombstone() []byte        { return []byte(k.prefix + "/deleted") }
func (k keyspace) record(key string) []byte { return []byte(k.prefix + "/k" + key) }
func (k keyspace) records() (from, to []byte) {
	return []byte(k.prefix + "/k"), []byte(k.prefix + "/l")
}
func (k keyspace) expiries() (from, to []byte) {
	return []byte(k.prefix + "/ttl/"), []byte(k.prefix + "/ttl0")
}

// pastState is the key of the history's own state.
func (k keyspace) pastState() []byte { return []byte(k.prefix + "/v/meta") }

// version is the key of a version in the history: of one key, the newest is the first.
func (k keyspace) version(key string, rev store.Revision) []byte {
	return fmt.Appendf(nil, "%s/v/h%s\x00%016x", k.prefix, key, ^uint64(rev))
}

// versions is where those of a key lie that are below a revision.
func (k keyspace) versions(key string, below store.Revision) (from, to []byte) {
	return k.version(key, below-1), []byte(k.prefix + "/v/h" + key + "\x01")
}

// parseVersion takes the key of a version apart.
func (k keyspace) parseVersion(b []byte) (key string, rev store.Revision, ok bool) {
	rest, ok := strings.CutPrefix(string(b), k.prefix+"/v/h")
	n := strings.IndexByte(rest, 0)
	if !ok || n < 0 || len(rest) != n+17 {
		return "", 0, false
	}
	inverted, err := strconv.ParseUint(rest[n+1:], 16, 64)
	return rest[:n], store.Revision(^inverted), err == nil
}

// index is the key of the index of a key's versions.
func (k keyspace) index(key string) []byte { return []byte(k.prefix + "/v/i" + key) }

// indexes is where those of the keys with a prefix lie; the same letter in front of
// the same keys holds their versions.
func (k keyspace) indexes(prefix string) (from, to []byte) {
	return prefixRange(k.prefix + "/v/i" + prefix)
}

func (k keyspace) allVersions(prefix string) (from, to []byte) {
	return prefixRange(k.prefix + "/v/h" + prefix)
}

// order is the key that says whose version ended with a revision.
func (k keyspace) order(until store.Revision) []byte {
	return fmt.Appendf(nil, "%s/v/o%016x", k.prefix, uint64(until))
}

func (k keyspace) orders() (from, to []byte) { return prefixRange(k.prefix + "/v/o") }

// parseOrder takes such a key apart.
func (k keyspace) parseOrder(b []byte) (until store.Revision, ok bool) {
	rest, ok := strings.CutPrefix(string(b), k.prefix+"/v/o")
	rev, err := strconv.ParseUint(rest, 16, 64)
	return store.Revision(rev), ok && err == nil
}

// prefixRange is all keys with a prefix, which does not end in the highest byte alone.
func prefixRange(prefix string) (from, to []byte) {
	from, to = []byte(prefix), []byte(prefix)
	for to[len(to)-1] == 0xff {
		to = to[:len(to)-1]
	}
	to[len(to)-1]++
	return from, to
}

// expiry is the key that says when a record ends. It is written with the record
// and has its revision.
func (k keyspace) expiry(nanos int64, key string) []byte {
	return fmt.Appendf(nil, "%s/ttl/%016x/%s", k.prefix, nanos, key)
}

// parseExpiry takes such a key apart.
func (k keyspace) parseExpiry(b []byte) (nanos int64, key string, ok bool) {
	rest, ok := strings.CutPrefix(string(b), k.prefix+"/ttl/")
	if !ok || len(rest) < 18 || rest[16] != '/' {
		return 0, "", false
	}
	nanos, err := strconv.ParseInt(rest[:16], 16, 64)
	return nanos, rest[17:], err == nil
}

// parseRecord returns the key of the record that an etcd key holds.
func (k keyspace) parseRecord(b []byte) (key string, ok bool) {
	return strings.CutPrefix(string(b), k.prefix+"/k")
}

// etcdRevision is a revision as etcd counts them; a store.Revision is one as the
// store does. numbering leads from one to the other.
type etcdRevision = int64

// An anchor says that the store's revision at an etcd revision was so; both count
// on together from there to the next anchor.
type anchor struct {
	Etcd  etcdRevision   `json:"etcd"`
	Store store.Revision `json:"store"`
}

// numbering is what the meta key holds: all anchors, in order. The last one may
// be meant to lie at the very change that wrote it (Here), whose etcd revision
// nobody knows before it is made.
type numbering struct {
	Format  int             `json:"format"`
	Anchors []anchor        `json:"anchors"`
	Here    *store.Revision `json:"here,omitempty"`
}

const metaFormat = 1

func parseNumbering(b []byte, at etcdRevision) (numbering, error) {
	var n numbering
	if err := json.Unmarshal(b, &n); err != nil {
		return n, fmt.Errorf("the meta key is damaged: %w", err)
	}
	if n.Format != metaFormat {
		return n, fmt.Errorf("the meta key has the layout %d, and this proa knows %d: use a newer proa", n.Format, metaFormat)
	}
	if n.Here != nil {
		n.Anchors, n.Here = append(n.Anchors, anchor{at, *n.Here}), nil
	}
	if len(n.Anchors) == 0 {
		return n, fmt.Errorf("the meta key is damaged: it has no anchor")
	}
	return n, nil
}

// encode makes the value of the meta key. here, if not nil, is the store's
// revision at the change that writes it.
func (n numbering) encode(here *store.Revision) []byte {
	n.Format, n.Here = metaFormat, here
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // numbers only
	}
	return b
}

// last is the anchor that holds now.
func (n numbering) last() anchor { return n.Anchors[len(n.Anchors)-1] }

// store returns the store's revision at an etcd revision.
func (n numbering) store(r etcdRevision) store.Revision {
	i := sort.Search(len(n.Anchors), func(i int) bool { return n.Anchors[i].Etcd > r }) - 1
	if i < 0 {
		return 0
	}
	return n.Anchors[i].Store + r - n.Anchors[i].Etcd
}

// etcd returns the etcd revision of a store's revision; ok is false if the
// store jumped over it.
func (n numbering) etcd(v store.Revision) (r etcdRevision, ok bool) {
	i := sort.Search(len(n.Anchors), func(i int) bool { return n.Anchors[i].Store > v }) - 1
	if i < 0 {
		return 0, false
	}
	r = n.Anchors[i].Etcd + v - n.Anchors[i].Store
	return r, i+1 == len(n.Anchors) || r < n.Anchors[i+1].Etcd
}
