package lsm

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
	"proa/internal/store/faulttest"
	"proa/internal/store/storetest"
)

// tiny makes Pebble flush, compact and rotate all the time.
func tiny(o *pebble.Options) {
	o.MemTableSize = 32 << 10
	o.MaxManifestFileSize = 1 << 10
	o.L0CompactionThreshold = 2
	for i := range o.TargetFileSizes {
		o.TargetFileSizes[i] = 16 << 10
	}
}

func openOn(d *faulttest.Disk, clock store.Clock) (faulttest.Engine, error) {
	e, err := Open("d", Options{FS: d, Clock: clock, Reserve: -1, ScrubEvery: -1, Tune: tiny, FeedEvents: 50})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// TestCrash crashes before every operation on the disk, and many recoveries again.
func TestCrash(t *testing.T) {
	r := storetest.Rand(t)
	f, err := faulttest.Crashes{
		Open: openOn, Seed: r.Uint64(), Load: faulttest.Load{Writers: 4, Writes: 40, Value: 1500, Jumps: true},
		Sessions: 3, Every: 1, Nested: 4,
	}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d crash points, %d of them in recoveries, in %d writes: %v", f.Points, f.Nested, f.Writes, f.Kinds)
	if f.Points < 300 || f.Nested < 20 {
		t.Error("too few crash points to mean anything")
	}
}
