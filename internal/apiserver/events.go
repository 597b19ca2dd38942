package apiserver

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"proa/internal/api"
)

// An event is one change of one object, shared by all who watch it.
type event struct {
	key  string
	rev  int64
	gone bool
	item *api.Item // the state after, or the last state with the deletion's revision
	prev *api.Item // the state before; nil if the object is new
	at   time.Time
	left atomic.Pointer[api.Item] // prev at rev, for selectors that the object leaves
}

// leaving is the state before with the revision of the event.
func (e *event) leaving() *api.Item {
	if e.gone {
		return e.item
	}
	if i := e.left.Load(); i != nil {
		return i
	}
	e.left.CompareAndSwap(nil, e.prev.At(e.rev))
	return e.left.Load()
}

// Bounds of what a table's log holds; older events come from the engine.
const (
	logEvents = 8192
	logAge    = 5 * time.Minute
)

// events holds the newest changes of a table. Entries are never changed once
// they are in, so that a reader may keep a slice of them.
type events struct {
	list  []*event // ascending revisions, without gaps above floor
	dead  int      // entries at the front that are no longer there
	floor int64
}

func (l *events) add(e *event) {
	l.list = append(l.list, e)
	if len(l.list)-l.dead > logEvents {
		l.drop(1)
	}
}

// drop forgets the n oldest.
func (l *events) drop(n int) {
	if n == 0 {
		return
	}
	l.dead += n
	l.floor = l.list[l.dead-1].rev
	if l.dead > 256 && l.dead > len(l.list)/2 || l.dead == len(l.list) {
		l.list, l.dead = append([]*event(nil), l.list[l.dead:]...), 0
	}
}

// age drops what happened before a time.
func (l *events) age(before time.Time) {
	live := l.list[l.dead:]
	l.drop(sort.Search(len(live), func(i int) bool { return !live[i].at.Before(before) }))
}

// reset forgets everything up to a revision.
func (l *events) reset(floor int64) { *l = events{floor: floor} }

// after returns the events above a revision, or false if some are gone.
func (l *events) after(rev int64) ([]*event, bool) {
	if rev < l.floor {
		return nil, false
	}
	live := l.list[l.dead:]
	i := sort.Search(len(live), func(i int) bool { return live[i].rev > rev })
	return live[i:len(live):len(live)], true
}

// topics wakes those who wait for a table's changes, and only those whom a
// change may concern. A topic is all of a resource, a namespace, an object or a
// field's value. Wait holds Server.mu for reading, wake for writing.
type topics struct {
	mu     sync.Mutex
	by     map[topic]*crowd
	fields map[string]int // topics by their field
}

type topic struct{ field, value string }

// The fields of topics that are no declared fields.
const (
	topicAll       = ""
	topicNamespace = "namespace"
	topicKey       = "key"
)

// A crowd is all who have joined a topic, and those of them who wait.
type crowd struct {
	joined  int
	waiting []*waiter
}

// A waiter waits for one topic again and again. It belongs to one goroutine.
type waiter struct {
	c     chan struct{} // something has happened, perhaps
	from  atomic.Int64  // the revision of the first event since the wait began that touches the topic; 0: none
	topic topic
	place int // among those who wait; -1: does not
}

// poke ends a wait without an event.
func (w *waiter) poke() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// join returns a waiter for a topic, which has to leave it.
func (p *topics) join(t topic) *waiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by, p.fields = map[topic]*crowd{}, map[string]int{}
	}
	c := p.by[t]
	if c == nil {
		c = &crowd{}
		p.by[t] = c
		p.fields[t.field]++
	}
	c.joined++
	return &waiter{c: make(chan struct{}, 1), topic: t, place: -1}
}

// wait begins a wait. What is received from the waiter's channel after it may be
// from before.
func (p *topics) wait(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.by[w.topic]
	w.from.Store(0)
	w.place = len(c.waiting)
	c.waiting = append(c.waiting, w)
}

// stop ends a wait that no event has ended, if there is one.
func (p *topics) stop(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out(w)
}

func (p *topics) out(w *waiter) {
	if w.place < 0 {
		return
	}
	c := p.by[w.topic]
	last := len(c.waiting) - 1
	c.waiting[w.place] = c.waiting[last]
	c.waiting[w.place].place = w.place
	c.waiting[last] = nil
	c.waiting, w.place = c.waiting[:last], -1
}

// leave gives up the topic.
func (p *topics) leave(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out(w)
	c := p.by[w.topic]
	if c.joined--; c.joined > 0 {
		return
	}
	delete(p.by, w.topic)
	if p.fields[w.topic.field]--; p.fields[w.topic.field] == 0 {
		delete(p.fields, w.topic.field)
	}
}

func (p *topics) wake(t topic, rev int64) {
	c := p.by[t]
	if c == nil {
		return
	}
	for i, w := range c.waiting {
		c.waiting[i] = nil
		w.place = -1
		w.from.Store(rev)
		w.poke()
	}
	c.waiting = c.waiting[:0]
}

// event wakes everybody whom an event may concern.
func (p *topics) event(r *api.Resource, e *event, ns string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for field := range p.fields {
		switch field {
		case topicAll:
			p.wake(topic{}, e.rev)
		case topicNamespace:
			p.wake(topic{field, ns}, e.rev)
		case topicKey:
			p.wake(topic{field, e.key}, e.rev)
		default:
			get := r.Fields[field]
			p.wake(topic{field, get(e.item.Object())}, e.rev)
			if e.prev != nil && !e.gone {
				p.wake(topic{field, get(e.prev.Object())}, e.rev)
			}
		}
	}
}

// all wakes everybody.
func (p *topics) all(rev int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t := range p.by {
		p.wake(t, rev)
	}
}
