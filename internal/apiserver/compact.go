package apiserver

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"proa/internal/api"
	"proa/internal/store"
)

// compact moves the engine's horizon so that between History and a little more
// of it is kept, and lets go of old events and lists.
func (s *Server) compact(ctx context.Context) {
	type mark struct {
		at  time.Time
		rev int64
	}
	step := max(s.keep/10, time.Millisecond)
	tick := time.NewTicker(step)
	defer tick.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	var forms sweeper
	var marks []mark
	for {
		select {
		case <-sweep.C:
			forms.sweep(s)
			continue
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		marks = append(marks, mark{now, s.Revision()})
		horizon := int64(0)
		for len(marks) > 0 && now.Sub(marks[0].at) >= s.keep {
			horizon, marks = marks[0].rev, marks[1:]
		}
		s.age(s.clock.Now().Add(-min(logAge, s.keep)))
		if horizon <= s.engine.Horizon() {
			continue
		}
		if err := s.engine.Compact(ctx, horizon); err != nil && ctx.Err() == nil {
			s.log.Warn("compacting the store failed", "revision", horizon, "error", err)
		}
	}
}

// sweepEvery is how long a decoded or encoded form stays without being used, up
// to twice as long, but for [spareText].
const sweepEvery = 10 * time.Second

// Between busy and quiet: forms that one sweep lets go of.
const (
	quietSweep = 100
	worthwhile = 1000 // forms whose memory is worth a collection
)

// JSON that nobody asks for stays for longer while all of it together is little:
// who lists a cluster every minute does not want it made again each time.
const (
	spareText   = 32 << 20 // bytes
	spareSweeps = 30       // every so many sweeps it goes nevertheless, if nobody asked since the last of these
)

// A sweeper lets go of the forms of objects that nobody reads, and gives their
// memory back once the server has become quiet: Go itself would wait for twice
// the memory to be used, or for minutes.
type sweeper struct {
	gone   int // forms since memory was given back
	sweeps int
	text   int // bytes of JSON that the last sweep left
}

func (w *sweeper) sweep(s *Server) (freed bool) {
	w.sweeps++
	sweep := (*api.Item).Sweep
	if w.text <= spareText && w.sweeps%spareSweeps != 0 {
		sweep = (*api.Item).SweepSparing
	}
	n, text := 0, 0
	snap := s.Snapshot()
	snap.each(func(item *api.Item) {
		n += sweep(item)
		text += item.TextSize()
	})
	n += s.sweepPast(snap)
	w.gone, w.text = w.gone+n, text
	if n > quietSweep || w.gone < worthwhile {
		return false
	}
	w.gone = 0
	debug.FreeOSMemory()
	return true
}

// sweepPast lets go of the forms of states that are over, and held by the logs alone.
func (s *Server) sweepPast(snap *Snapshot) (gone int) {
	for _, t := range s.all() {
		s.mu.RLock()
		list := t.log.list[t.log.dead:]
		s.mu.RUnlock()
		v := snap.view(t)
		for _, e := range list {
			if now, _ := v.items.Get(e.key); e.item != now {
				gone += e.item.Sweep()
			}
			if e.prev != nil {
				gone += e.prev.Sweep()
			}
		}
	}
	return gone
}

// Verify returns an error for every shared object that somebody has changed
// in place. It encodes them all: it is for tests.
func (s *Server) Verify() error {
	var errs []error
	snap := s.Snapshot()
	snap.each(func(item *api.Item) { errs = append(errs, item.Verify()) })
	return errors.Join(errs...)
}

func (s *Server) age(before time.Time) {
	s.mu.Lock()
	for _, t := range s.all() {
		t.log.age(before)
	}
	s.mu.Unlock()
	s.recent.forget(s.engine.Horizon())
}

// reopen takes the engine into use again after its disk failed.
func (s *Server) reopen(ctx context.Context, e store.Reopener) {
	for {
		failed := e.Failed()
		select {
		case <-failed:
		case <-ctx.Done():
			return
		}
		s.log.Error("the store failed; reopening it", "error", e.Err())
		for pause := 10 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
			err := e.Reopen(ctx)
			if err == nil {
				s.log.Info("the store is open again")
				break
			}
			if ctx.Err() != nil {
				return
			}
			s.log.Error("reopening the store failed", "error", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
	}
}
