package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// A watcher counts the pods that there are, state by state of the cluster: the
// server shows every write in the order of revisions.
type watcher struct {
	limit, least int // pods at the most; available ones at the least

	mu          sync.Mutex
	moved       chan struct{} // closed and replaced with every change
	pods        map[types.UID]state
	there       int // pods that are not on their way out
	available   int // of those
	writes      int
	rev         int64
	judging     bool // the least counts
	over, under int
}

type state struct{ there, available bool }

// follow returns when the watch has begun.
func (w *watcher) follow(ctx context.Context, h api.Handler) {
	w.moved = make(chan struct{})
	begun := make(chan struct{})
	go func() {
		failed := func(err error) {
			if ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "  watch:", err)
			}
		}
		first := true
		for c := range core.Pod.Follow(ctx, h, "default", api.Selectors{}, failed) {
			w.saw(c)
			if first {
				first = false
				close(begun)
			}
		}
	}()
	select {
	case <-begun:
	case <-ctx.Done():
	}
}

func (w *watcher) saw(c api.Change[*corev1.Pod]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rev = c.Revision
	close(w.moved)
	w.moved = make(chan struct{})
	if c.Object == nil {
		return
	}
	p := c.Object
	w.writes++
	now := state{there: c.Type != watch.Deleted && p.DeletionTimestamp == nil}
	now.available = now.there && core.PodReady(p)
	was := w.pods[p.UID]
	w.pods[p.UID] = now
	w.there += one(now.there) - one(was.there)
	w.available += one(now.available) - one(was.available)
	if w.there > w.limit {
		w.over++
	}
	if w.judging && w.available < w.least {
		w.under++
	}
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// seen is how far the watch has come, and how many writes of pods it has shown.
func (w *watcher) seen() (rev int64, writes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rev, w.writes
}

// judge makes every state count from now on in which too few are available.
func (w *watcher) judge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judging = true
}

func (w *watcher) violations() (over, under int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over, w.under
}

// await waits until the watch has shown so many pods, all available.
func (w *watcher) await(ctx context.Context, pods int) error {
	for {
		w.mu.Lock()
		there, available, moved := w.there, w.available, w.moved
		w.mu.Unlock()
		if there == pods && available == pods {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("the watch shows %d pods, %d available: %w", there, available, ctx.Err())
		}
	}
}
