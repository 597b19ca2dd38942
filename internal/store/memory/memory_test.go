package memory_test

import (
	"testing"

	"proa/internal/store"
	"proa/internal/store/memory"
	"proa/internal/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, false, func(*testing.T) storetest.Opener {
		return func(_ testing.TB, clock store.Clock) store.Engine { return memory.New(clock) }
	})
}

// TestHistory passes the engine with a history through both suites.
func TestHistory(t *testing.T) {
	storetest.RunHistory(t, false, func(*testing.T) storetest.KeepingOpener {
		return func(_ testing.TB, clock store.Clock, k store.Keeping) store.Engine { return memory.Keeping(clock, k) }
	})
	storetest.Run(t, false, func(*testing.T) storetest.Opener {
		k := store.Keeping{Keep: func(string) bool { return true }, Full: 2, Light: 1, Bytes: 1 << 12}
		return func(_ testing.TB, clock store.Clock) store.Engine { return memory.Keeping(clock, k) }
	})
}
