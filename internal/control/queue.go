package control

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// A job is one key of one task.
type job struct {
	task            *task
	kind            *source // nil where the kind is understood
	namespace, name string
}

// key is what the task is called with: its kind is the one of now.
func (j job) key() Key {
	k := Key{Namespace: j.namespace, Name: j.name}
	if j.kind != nil {
		k.Kind = j.kind.kind.Load()
	}
	return k
}

// A queue holds the jobs to do. A job is in it once however often it is added,
// is never given out twice at once, and comes back if it was added while it ran.
type queue struct {
	now     func() time.Time
	metrics *metrics

	mu     sync.Mutex
	ready  []job
	queued map[job]bool
	busy   map[job]bool
	later  timers
	due    map[job]time.Time
	fails  map[job]int
	wake   *sync.Cond    // something is ready, or the queue was closed
	timer  chan struct{} // the earliest time changed
	closed bool
}

func newQueue(now func() time.Time) *queue {
	q := &queue{now: now, queued: map[job]bool{}, busy: map[job]bool{}, due: map[job]time.Time{}, fails: map[job]int{},
		timer: make(chan struct{}, 1)}
	q.wake = sync.NewCond(&q.mu)
	return q
}

// add adds jobs together: one that is named twice is done once.
func (q *queue) add(jobs ...job) {
	if len(jobs) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range jobs {
		q.push(j)
	}
}

func (q *queue) push(j job) {
	if q.queued[j] {
		return
	}
	q.queued[j] = true
	q.metrics.added(j)
	if !q.busy[j] {
		q.ready = append(q.ready, j)
		q.wake.Signal()
	}
}

// addAfter adds the job once d has passed; of several times the earliest counts.
func (q *queue) addAfter(j job, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := q.now().Add(d)
	if old, ok := q.due[j]; ok && !at.Before(old) {
		return
	}
	q.due[j] = at
	heap.Push(&q.later, timer{at, j})
	select {
	case q.timer <- struct{}{}:
	default:
	}
}

// failed adds the job after a pause that doubles with each failure in a row.
func (q *queue) failed(j job, first, most time.Duration) (pause time.Duration) {
	q.mu.Lock()
	q.metrics.failed(j)
	n := q.fails[j]
	q.fails[j]++
	q.mu.Unlock()
	pause = most
	if n < 30 {
		pause = min(first<<n, most)
	}
	q.addAfter(j, pause)
	return pause
}

func (q *queue) succeeded(j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.fails, j)
}

// take waits for a job; false means that the queue was closed.
func (q *queue) take() (job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) == 0 && !q.closed {
		q.wake.Wait()
	}
	if q.closed {
		return job{}, false
	}
	return q.begin(0), true
}

// takeAny gives out any job that is ready, chosen by r.
func (q *queue) takeAny(r *rand.Rand) (job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 {
		return job{}, false
	}
	return q.begin(r.IntN(len(q.ready))), true
}

func (q *queue) begin(i int) job {
	j := q.ready[i]
	if i == 0 {
		q.ready = q.ready[1:]
	} else {
		q.ready = append(q.ready[:i], q.ready[i+1:]...)
	}
	delete(q.queued, j)
	q.busy[j] = true
	q.metrics.begun(j)
	return j
}

func (q *queue) done(j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.busy, j)
	q.metrics.ended(j)
	if q.queued[j] {
		q.ready = append(q.ready, j)
		q.wake.Signal()
	}
}

// fire adds the jobs whose time has come, and says when the next one's will.
func (q *queue) fire() (next time.Time, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	for len(q.later) > 0 {
		t := q.later[0]
		if q.due[t.job] != t.at {
			heap.Pop(&q.later) // an earlier time replaced it
			continue
		}
		if t.at.After(now) {
			return t.at, true
		}
		heap.Pop(&q.later)
		delete(q.due, t.job)
		q.push(t.job)
	}
	return time.Time{}, false
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ready)
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake.Broadcast()
}

type timer struct {
	at  time.Time
	job job
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	old := *t
	x := old[len(old)-1]
	*t = old[:len(old)-1]
	return x
}
