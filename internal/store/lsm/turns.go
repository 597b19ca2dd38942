package lsm

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// turns lets one compaction run at a time, and none before the database is
// open: an opening that fails takes away what a compaction reads through. Unlike
// Pebble's own it never looks whether there is something to do.
type turns struct {
	mu       sync.Mutex
	over     sync.Cond // of a granting
	db       pebble.DBForCompaction
	open     bool
	ended    bool
	running  bool
	granting bool
	refused  bool // a compaction, since granting asked whether one waits
}

var _ pebble.CompactionScheduler = (*turns)(nil)

// Register is pebble.CompactionScheduler's.
func (t *turns) Register(_ int, db pebble.DBForCompaction) { t.db = db }

// start lets the compactions run that have waited for the opening.
func (t *turns) start() {
	t.mu.Lock()
	t.open = true
	t.mu.Unlock()
	t.grant()
}

// Unregister is pebble.CompactionScheduler's. The database is not called after
// it has returned.
func (t *turns) Unregister() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for t.granting {
		t.over.Wait()
	}
}

// TrySchedule is pebble.CompactionScheduler's. The database remembers that it
// was refused.
func (t *turns) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open || t.ended || t.running {
		t.refused = true
		return false, nil
	}
	t.running = true
	return true, t
}

// UpdateGetAllowedWithoutPermission is pebble.CompactionScheduler's.
func (t *turns) UpdateGetAllowedWithoutPermission() {}

// Started is pebble.CompactionGrantHandle's.
func (t *turns) Started() {}

// MeasureCPU is pebble.CompactionGrantHandle's.
func (t *turns) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats is pebble.CompactionGrantHandle's.
func (t *turns) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done is pebble.CompactionGrantHandle's: the compaction has ended.
func (t *turns) Done() {
	t.mu.Lock()
	t.running = false
	t.mu.Unlock()
	t.grant()
}

// grant gives the turn to a compaction that waits for it. Its caller holds no
// lock of the database.
func (t *turns) grant() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.granting {
		t.over.Wait()
	}
	for !t.ended && !t.running {
		t.granting, t.running, t.refused = true, true, false
		t.mu.Unlock()
		waiting, _ := t.db.GetWaitingCompaction()
		taken := waiting && t.db.Schedule(t)
		t.mu.Lock()
		t.granting = false
		t.over.Broadcast()
		if taken {
			return // and Done will come
		}
		t.running = false
		if !waiting && !t.refused {
			return
		}
	}
}
