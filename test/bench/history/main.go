// Command history measures what a history costs the embedded engine: writes and
// their compaction with and without one, in turns, on the same disk.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"proa/internal/store"
	"proa/internal/store/lsm"
	"proa/test/bench/measure"
)

func main() {
	dir := flag.String("dir", os.TempDir(), "folder on the disk to measure")
	pairs := flag.Int("pairs", 7, "pairs of runs of each load, after one to warm up")
	writes := flag.Int("writes", 12_000, "writes of a run")
	flag.Parse()
	if err := run(*dir, *pairs, *writes); err != nil {
		fmt.Fprintln(os.Stderr, "bench-history:", err)
		os.Exit(1)
	}
}

// target is what creates must keep of their throughput.
const target = 0.9

// A load is a kind of writes. op is the i-th of them.
type load struct {
	name string
	op   func(i int) store.Op
}

var loads = []load{
	{"creates", func(i int) store.Op {
		return store.Op{Key: fmt.Sprintf("/core/pods/default/p%d", i), Expect: store.Absent}
	}},
	{"pods of controllers: a create, four updates, a deletion", func(i int) store.Op {
		return store.Op{Key: fmt.Sprintf("/core/pods/default/p%d", i/6), Expect: store.Any, Delete: i%6 == 5, Weight: store.Passing}
	}},
	{"nine changes of status to one of the spec, 200 objects", func(i int) store.Op {
		op := store.Op{Key: fmt.Sprintf("/apps/deployments/default/d%d", i%200), Expect: store.Any}
		if i/200%10 != 0 {
			op.Weight = store.Light
		}
		return op
	}},
	{"changes of the spec, 200 objects", func(i int) store.Op {
		return store.Op{Key: fmt.Sprintf("/apps/deployments/default/d%d", i%200), Expect: store.Any}
	}},
}

func run(dir string, pairs, writes int) error {
	raw := measure.NewRaw("load", "pair", "with_per_s", "without_per_s", "with_syncs", "without_syncs", "with_bytes", "without_bytes")
	var claims []measure.Claim
	for n, l := range loads {
		var with, without []float64
		var bytes [2]float64
		for pair := range pairs + 1 {
			a, err := measured(dir, l, writes, store.Keeping{Keep: func(string) bool { return true }, Full: 20, Light: 10, Bytes: 256 << 20})
			if err != nil {
				return err
			}
			b, err := measured(dir, l, writes, store.Keeping{})
			if err != nil {
				return err
			}
			if pair == 0 {
				continue
			}
			raw.Add(l.name, pair, a.rate, b.rate, a.syncs, b.syncs, a.bytes, b.bytes)
			with, without = append(with, a.rate), append(without, b.rate)
			bytes = [2]float64{a.bytes, b.bytes}
		}
		ratios := measure.Ratios(with, without)
		fmt.Printf("%s: %.0f/s with a history, %.0f/s without, ratio %s; on the disk %.1f and %.1f MB\n",
			l.name, measure.Median(with), measure.Median(without), measure.Spread(ratios), bytes[0]/1e6, bytes[1]/1e6)
		if n == 0 {
			claims = append(claims, measure.Claim{Figure: measure.Median(with), Unit: "creates/s with their compaction",
				Ratio: measure.Median(ratios), Reference: "the same without a history", Target: target})
		}
	}
	err := raw.Write("history")
	measure.Report("history", claims)
	return err
}

type result struct{ rate, syncs, bytes float64 }

// measured makes the writes by 32 writers, and compacts them all as it goes.
func measured(dir string, l load, writes int, k store.Keeping) (result, error) {
	const step, writers = 4096, 32
	d, err := os.MkdirTemp(dir, "bench-history-*")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(d)
	e, err := lsm.Open(d, lsm.Options{History: k})
	if err != nil {
		return result{}, err
	}
	value := make([]byte, 2300)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range value {
		value[i] = byte('a' + r.IntN(26))
	}
	began := time.Now()
	for from := 0; from < writes && err == nil; from += step {
		var next atomic.Int64
		next.Store(int64(from))
		errs := make([]error, writers)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= min(from+step, writes) || errs[w] != nil {
						return
					}
					op := l.op(i)
					op.Value, op.User = value, "bench"
					_, errs[w] = e.Write(context.Background(), op)
					var lost *store.ConflictError
					if errors.As(errs[w], &lost) {
						errs[w] = nil // a deletion that came before its update
					}
				}
			})
		}
		wg.Wait()
		if err = errors.Join(errs...); err == nil {
			err = e.Compact(context.Background(), e.Revision())
		}
	}
	took := time.Since(began)
	out := result{rate: float64(writes) / took.Seconds(), syncs: float64(e.Syncs())}
	if err = errors.Join(err, e.Close()); err != nil {
		return result{}, err
	}
	err = filepath.WalkDir(d, func(_ string, f os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := f.Info()
		if err == nil && !f.IsDir() {
			out.bytes += float64(info.Size())
		}
		return err
	})
	return out, err
}
