// Package expiry calls an engine back when its records have lived their time.
// It sleeps until the next of them is due; it does not look in between.
package expiry

import (
	"container/heap"
	"sync"
	"time"

	"proa/internal/store"
	"proa/internal/store/planted"
)

// An Item is a record that ends at a time. It is due only if the record still
// has the revision; the engine finds that out.
type Item struct {
	At       time.Time
	Key      string
	Revision store.Revision
}

// Batch is the most items that one call of the engine gets.
const Batch = 512

// A Queue holds the items of one engine.
type Queue struct {
	clock store.Clock
	fire  func([]Item)

	mu      sync.Mutex
	items   byTime
	stop    func() // of the timer that runs, or nil
	next    time.Time
	firing  bool
	closed  bool
	waiting sync.WaitGroup
}

// New makes a queue that calls fire with items that are due, never twice at
// the same time. What fire could not do it adds again.
func New(clock store.Clock, fire func([]Item)) *Queue {
	return &Queue{clock: clock, fire: fire}
}

// Add puts items into the queue.
func (q *Queue) Add(items ...Item) {
	if len(items) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range items {
		heap.Push(&q.items, it)
	}
	q.arm()
}

// Len is the number of items, with those whose record has changed since.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// Reset empties the queue.
func (q *Queue) Reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = nil
	q.disarm()
}

// Close stops the queue and waits for a call that is under way.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.disarm()
	q.mu.Unlock()
	q.waiting.Wait()
}

func (q *Queue) disarm() {
	if q.stop != nil {
		q.stop()
		q.stop = nil
	}
}

// arm sets the timer for the first item, unless it is set for then or earlier.
func (q *Queue) arm() {
	if q.closed || q.firing || len(q.items) == 0 {
		return
	}
	at := q.items[0].At
	if q.stop != nil && !at.Before(q.next) {
		return
	}
	q.disarm()
	q.next = at
	if planted.Is("expiry-early") {
		at = at.Add(-time.Second)
	}
	q.stop = q.clock.AfterFunc(max(at.Sub(q.clock.Now()), 0), q.run)
}

func (q *Queue) run() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.firing {
		return
	}
	q.stop, q.firing = nil, true
	q.waiting.Add(1)
	defer q.waiting.Done()
	for !q.closed {
		due := q.due()
		if len(due) == 0 {
			break
		}
		q.mu.Unlock()
		q.fire(due)
		q.mu.Lock()
	}
	q.firing = false
	if !planted.Is("expiry-stops") {
		q.arm()
	}
}

func (q *Queue) due() []Item {
	now := q.clock.Now()
	if planted.Is("expiry-early") {
		now = now.Add(time.Second)
	}
	var due []Item
	for len(q.items) > 0 && len(due) < Batch && !q.items[0].At.After(now) {
		due = append(due, heap.Pop(&q.items).(Item))
	}
	return due
}

type byTime []Item

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return h[i].At.Before(h[j].At) }
func (h byTime) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byTime) Push(x any)        { *h = append(*h, x.(Item)) }
func (h *byTime) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = Item{}
	*h = old[:len(old)-1]
	return x
}
