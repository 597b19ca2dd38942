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
	by     map[topic]*waiter
	fields map[string]int // waiters by the field of their topic
}

type topic struct{ field, value string }

// The fields of topics that are no declared fields.
const (
	topicAll       = ""
	topicNamespace = "namespace"
	topicKey       = "key"
)

// A waiter is shared by all who wait on one topic. When it is done, the first
// event that touches the topic has revision from.
type waiter struct {
	done chan struct{}
	from int64
	n    int
}

func (p *topics) wait(t topic) *waiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by, p.fields = map[topic]*waiter{}, map[string]int{}
	}
	w := p.by[t]
	if w == nil {
		w = &waiter{done: make(chan struct{})}
		p.by[t] = w
		p.fields[t.field]++
	}
	w.n++
	return w
}

// leave gives up a wait that has not ended.
func (p *topics) leave(t topic, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.n--; w.n == 0 && p.by[t] == w {
		p.remove(t)
	}
}

func (p *topics) remove(t topic) {
	delete(p.by, t)
	if p.fields[t.field]--; p.fields[t.field] == 0 {
		delete(p.fields, t.field)
	}
}

func (p *topics) wake(t topic, rev int64) {
	if w := p.by[t]; w != nil {
		p.remove(t)
		w.from = rev
		close(w.done)
	}
}

// event wakes everybody whom an event may concern.
func (p *topics) event(r *api.Resource, e *event, ns string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.by) == 0 {
		return
	}
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
