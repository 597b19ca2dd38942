package host

import (
	"context"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
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
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}

// MaxHeadroom is how far a heap may grow over what lives in it, in bytes, before
// the collector runs.
const MaxHeadroom = 128 << 20

// headroom is GOGC for a heap in which so many bytes live: as much again, but no
// more than MaxHeadroom.
func headroom(live uint64) int {
	if live <= MaxHeadroom {
		return 100
	}
	return max(5, int(100*MaxHeadroom/live))
}

var tight atomic.Int64 // what TightHeap has set last

// TightHeap sets how far the heap may grow by what lives in it now, and returns
// that as GOGC. The collector of a large heap then runs more often than it would
// by itself; what it marks is cheap where it is bytes. GOGC, if it is set in the
// environment, has the last word; the answer is then 0.
func TightHeap() int {
	if os.Getenv("GOGC") != "" {
		return 0
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	percent := headroom(sample[0].Value.Uint64())
	if tight.Swap(int64(percent)) != int64(percent) { // to set it stops everybody for a moment
		debug.SetGCPercent(percent)
	}
	return percent
}

// KeepHeapTight calls TightHeap from time to time until ctx ends, and often at
// first, while data are read.
func KeepHeapTight(ctx context.Context) {
	pause := 100 * time.Millisecond
	for n := range math.MaxInt {
		TightHeap()
		if n == 100 {
			pause = 5 * time.Second
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
