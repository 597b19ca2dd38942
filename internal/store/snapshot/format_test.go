package snapshot

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"proa/internal/store"
)

// file makes a snapshot of one section, whose checksums are right whatever is in it.
func file(t *testing.T, s section, kind byte, payloads ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newWriter(&b)
	w.json(frameHeader, raw(Header{Format: format, Revision: 100}))
	w.json(frameSection, raw(s))
	held := end{}
	for _, p := range payloads {
		w.frame(kind, p)
		held.Frames++
		held.Bytes += int64(len(p))
	}
	w.json(frameEnd, raw(held))
	w.json(frameTrailer, raw(trailer{w.sum.Sum(nil)}))
	if err := w.w.Flush(); err != nil || w.err != nil {
		t.Fatal(err, w.err)
	}
	return b.Bytes()
}

// A section that nobody knows is skipped if it may be.
func TestUnknownSection(t *testing.T) {
	s, err := Read(bytes.NewReader(file(t, section{"later", true}, 'Z', []byte("what"), nil)), Visitor{})
	if err != nil || len(s.Sections) != 1 || s.Sections[0] != "later" || s.History != nil {
		t.Errorf("%+v, %v", s, err)
	}
	_, err = Read(bytes.NewReader(file(t, section{Name: "later"}, 'Z')), Visitor{})
	if err == nil || !strings.Contains(err.Error(), `a section "later" that this proa does not know`) {
		t.Error(err)
	}
}

// A history whose versions contradict themselves or each other is refused, though
// every checksum is right.
func TestImpossibleHistory(t *testing.T) {
	version := func(key string, rev, prev, until store.Revision) store.Version {
		return store.Version{Record: store.Record{Key: key, Revision: rev, Created: 1, Time: time.Unix(5, 0).UTC(), User: "ann"}, Prev: prev, Until: until}
	}
	deleted := func(v store.Version) store.Version { v.Deleted = true; return v }
	weight := func(v store.Version, w store.Weight) store.Version { v.Weight = w; return v }
	for _, c := range []struct {
		what string
		list []store.Version
		ok   bool
	}{
		{"good", []store.Version{version("/a", 20, 10, 0), version("/a", 10, 0, 20), deleted(version("/b", 9, 8, 9)), weight(version("/b", 8, 0, 9), 1)}, true},
		{"out of order", []store.Version{version("/b", 9, 0, 10), version("/a", 9, 0, 10)}, false},
		{"oldest first", []store.Version{version("/a", 10, 0, 20), version("/a", 20, 10, 30)}, false},
		{"twice", []store.Version{version("/a", 10, 0, 20), version("/a", 10, 0, 20)}, false},
		{"the present one last", []store.Version{version("/a", 20, 10, 30), version("/a", 10, 0, 0)}, false},
		{"after the snapshot", []store.Version{version("/a", 101, 10, 0)}, false},
		{"ended after it", []store.Version{version("/a", 20, 10, 101)}, false},
		{"ended before it was", []store.Version{version("/a", 20, 10, 20)}, false},
		{"followed itself", []store.Version{version("/a", 20, 20, 30)}, false},
		{"a deletion that goes on", []store.Version{deleted(version("/a", 20, 10, 30))}, false},
		{"no weight", []store.Version{weight(version("/a", 20, 10, 30), 3)}, false},
	} {
		var payloads [][]byte
		for _, v := range c.list {
			payloads = append(payloads, appendVersion(nil, &v))
		}
		var got []store.Version
		_, err := Read(bytes.NewReader(file(t, section{Past, true}, frameVersion, payloads...)),
			Visitor{Version: func(v store.Version) error { got = append(got, v); return nil }})
		if (err == nil) != c.ok || err != nil && !errors.As(err, new(*DamageError)) {
			t.Errorf("%s: %v", c.what, err)
		}
		if c.ok && len(got) != len(c.list) {
			t.Errorf("%s: %+v", c.what, got)
		}
	}
	whole := appendVersion(nil, &store.Version{Record: store.Record{Key: "/a", Revision: 20, Created: 1, User: "ann"}, Prev: 10, Until: 30})
	for n := range whole {
		if _, err := Read(bytes.NewReader(file(t, section{Past, true}, frameVersion, whole[:n])), Visitor{}); err == nil {
			t.Errorf("cut at %d", n)
		}
	}
	if _, err := Read(bytes.NewReader(file(t, section{Past, true}, frameRecord, whole)), Visitor{}); err == nil {
		t.Error("a record among versions")
	}
}
