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

func TestHistory(t *testing.T) {
	storetest.RunHistory(t, false, func(*testing.T) storetest.KeepingOpener {
		return func(_ testing.TB, clock store.Clock, k store.Keeping) store.Engine { return memory.Keeping(clock, k) }
	})
}
