package host

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ExpectHeap prepares for a heap that grows by about that many bytes at once, as
// when a server reads its data: the memory comes in huge pages, where the system
// has them for those who ask (madvise), and not in one fault per 4 KB, which
// takes longer than to read the data. Nothing is used up by what is not
// needed in the end. More than an eighth of the machine's memory is not asked for
// at once; the rest comes as it always does.
func ExpectHeap(bytes int64) {
	if most := memory() / 8; bytes > most {
		bytes = most
	}
	const worthwhile = 8 << 20
	if bytes < worthwhile || os.Getenv("GOGC") != "" {
		return
	}
	// Addresses of the heap keep the advice when the collector has taken them back.
	span := make([]byte, bytes)
	_ = unix.Madvise(span, unix.MADV_HUGEPAGE) // a kernel without them does as before
	runtime.KeepAlive(span)
	span = nil
	runtime.GC()
}

// memory is the machine's, in bytes; 0 if it does not say.
func memory() int64 {
	all, err := Memory("/proc", "MemTotal")
	if err != nil {
		return 0
	}
	return int64(all[0])
}

// MaxHeadroom is how far a heap may grow over what lives in it, in bytes, before
// the collector runs: as far as what lives, but no more than this, while nothing
// speaks for more.
const MaxHeadroom = 128 << 20

// busyRoom is how far any heap may grow while the collector is dear, in bytes,
// also one in which little lives: with 50 MB alive, and 70 MB a second that come
// and go, the collector took a sixth of the time.
const busyRoom = 256 << 20

// leastRoom is how far a heap may grow in any case.
func leastRoom(live uint64) uint64 { return min(live, MaxHeadroom) }

// headroom is GOGC for a heap in which so many bytes live and that may grow by room.
func headroom(live, room uint64) int {
	if live == 0 {
		return 100
	}
	return max(5, int(100*room/live))
}

var tight atomic.Int64 // what TightHeap has set last

// TightHeap sets how far the heap may grow by what lives in it now, and returns
// that as GOGC. The collector of a large heap then runs more often than it would
// by itself; what it marks is cheap where it is bytes. GOGC, if it is set in the
// environment, has the last word; the answer is then 0.
func TightHeap() int {
	live := liveHeap()
	return tighten(live, leastRoom(live))
}

func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func tighten(live, room uint64) int {
	if os.Getenv("GOGC") != "" {
		return 0
	}
	percent := headroom(live, room)
	if tight.Swap(int64(percent)) != int64(percent) { // to set it stops everybody for a moment
		debug.SetGCPercent(percent)
	}
	return percent
}

// A heap that is kept tight costs time: with a gigabyte alive and much that comes and goes,
// most of it. So it gets as much room as lives, or busyRoom, while the collector takes more than
// the dear part of the time that is used, at once; and gives it back by and by when it takes less than the cheap part.
const dear, cheap = 0.10, 0.04

// A collector is what the garbage collector has taken so far, in seconds of processors, and
// what all has.
type collector struct{ took, all float64 }

func measureCollector() collector {
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"}}
	metrics.Read(s)
	return collector{s[0].Value.Float64(), s[1].Value.Float64() - s[2].Value.Float64()}
}

// next is the room for the time to come, after a time in which so much was taken.
func (c collector) next(now collector, room, live uint64) uint64 {
	const noticeable = 0.25 // seconds: of less nothing follows
	least, all := leastRoom(live), now.all-c.all
	switch part := (now.took - c.took) / all; {
	case all < noticeable || part < cheap:
		room /= 2
	case part > dear:
		room = max(room, live, busyRoom)
	}
	return max(room, least)
}

// KeepHeapTight calls TightHeap often at first, while data are read, and from time to
// time then, until ctx ends. Later on it gives more room while that is worth it.
func KeepHeapTight(ctx context.Context) {
	for range 100 {
		TightHeap()
		if !passed(ctx, 100*time.Millisecond) {
			return
		}
	}
	room, before := leastRoom(liveHeap()), measureCollector()
	for passed(ctx, time.Second) {
		now, live := measureCollector(), liveHeap()
		room = before.next(now, room, live)
		before = now
		tighten(live, room)
	}
}

// passed waits, and says whether ctx goes on.
func passed(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
