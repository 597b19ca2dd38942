package sched

import (
	"container/heap"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Pauses after failed attempts of one pod, unless the configuration says
// otherwise, and how long a pod waits at the most for an event that helps.
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
	since     time.Time // when it was first seen
	tried     time.Time // when the last began
	order     int64     // of arrival in active
	until     time.Time // end of the pause, or of the longest wait
	notBefore time.Time // earliest time of the next attempt
	where     where
	failed    bool          // it could not be bound, and its pause is not cut short
	held      bool          // its claims are still to be made, which takes no more than a moment
	written   chan struct{} // closed when what was last to be written about it is written; nil if nothing was
	with      *company
	index     int // in its heap
}

// after is f once all is written that was to be written about the pod before: what
// is found out later is not to be overwritten by what was found out earlier.
func (it *item) after(f func()) func() {
	before, done := it.written, make(chan struct{})
	it.written = done
	return func() {
		defer close(done)
		if before != nil {
			<-before
		}
		f()
	}
}

// A company is pods that are alike, equally important, and wait for the same: an
// event helps all or none.
type company struct {
	key   string
	wakes Event
	by    []*Plugin
	items map[*item]bool
}

// A queue holds the pods that have no node. It is guarded by its owner.
type queue struct {
	items     map[types.UID]*item
	active    byPriority
	resting   byTime // backing, with a pause that may be cut short
	timed     byTime // backing without, and waiting
	companies map[string]*company
	count     int64
	sooner    chan struct{} // the earliest time changed

	firstPause, mostPause time.Duration
}

func newQueue(first, most time.Duration) *queue {
	return &queue{items: map[types.UID]*item{}, companies: map[string]*company{}, sooner: make(chan struct{}, 1), firstPause: first, mostPause: most}
}

func (q *queue) add(p *Pod) *item {
	it := &item{pod: p, index: -1}
	q.items[p.UID] = it
	q.activate(it)
	return it
}

func (q *queue) activate(it *item) {
	q.unlink(it)
	q.count++
	it.order, it.where, it.held = q.count, active, false
	heap.Push(&q.active, it)
}

func (q *queue) park(it *item, w where, until time.Time) {
	q.unlink(it)
	it.where, it.until = w, until
	h := q.heap(it)
	heap.Push(h, it)
	if it.index == 0 {
		select {
		case q.sooner <- struct{}{}:
		default:
		}
	}
}

// unlink takes an item out of its heap.
func (q *queue) unlink(it *item) {
	if c := it.with; c != nil {
		it.with = nil
		if delete(c.items, it); len(c.items) == 0 {
			delete(q.companies, c.key)
		}
	}
	if it.index < 0 {
		return
	}
	heap.Remove(q.heap(it), it.index)
	it.index = -1
}

// heap is where an item is.
func (q *queue) heap(it *item) heap.Interface {
	switch {
	case it.where == active:
		return &q.active
	case it.where == backing && !it.failed:
		return &q.resting
	}
	return &q.timed
}

// pop takes the most important pod, or nil. If nothing else is to be done, the
// pause of a pod that something may have helped is cut short.
func (q *queue) pop() *item {
	if q.active.Len() > 0 {
		return heap.Pop(&q.active).(*item)
	}
	if q.resting.Len() > 0 {
		return heap.Pop(&q.resting).(*item)
	}
	return nil
}

// pause is how long a pod rests after so many attempts.
func (q *queue) pause(attempts int) time.Duration {
	d := q.firstPause
	for range attempts - 1 {
		if d *= 2; d >= q.mostPause {
			break
		}
	}
	return min(d, q.mostPause)
}

// wait parks a pod that fits nowhere until something happens that may help.
func (q *queue) wait(it *item, fail *Failure, now time.Time) {
	q.unlink(it)
	it.notBefore, it.failed = now.Add(q.pause(it.attempts)), false
	q.park(it, waiting, now.Add(mostWait))
	key := it.pod.like()
	if key == "" {
		key = string(it.pod.UID)
	}
	names := make([]string, 0, len(fail.By))
	for _, p := range fail.By {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	key += "\x00" + strconv.Itoa(int(it.pod.Priority)) + "\x00" + it.pod.Spec.SchedulerName + "\x00" + strings.Join(names, " ")
	c := q.companies[key]
	if c == nil {
		c = &company{key: key, items: map[*item]bool{}}
		q.companies[key] = c
	}
	c.wakes, c.by = c.wakes|fail.Wakes, fail.By
	c.items[it] = true
	it.with = c
}

// retry brings a pod back after a failure that is not its own.
func (q *queue) retry(it *item, now time.Time) {
	q.unlink(it)
	it.failed = true
	q.park(it, backing, now.Add(q.pause(it.attempts)))
}

// wake brings back the waiting pods that a change may help, each after its
// pause: if any of the plugins that kept it out says so. Those that were to come
// where the change is have no pause.
func (q *queue) wake(s *State, c *Change, now time.Time) {
	var up, kept []*item
	for _, co := range q.companies {
		if co.wakes&c.What == 0 {
			continue
		}
		here := map[types.UID]bool{} // of the company and promised to the node where the pod went
		for _, p := range s.promised(c) {
			if it := q.items[p.UID]; it != nil && it.with == co {
				here[p.UID] = true
				if co.helped(it.pod, s, c) {
					kept = append(kept, it)
				}
			}
		}
		for it := range co.items { // of the others any one speaks for all
			if here[it.pod.UID] {
				continue
			}
			if co.helped(it.pod, s, c) {
				for it := range co.items {
					if !here[it.pod.UID] {
						up = append(up, it)
					}
				}
			}
			break
		}
	}
	slices.SortFunc(up, func(a, b *item) int { return int(a.order - b.order) })
	for _, it := range up {
		q.resume(it, now)
	}
	for _, it := range kept {
		q.restore(it)
	}
}

// restore brings back a pod for which others have left, at once and in its old
// place: what they left is in everybody's way until it has come.
func (q *queue) restore(it *item) {
	q.unlink(it)
	it.where = active
	heap.Push(&q.active, it)
}

func (co *company) helped(pod *Pod, s *State, c *Change) bool {
	if len(co.by) == 0 {
		return true
	}
	for _, p := range co.by {
		if what := p.Wakes & c.What; what != 0 && (p.Helps == nil || p.Helps(pod, s, c)) {
			return true
		}
	}
	return false
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
	switch {
	case it.held:
		q.activate(it)
	case it.where == waiting:
		q.resume(it, now)
	}
}

// hold puts a new pod aside until it changes, or for so long.
func (q *queue) hold(it *item, until time.Time) {
	q.unlink(it)
	it.held, it.failed = true, true
	q.park(it, backing, until)
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
	next := time.Hour
	for _, h := range []*byTime{&q.resting, &q.timed} {
		for h.Len() > 0 {
			it := h.items[0]
			if d := it.until.Sub(now); d > 0 {
				next = min(next, d)
				break
			}
			q.activate(it)
		}
	}
	return next
}

// items are those of a heap, each of which knows its place.
type items []*item

func (h items) Len() int      { return len(h) }
func (h items) Swap(i, j int) { h[i], h[j] = h[j], h[i]; h[i].index, h[j].index = i, j }
func (h *items) Push(x any) {
	it := x.(*item)
	it.index = len(*h)
	*h = append(*h, it)
}
func (h *items) Pop() any {
	old := *h
	it := old[len(old)-1]
	*h, it.index = old[:len(old)-1], -1
	return it
}

type byPriority struct{ items }

func (h byPriority) Less(i, j int) bool {
	a, b := h.items[i], h.items[j]
	if a.pod.Priority != b.pod.Priority {
		return a.pod.Priority > b.pod.Priority
	}
	return a.order < b.order
}

type byTime struct{ items }

func (h byTime) Less(i, j int) bool { return h.items[i].until.Before(h.items[j].until) }
