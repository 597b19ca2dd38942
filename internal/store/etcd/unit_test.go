package etcd

import (
	"errors"
	"slices"
	"testing"
	"time"

	"proa/internal/store"
	"proa/internal/store/seal"
)

func TestParseURL(t *testing.T) {
	for url, want := range map[string]Target{
		"etcd://h":                        {[]string{"h:2379"}, "/proa", false},
		"etcd://10.0.0.1:1,10.0.0.2/x/y/": {[]string{"10.0.0.1:1", "10.0.0.2:2379"}, "/x/y", false},
		"https://[::1]:2379,https://b:1":  {[]string{"[::1]:2379", "b:1"}, "/proa", true},
		"etcds://[fe80::1]":               {[]string{"[fe80::1]:2379"}, "/proa", true},
		"http://h/":                       {[]string{"h:2379"}, "/proa", false},
	} {
		got, err := ParseURL(url)
		if err != nil || !slices.Equal(got.Endpoints, want.Endpoints) || got.Prefix != want.Prefix || got.TLS != want.TLS {
			t.Errorf("%s: %+v, %v", url, got, err)
		}
		if again, err := ParseURL(got.String()); err != nil || again.String() != got.String() {
			t.Errorf("%s becomes %s: %v", url, got, err)
		}
	}
	for _, url := range []string{"", "h:2379", "ftp://h", "etcd://", "etcd://,", "etcd://h:0", "etcd://h:x", "etcd://u@h", "etcd://h?x=y"} {
		var bad *URLError
		if got, err := ParseURL(url); !errors.As(err, &bad) || bad.URL != url {
			t.Errorf("%q: %+v, %v", url, got, err)
		}
	}
}

func TestNumbering(t *testing.T) {
	jump := store.Revision(1000)
	n, err := parseNumbering(numbering{Anchors: []anchor{{2, 0}}}.encode(&jump), 33)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		etcd  etcdRevision
		store store.Revision
	}{{2, 0}, {3, 1}, {32, 30}, {33, 1000}, {34, 1001}} {
		if got := n.store(c.etcd); got != c.store {
			t.Errorf("etcd's %d is %d instead of %d", c.etcd, got, c.store)
		}
		if got, ok := n.etcd(c.store); !ok || got != c.etcd {
			t.Errorf("%d is etcd's %d instead of %d", c.store, got, c.etcd)
		}
	}
	for _, v := range []store.Revision{31, 500, 999} {
		if r, ok := n.etcd(v); ok {
			t.Errorf("%d was jumped over, and is etcd's %d", v, r)
		}
	}
	same, err := parseNumbering(n.encode(nil), 50) // a fence
	if err != nil || !slices.Equal(same.Anchors, n.Anchors) {
		t.Errorf("a fence moves the anchors: %+v, %v", same, err)
	}
	for _, b := range []string{"", "{}", `{"format":2,"anchors":[{"etcd":1,"store":0}]}`, `{"format":1}`} {
		if n, err := parseNumbering([]byte(b), 5); err == nil {
			t.Errorf("%s: %+v", b, n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	key := []byte("/proa/k/core/pods/a/b")
	for _, s := range []stored{
		{},
		{mark: mark{1, 2}, time: time.Unix(0, 5), user: "ann", codec: 7, expires: 9, value: []byte("x")},
		{mark: mark{1, 2}, time: time.Unix(0, 5), weight: store.Light, linked: true, prev: 6, was: 7, value: []byte("x")},
	} {
		f.Add(s.encode(key, false))
		f.Add(s.encode(key, true))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := (&decoder{}).decode(key, b)
		if err != nil {
			return
		}
		again, err := (&decoder{}).decode(key, s.encode(key, b[1]&flagDeleted != 0))
		if err != nil || again.mark != s.mark || !again.time.Equal(s.time) || again.user != s.user || again.codec != s.codec ||
			again.expires != s.expires || again.weight != s.weight || again.linked != s.linked || again.prev != s.prev ||
			again.was != s.was || string(again.value) != string(s.value) {
			t.Fatalf("%+v becomes %+v: %v", s, again, err)
		}
	})
}

// Every bit of a value is covered by its checksum, and so is its key.
func TestChecksum(t *testing.T) {
	key := []byte("/proa/k/a")
	s := stored{mark: mark{1, 2}, time: time.Unix(3, 4), user: "ann", codec: 5, expires: 6, value: []byte("value")}
	b := s.encode(key, false)
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			if got, err := (&decoder{}).decode(key, b); err == nil {
				t.Errorf("bit %d of byte %d: %+v", bit, i, got)
			}
			b[i] ^= 1 << bit
		}
	}
	if _, err := (&decoder{}).decode([]byte("/proa/k/b"), b); !errors.Is(err, seal.ErrChecksum) {
		t.Errorf("under another key: %v", err)
	}
}
