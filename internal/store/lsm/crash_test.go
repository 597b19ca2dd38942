package lsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
	"proa/internal/store/faulttest"
	"proa/internal/store/storetest"
)

func openOn(d *faulttest.Disk, clock store.Clock) (faulttest.Engine, error) {
	e, err := Open("d", Options{FS: d, Clock: clock, Reserve: -1, ScrubEvery: -1, Tune: faulttest.Tiny, FeedEvents: 50, History: lossless})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// TestCrash crashes before every operation on the disk, and many recoveries again.
func TestCrash(t *testing.T) {
	r := storetest.Rand(t)
	f, err := faulttest.Crashes{
		Open: openOn, Seed: r.Uint64(), Load: faulttest.Load{Writers: 3, Writes: 25, Value: 1500, Jumps: true},
		Sessions: 2, Every: 1, Nested: 4,
	}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d crash points, %d of them in recoveries, in %d writes: %v", f.Points, f.Nested, f.Writes, f.Kinds)
	if f.Points < 200 || f.Nested < 20 {
		t.Error("too few crash points to mean anything")
	}
}

// TestFailure fails operations on the disk, one a run: with EIO any, with ENOSPC
// those that take room.
func TestFailure(t *testing.T) {
	r := storetest.Rand(t)
	hit := 0
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for _, lasting := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/lasting=%v", errno, lasting), func(t *testing.T) {
				for range failures {
					f := faulttest.Failure{Open: openOn, Seed: r.Uint64(), Errno: errno, Lasting: lasting, At: 1 + r.Int64N(250),
						Load: faulttest.Load{Writers: 3, Writes: 30, Value: 1500}}
					was, err := f.Run(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if was {
						hit++
					}
				}
			})
		}
	}
	t.Logf("%d failures", hit)
	if hit < failures {
		t.Error("too few failures to mean anything")
	}
}

const failures = 10 // of each sort

// TestFlips turns over bits of every file that there is.
func TestFlips(t *testing.T) {
	r := storetest.Rand(t)
	for _, crash := range []bool{false, true} {
		f, err := faulttest.Flips{Open: openOn, Seed: r.Uint64(), Each: 25, Crash: crash,
			Load: faulttest.Load{Writers: 2, Writes: 60, Value: 600, Jumps: true}}.Run(t.Context())
		if err != nil {
			t.Error(err)
		}
		t.Logf("%d flips, %d told of by reads, %d by a refusal to open", f.Flips, f.Told, f.Refused)
		if f.Told == 0 || f.Refused == 0 {
			t.Error("no flip was noticed")
		}
	}
}

// A deletion whose last value cannot be read just now is not made: its event
// would have to lie. One whose value is damaged is made, and its event is empty.
func TestDeleteUnreadable(t *testing.T) {
	disk := faulttest.NewDisk()
	var fail atomic.Bool
	disk.Before = func(op faulttest.Op) error {
		if fail.Load() && op.Kind == faulttest.Read {
			return syscall.EIO
		}
		return nil
	}
	open := func() *Engine {
		e, err := Open("d", Options{FS: disk, Reserve: -1, ScrubEvery: -1, Tune: func(o *pebble.Options) { faulttest.Tiny(o); o.CacheSize = 1 }})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := open()
	for i := range 60 {
		if _, err := e.Write(t.Context(), store.Op{Key: fmt.Sprint("k", i), Value: make([]byte, 1000), Expect: store.Absent}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.ses.db.Compact(t.Context(), []byte{0}, []byte{255}, false); err != nil {
		t.Fatal(err)
	}
	fail.Store(true)
	_, err := e.Write(t.Context(), store.Op{Key: "k7", Delete: true, Expect: 8})
	if !errors.Is(err, syscall.EIO) || errors.As(err, new(*store.CorruptError)) {
		t.Fatalf("deleted without its value: %v", err)
	}
	fail.Store(false)
	rev, err := e.Write(t.Context(), store.Op{Key: "k7", Delete: true, Expect: 8})
	if err != nil || rev != 61 {
		t.Fatalf("revision %d, %v", rev, err)
	}
	if err := e.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestLogTail damages the end of the log, which holds the last acknowledged
// changes: the engine does not open as if they had never been.
func TestLogTail(t *testing.T) {
	disk := faulttest.NewDisk()
	e, err := openOn(disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := e.Write(t.Context(), store.Op{Key: fmt.Sprint("k", i), Value: []byte("v"), Expect: store.Absent}); err != nil {
			t.Fatal(err)
		}
	}
	left := disk.Clone() // as kill -9 leaves it
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range left.Files() {
		if strings.HasSuffix(name, ".log") {
			left.Flip(name, left.Size(name)*8-100)
		}
	}
	_, err = openOn(left, nil)
	if c := (*store.CorruptError)(nil); !errors.As(err, &c) || !strings.Contains(err.Error(), "d/reached") {
		t.Fatalf("opened with a damaged end of the log: %v", err)
	}
	if err := left.Remove("d/reached"); err != nil {
		t.Fatal(err)
	}
	if e, err = openOn(left, nil); err != nil || e.Revision() != 4 {
		t.Fatalf("without the file, as the error says: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReopenTells fails the sync of a write, so that nobody knows whether it was
// made. After the reopening it is there, and a watch from before tells of it.
func TestReopenTells(t *testing.T) {
	disk := faulttest.NewDisk()
	var fail atomic.Bool
	disk.Before = func(op faulttest.Op) error {
		if op.Kind == faulttest.Sync && fail.Load() {
			return syscall.EIO
		}
		return nil
	}
	e, err := openOn(disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	write := func(key string) error {
		_, err := e.Write(t.Context(), store.Op{Key: key, Value: []byte("v"), Expect: store.Absent})
		return err
	}
	if err := write("before"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seq, err := e.Watch(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	fail.Store(true)
	if err := write("doubtful"); !errors.Is(err, store.ErrPoisoned) || e.Revision() != 1 {
		t.Fatalf("written without a sync: %v, revision %d", err, e.Revision())
	}
	fail.Store(false)
	if err := e.Reopen(ctx); err != nil {
		t.Fatal(err)
	}
	if e.Revision() != 2 {
		t.Fatalf("the write is not there, as on this disk it should be: revision %d", e.Revision())
	}
	if err := write("after"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for b, err := range seq {
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		for _, ev := range b.Events {
			got = append(got, ev.Key)
		}
		if b.Revision == 3 {
			break
		}
	}
	if strings.Join(got, " ") != "before doubtful after" {
		t.Errorf("the watch tells of %q", got)
	}
}

// TestLinear races clients through power cuts, kills, failures and restarts.
func TestLinear(t *testing.T) {
	r := storetest.Rand(t)
	for range 30 {
		f, err := faulttest.Linear{Open: openOn, Seed: r.Uint64(), Clients: 5, Ops: 20, Lives: 4}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d operations, %d failures", f.Writes, f.Failures)
	}
}

// TestWatching follows writers through compactions and restarts.
func TestWatching(t *testing.T) {
	f, err := faulttest.Watching{Open: openOn, Seed: storetest.Rand(t).Uint64(), Writers: 4, Writes: 500, Watchers: 16, Lives: 3}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events of %d writes", f.Events, f.Writes)
	if f.Events < 10_000 {
		t.Error("too few events to mean anything")
	}
}

// TestManifestTail damages the end of the MANIFEST of a killed engine, which
// Pebble alone would take for an edit that was not made: tables would be
// missing.
func TestManifestTail(t *testing.T) {
	disk := faulttest.NewDisk()
	e, err := openOn(disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if _, err := e.Write(t.Context(), store.Op{Key: fmt.Sprint("k", i), Value: make([]byte, 1000), Expect: store.Absent}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.(*Engine).ses.db.Flush(); err != nil {
		t.Fatal(err)
	}
	left := disk.Clone()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	marker := ""
	for _, name := range left.Files() {
		if _, of, ok := strings.Cut(name, "marker.manifest."); ok {
			marker = "d/db/" + of[strings.Index(of, "MANIFEST"):]
		}
	}
	left.Flip(marker, left.Size(marker)*8-20)
	if _, err := openOn(left, nil); err == nil || !strings.Contains(err.Error(), marker) || !strings.Contains(err.Error(), "damaged") {
		t.Fatalf("opened with a damaged end of %s: %v", marker, err)
	}
}
