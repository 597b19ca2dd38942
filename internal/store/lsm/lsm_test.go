package lsm_test

import (
	"testing"

	"proa/internal/store"
	"proa/internal/store/lsm"
	"proa/internal/store/storetest"
)

func opener(dir string, o lsm.Options) storetest.Opener {
	return func(t testing.TB, clock store.Clock) store.Engine {
		t.Helper()
		o.Clock = clock
		e, err := lsm.Open(dir, o)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		return e
	}
}

func TestLSM(t *testing.T) {
	storetest.Run(t, true, func(t *testing.T) storetest.Opener { return opener(t.TempDir(), lsm.Options{}) })
}

// TestSmallFeed sends nearly every watch through the log on disk, on an engine
// that moves what it compacts to a history.
func TestSmallFeed(t *testing.T) {
	k := store.Keeping{Keep: func(string) bool { return true }, Full: 2, Light: 1, Bytes: 1 << 12}
	storetest.Run(t, true, func(t *testing.T) storetest.Opener {
		return opener(t.TempDir(), lsm.Options{FeedEvents: 2, History: k})
	})
}

func TestHistory(t *testing.T) {
	storetest.RunHistory(t, true, func(t *testing.T) storetest.KeepingOpener {
		dir := t.TempDir()
		return func(t testing.TB, clock store.Clock, k store.Keeping) store.Engine {
			return opener(dir, lsm.Options{History: k})(t, clock)
		}
	})
}
