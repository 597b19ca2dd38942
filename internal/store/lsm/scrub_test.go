package lsm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"proa/internal/store"
	"proa/internal/store/faulttest"
	"proa/internal/store/storetest"
)

// TestScrub flips a bit on the disk below the caches: the scrub finds it, by
// itself, and names the record.
func TestScrub(t *testing.T) {
	disk := faulttest.NewDisk()
	e, err := Open("d", Options{FS: disk, Reserve: -1, ScrubEvery: time.Second, ScrubRate: 64 << 20, Tune: faulttest.Tiny})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ctx, r := context.Background(), storetest.Rand(t)
	for i := range 200 {
		if _, err := e.Write(ctx, store.Op{Key: fmt.Sprintf("a/%03d", i), Value: random(r, 500), Expect: store.Absent}); err != nil {
			t.Fatal(err)
		}
	}
	await := func(what string, done func(Scrub) bool) Scrub {
		t.Helper()
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
			if s := e.Scrubbed(); done(s) {
				return s
			}
		}
		t.Fatalf("%s: %+v", what, e.Scrubbed())
		return Scrub{}
	}
	name := largestTable(t, e, disk)
	s := await("a pass over it all", func(s Scrub) bool { return s.Passes > 0 && s.Records >= 200 })
	if len(s.Damaged) > 0 || s.Bytes == 0 || s.Finished.IsZero() || e.Health() != nil {
		t.Fatalf("the data is well, and the scrub says %+v, %v", s, e.Health())
	}
	for i := range 200 { // all of it is in the cache
		if _, _, err := e.Get(ctx, fmt.Sprintf("a/%03d", i)); err != nil {
			t.Fatal(err)
		}
	}
	disk.Flip(name, disk.Size(name)*8/2)
	enough := e.Scrubbed().Passes + 2
	s = await("two more passes", func(s Scrub) bool { return s.Passes >= enough })
	var c *store.CorruptError
	if len(s.Damaged) == 0 {
		t.Fatal("the damage is not found")
	}
	if !errors.As(s.Damaged[0], &c) || !strings.HasPrefix(c.Key, "a/") || !strings.Contains(c.Error(), name) {
		t.Errorf("damage in %s is told as %v", name, s.Damaged[0])
	}
	if err := e.Health(); !errors.As(err, &c) {
		t.Errorf("health: %v", err)
	}
	if _, _, err := e.Get(ctx, "a/000"); err != nil {
		t.Errorf("what is in the cache is still well: %v", err)
	}
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// largestTable moves all that was written into tables and returns the name of
// the largest that the database consists of.
func largestTable(t *testing.T, e *Engine, disk *faulttest.Disk) (largest string) {
	t.Helper()
	if err := e.ses.db.Compact(t.Context(), []byte{0}, []byte{255}, false); err != nil {
		t.Fatal(err)
	}
	tables, err := e.tables()
	if err != nil {
		t.Fatal(err)
	}
	for name := range tables {
		if name = "d/db/" + name; disk.Size(name) > disk.Size(largest) {
			largest = name
		}
	}
	return largest
}

// TestScrubPace reads no faster than it may.
func TestScrubPace(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := &pace{ctx: ctx, rate: 1000, next: time.Now()}
	began := time.Now()
	for range 25 {
		if err := p.take(100); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(began); d < 1500*time.Millisecond {
		t.Errorf("2500 bytes at 1000 a second took %v", d)
	}
	cancel()
	if err := p.take(1 << 30); err == nil {
		t.Error("it goes on after its end")
	}
}
