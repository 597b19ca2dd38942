package faulttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"runtime"
	"strings"
	"sync"

	"proa/internal/store"
	"proa/internal/store/storetest"
)

// Flips turns over bits of the files that a load has left, one at a time. What
// comes back is what was written, or an error that says what is damaged, or a
// refusal to open; never something else.
type Flips struct {
	Open  Opener
	Seed  uint64
	Load  Load
	Each  int  // how many bytes of each file; 0: all
	Crash bool // the load was killed, not closed
}

// Run returns what it did, and the first violation.
func (f Flips) Run(ctx context.Context) (Found, error) {
	t, disk, err := f.load(ctx)
	if err != nil {
		return Found{}, fmt.Errorf("seed %d: %w", f.Seed, err)
	}
	type flip struct {
		name string
		bit  int
	}
	var (
		mu    sync.Mutex
		found Found
		bad   error
		wg    sync.WaitGroup
		queue = make(chan flip)
	)
	for range max(2, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for x := range queue {
				refused, told, err := f.one(ctx, t, disk, x.name, x.bit)
				mu.Lock()
				found.Flips++
				if refused {
					found.Refused++
				}
				if told {
					found.Told++
				}
				if err != nil && bad == nil {
					bad = fmt.Errorf("seed %d: bit %d of %d bytes of %s: %w", f.Seed, x.bit, disk.Size(x.name), x.name, err)
				}
				mu.Unlock()
			}
		})
	}
	r := rand.New(rand.NewPCG(f.Seed, 4))
	for _, name := range disk.Files() {
		size := disk.Size(name)
		n := size
		if f.Each > 0 {
			n = min(n, f.Each)
		}
		for i := range n {
			at := i
			if n < size {
				at = r.IntN(size)
				if i == 0 { // the end of a file is where a torn one would end
					at = size - 1 - r.IntN(min(size, 40))
				}
			}
			mu.Lock()
			over := bad != nil
			mu.Unlock()
			if !over {
				queue <- flip{name, at*8 + r.IntN(8)}
			}
		}
	}
	close(queue)
	wg.Wait()
	return found, bad
}

// load leaves a disk behind, as an orderly end or a crash leaves it.
func (f Flips) load(ctx context.Context) (*Truth, *Disk, error) {
	t, disk, clock := NewTruth(), NewDisk(), storetest.NewClock()
	for no := range 2 {
		e, err := f.Open(disk, clock)
		if err != nil {
			return nil, nil, err
		}
		for _, err := range (&session{t: t, e: e, clock: clock, seed: f.Seed, no: no}).run(ctx, f.Load) {
			return nil, nil, err
		}
		if f.Crash && no == 1 {
			left := disk.Clone()
			return t, left, e.Close()
		}
		if err := e.Close(); err != nil {
			return nil, nil, err
		}
	}
	return t, disk, nil
}

func (f Flips) one(ctx context.Context, t *Truth, disk *Disk, name string, bit int) (refused, told bool, err error) {
	d := disk.Clone()
	d.Flip(name, bit)
	clock := storetest.NewClock()
	e, err := f.Open(d, clock)
	if err != nil {
		if !strings.Contains(err.Error(), path.Dir(name)) && !strings.Contains(err.Error(), path.Base(name)) {
			return true, false, fmt.Errorf("the refusal to open does not say where: %w", err)
		}
		return true, false, nil
	}
	defer e.Close()
	err = t.Check(ctx, e, t.Mark(), rand.New(rand.NewPCG(f.Seed, uint64(bit))))
	if c := (*store.CorruptError)(nil); errors.As(err, &c) {
		if !strings.Contains(err.Error(), strings.TrimSuffix(path.Base(name), path.Ext(name))) && c.Key == "" {
			return false, true, fmt.Errorf("the error names neither a key nor a file: %w", err)
		}
		return false, true, nil
	}
	return false, false, err
}
