package simulate

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// What waits at the turnstile.
type kind int

const (
	work    kind = iota // a reconcile, a piece of an agent's work
	request             // on its way to the server
	event               // of a watch, on its way to a client
	call                // of a container runtime
)

var kindNames = []string{"work", "request", "event", "call"}

// An outcome is what becomes of a turn.
type outcome int

const (
	goes    outcome = iota
	refused         // it never arrived
	lost            // it arrived, and what it was answered did not come back
	ended           // whoever waited is no more
)

var outcomeNames = []string{"", "refused", "lost", "ended"}

// A turn is one thing that waits until the driver lets it happen.
type turn struct {
	who   *actor
	kind  kind
	key   string
	write bool
	since time.Time
	due   time.Time
	order int // among those that are due at the same time
	gone  bool
	out   chan outcome
	work  func() // instead of out: is run in a goroutine of its own
}

// A turnstile holds back all that parts of the cluster do to each other.
type turnstile struct {
	mu    sync.Mutex
	fresh []*turn       // those that the driver has not seen
	bell  chan struct{} // rings when there are some
	wait  turns
	count int
}

// hold waits for the turn of what key names. It does not wait for the dead.
func (g *turnstile) hold(ctx context.Context, who *actor, k kind, key string, write bool) outcome {
	if ctx.Err() != nil {
		return ended
	}
	t := &turn{who: who, kind: k, key: key, write: write, out: make(chan outcome, 1)}
	if !g.add(t) {
		return ended
	}
	select {
	case o := <-t.out:
		return o
	case <-ctx.Done():
		g.mu.Lock()
		t.gone = true
		g.mu.Unlock()
		return ended
	}
}

// add says whether the actor is alive.
func (g *turnstile) add(t *turn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.who.dead {
		return false
	}
	t.since = time.Now()
	g.fresh = append(g.fresh, t)
	select {
	case g.bell <- struct{}{}:
	default:
	}
	return true
}

// take gives each turn that has come its time, in an order that does not depend
// on which goroutine was faster.
func (g *turnstile) take(when func(*turn) time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.bell:
	default:
	}
	slices.SortStableFunc(g.fresh, func(a, b *turn) int {
		return cmp.Or(cmp.Compare(a.who.name, b.who.name), cmp.Compare(a.kind, b.kind), cmp.Compare(a.key, b.key))
	})
	for _, t := range g.fresh {
		g.count++
		t.due, t.order = when(t), g.count
		heap.Push(&g.wait, t)
	}
	g.fresh = nil
}

// next is the turn that is due first; nil if none is yet, and when one will be.
func (g *turnstile) next(now time.Time) (t *turn, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.wait) > 0 {
		t := g.wait[0]
		switch {
		case t.gone:
			heap.Pop(&g.wait)
		case t.due.After(now):
			return nil, t.due
		default:
			return heap.Pop(&g.wait).(*turn), now
		}
	}
	return nil, time.Time{}
}

// later puts a turn off.
func (g *turnstile) later(t *turn, due time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count++
	t.due, t.order = due, g.count
	heap.Push(&g.wait, t)
}

// release lets a turn happen.
func (t *turn) release(o outcome) {
	if t.work != nil {
		go t.work()
		return
	}
	t.out <- o
}

// leave marks an actor as dead and lets its pieces of work end.
func (g *turnstile) leave(a *actor) {
	g.mu.Lock()
	a.dead = true
	var left []*turn
	for _, t := range slices.Concat(g.fresh, []*turn(g.wait)) {
		if t.who == a && !t.gone {
			t.gone = true
			left = append(left, t)
		}
	}
	g.mu.Unlock()
	a.cancel()
	for _, t := range left {
		t.release(ended)
	}
}

func (t *turn) String() string {
	return fmt.Sprintf("%s %s %s", t.who.name, kindNames[t.kind], t.key)
}

// turns are a heap: what is due first comes first.
type turns []*turn

func (h turns) Len() int { return len(h) }
func (h turns) Less(i, j int) bool {
	return cmp.Or(h[i].due.Compare(h[j].due), cmp.Compare(h[i].order, h[j].order)) < 0
}
func (h turns) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *turns) Push(x any)   { *h = append(*h, x.(*turn)) }
func (h *turns) Pop() any {
	old := *h
	t := old[len(old)-1]
	*h = old[:len(old)-1]
	return t
}

var errMadeUp = errors.New("connection lost (made up)")
