// Command store measures durable writes of the embedded engine beside bare
// Pebble puts with a sync each, on the same disk, in turns.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"proa/internal/store"
	"proa/internal/store/lsm"
)

func main() {
	dir := flag.String("dir", os.TempDir(), "folder on the disk to measure")
	size := flag.Int("size", 1536, "bytes of a value")
	pairs := flag.Int("pairs", 7, "pairs of runs for each number of writers")
	each := flag.Duration("each", time.Second, "length of a run")
	csv := flag.String("csv", "", "file for the raw results")
	flag.Parse()
	if err := run(*dir, *csv, *size, *pairs, *each); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const target = 0.7

func run(dir, csv string, size, pairs int, each time.Duration) error {
	raw := "writers,pair,lsm_per_s,pebble_per_s\n"
	worst, figure := 0.0, 0.0
	for _, writers := range []int{1, 16, 64, 256} {
		var ratios, ours, theirs []float64
		for pair := range pairs + 1 {
			a, err := lsmRun(dir, writers, size, each)
			if err != nil {
				return err
			}
			b, err := pebbleRun(dir, writers, size, each)
			if err != nil {
				return err
			}
			if pair == 0 {
				continue // warm-up
			}
			raw += fmt.Sprintf("%d,%d,%.0f,%.0f\n", writers, pair, a, b)
			ratios, ours, theirs = append(ratios, a/b), append(ours, a), append(theirs, b)
		}
		r := median(ratios)
		fmt.Printf("%3d writers: %6.0f/s, bare Pebble %6.0f/s, ratio %.2f (%.2f to %.2f)\n",
			writers, median(ours), median(theirs), r, slices.Min(ratios), slices.Max(ratios))
		if worst == 0 || r < worst {
			worst, figure = r, median(ours)
		}
	}
	if csv != "" {
		if err := os.WriteFile(csv, []byte(raw), 0o644); err != nil {
			return err
		}
	}
	verdict := "met"
	if worst < target {
		verdict = "short"
	}
	fmt.Printf("bench-store: %.0f writes/s, ratio %.2fx of bare Pebble puts with sync, worst of 1, 16, 64 and 256 writers (target %.1fx: %s)\n",
		figure, worst, target, verdict)
	return nil
}

func lsmRun(dir string, writers, size int, each time.Duration) (float64, error) {
	d, err := os.MkdirTemp(dir, "bench-store-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(d)
	e, err := lsm.Open(d, lsm.Options{})
	if err != nil {
		return 0, err
	}
	defer e.Close()
	return load(writers, size, each, func(key string, value []byte) error {
		_, err := e.Write(context.Background(), store.Op{Key: key, Value: value, User: "bench", Expect: store.Absent})
		return err
	})
}

func pebbleRun(dir string, writers, size int, each time.Duration) (float64, error) {
	d, err := os.MkdirTemp(dir, "bench-store-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(d)
	db, err := pebble.Open(filepath.Join(d, "db"), &pebble.Options{
		FormatMajorVersion: pebble.FormatValueSeparation, MemTableSize: 8 << 20, MemTableStopWritesThreshold: 4, Logger: quiet{},
	})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return load(writers, size, each, func(key string, value []byte) error {
		return db.Set([]byte(key), value, pebble.Sync)
	})
}

type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(f string, a ...any)      { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (q quiet) Fatalf(f string, args ...any) { q.Errorf(f, args...); os.Exit(1) }

// load has writers put new keys for a time and returns the puts per second.
func load(writers, size int, each time.Duration, put func(string, []byte) error) (float64, error) {
	var wg sync.WaitGroup
	var done atomic.Int64
	var failed atomic.Pointer[error]
	start := time.Now()
	for w := range writers {
		wg.Go(func() {
			value := make([]byte, size)
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range value {
				value[i] = byte('a' + r.IntN(26))
			}
			for i := 0; time.Since(start) < each; i++ {
				if err := put(fmt.Sprintf("/pods/ns-%d/pod-%08d", w, i), value); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / time.Since(start).Seconds(), nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
