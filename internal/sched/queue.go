package sched

import (
	"container/heap"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Pauses after failed attempts of one pod, and how long a pod waits at the most
// for an event that helps.
const (
	firstPause = time.Second
	mostPause  = 10 * time.Second
	mostWait   = 5 * time.Minute
)

// where a pod is on its way.
type where int

const (
	active  where = iota // to be placed now
	backing              // to be placed once its pause is over
	waiting              // for an event
	flying               // being bound
)

// An item is a pod that has no node yet.
type item struct {
	pod       *Pod
	attempts  int
	order     int64     // of arrival in active
	until     time.Time // end of the pause, or of the longest wait
	notBefore time.Time // earliest time of the next attempt
	where     where
	wakes     Event
	index     int // in its heap
}

// A queue holds the pods that have no node. It is guarded by its owner.
type queue struct {
	items  map[types.UID]*item
	active byPriority
	timed  byTime // backing and waiting
	count  int64
	sooner chan struct{} // the earliest time changed
}

func newQueue() *queue {
	return &queue{items: map[types.UID]*item{}, sooner: make(chan struct{}, 1)}
}

func (q *queue) add(p *Pod) {
	it := &item{pod: p, index: -1}
	q.items[p.UID] = it
	q.activate(it)
}

func (q *queue) activate(it *item) {
	q.unlink(it)
	q.count++
	it.order, it.where = q.count, active
	heap.Push(&q.active, it)
}

func (q *queue) park(it *item, w where, until time.Time) {
	q.unlink(it)
	it.where, it.until = w, until
	heap.Push(&q.timed, it)
	if q.timed[0] == it {
		select {
		case q.sooner <- struct{}{}:
		default:
		}
	}
}

// unlink takes an item out of its heap.
func (q *queue) unlink(it *item) {
	if it.index < 0 {
		return
	}
	if it.where == active {
		heap.Remove(&q.active, it.index)
	} else {
		heap.Remove(&q.timed, it.index)
	}
	it.index = -1
}

// pop takes the most important pod, or nil.
func (q *queue) pop() *item {
	if len(q.active) == 0 {
		return nil
	}
	return heap.Pop(&q.active).(*item)
}

func pause(attempts int) time.Duration {
	if attempts > 4 {
		return mostPause
	}
	return min(firstPause<<max(attempts-1, 0), mostPause)
}

// wait parks a pod that fits nowhere until something of wakes happens.
func (q *queue) wait(it *item, wakes Event, now time.Time) {
	it.wakes = wakes
	q.park(it, waiting, now.Add(mostWait))
	it.pauseFrom(now)
}

// pauseFrom remembers when the pod may be tried again at the earliest.
func (it *item) pauseFrom(now time.Time) { it.notBefore = now.Add(pause(it.attempts)) }

// retry brings a pod back after a failure that is not its own.
func (q *queue) retry(it *item, now time.Time) {
	q.park(it, backing, now.Add(pause(it.attempts)))
}

// wake brings back the waiting pods that e may help, each after its pause.
func (q *queue) wake(e Event, now time.Time) {
	var up []*item
	for _, it := range q.timed {
		if it.where == waiting && it.wakes&e != 0 {
			up = append(up, it)
		}
	}
	for _, it := range up {
		q.resume(it, now)
	}
}

func (q *queue) resume(it *item, now time.Time) {
	if it.notBefore.After(now) {
		q.park(it, backing, it.notBefore)
	} else {
		q.activate(it)
	}
}

// changed brings back a pod that was itself changed.
func (q *queue) changed(it *item, now time.Time) {
	if it.where == waiting {
		q.resume(it, now)
	}
}

func (q *queue) remove(uid types.UID) {
	if it := q.items[uid]; it != nil {
		q.unlink(it)
		delete(q.items, uid)
	}
}

// fire brings back the pods whose time has come, and says how long the next
// one's takes.
func (q *queue) fire(now time.Time) time.Duration {
	for len(q.timed) > 0 {
		it := q.timed[0]
		if d := it.until.Sub(now); d > 0 {
			return d
		}
		q.activate(it)
	}
	return time.Hour
}

type byPriority []*item

func (h byPriority) Len() int { return len(h) }
func (h byPriority) Less(i, j int) bool {
	if a, b := h[i].pod.Priority, h[j].pod.Priority; a != b {
		return a > b
	}
	return h[i].order < h[j].order
}
func (h byPriority) Swap(i, j int) { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *byPriority) Push(x any) {
	it := x.(*item)
	it.index = len(*h)
	*h = append(*h, it)
}
func (h *byPriority) Pop() any {
	old := *h
	it := old[len(old)-1]
	*h, it.index = old[:len(old)-1], -1
	return it
}

type byTime []*item

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h byTime) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *byTime) Push(x any) {
	it := x.(*item)
	it.index = len(*h)
	*h = append(*h, it)
}
func (h *byTime) Pop() any {
	old := *h
	it := old[len(old)-1]
	*h, it.index = old[:len(old)-1], -1
	return it
}
