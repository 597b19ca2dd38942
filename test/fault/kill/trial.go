package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"proa/test/bench/measure"
)

// A trial is one run: the server, those who write, and what they know.
type trial struct {
	settings
	server measure.Killable
	blind  bool         // it takes an update without a resourceVersion
	high   atomic.Int64 // highest resourceVersion that was acknowledged
	stop   context.CancelFunc
	failed atomic.Pointer[error] // why the server will not come back

	writers []*writer
	watch   *watcher
	work    sync.WaitGroup
	probes  int

	mu         sync.Mutex
	to         measure.Target
	generation int
	report     report
	acked      []change
	unknown    map[string]bool // writes whose answer nobody got, by what they would have made
}

// A change is a write that is known to have been made.
type change struct {
	name string
	was  string // what it replaced or removed
	now  state  // no n: a deletion
}

func newTrial(s settings, c measure.Killable) *trial {
	t := &trial{settings: s, server: c, blind: c.Name() == "proa", to: c.Server(), unknown: map[string]bool{}}
	t.watch = &watcher{t: t, events: map[int64]event{}, now: map[string]string{}}
	return t
}

// begin starts the writers and the watch.
func (t *trial) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	t.stop = cancel
	for id := range t.settings.writers {
		w := &writer{t: t, id: id, random: rand.New(rand.NewPCG(t.seed, uint64(id)+100))}
		t.writers = append(t.writers, w)
		t.work.Go(func() { w.run(ctx) })
	}
	t.watch.begin()
}

// killOnce kills the server, starts it again at once, and waits until a write
// succeeds; now and then it is killed again before that.
func (t *trial) killOnce(random *rand.Rand) error {
	killed := time.Now()
	for {
		t.server.Kill()
		t.count(func(r *report) { r.kills++ })
		if err := t.server.Launch(); err != nil {
			return t.broken(err)
		}
		t.mu.Lock()
		t.to = t.server.Server()
		t.generation++
		t.mu.Unlock()
		if random.IntN(5) > 0 {
			break
		}
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		t.count(func(r *report) { r.early++ })
	}
	if err := t.firstWrite(); err != nil {
		return t.broken(err)
	}
	t.count(func(r *report) { r.back = append(r.back, time.Since(killed).Seconds()) })
	return nil
}

// patience is how long a server may take to come back.
const patience = 90 * time.Second

// firstWrite creates one object after the other until one is acknowledged.
func (t *trial) firstWrite() error {
	w := &writer{t: t, id: -1}
	defer func() {
		if w.client != nil {
			w.client.CloseIdleConnections()
		}
	}()
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		t.probes++
		n := fmt.Sprintf("probe-%d", t.probes)
		body := fmt.Sprintf(`{"apiVersion":%q,"kind":"ConfigMap","metadata":{"name":%q,"namespace":"default"},"data":{"n":%q}}`, t.server.APIVersion(), n, n)
		before := t.high.Load()
		o, err := w.do(http.MethodPost, t.server.Path("configmaps"), body)
		if err == nil {
			next := state{n, o.Metadata.ResourceVersion}
			t.rises(before, next)
			t.acknowledged(n, state{}, next)
			return nil
		}
		t.underWay(state{n: n}, err)
		if failed := t.server.Failed(); failed != nil {
			return failed
		}
		if time.Now().After(end) {
			return fmt.Errorf("no write within %s: %w", patience, err)
		}
	}
}

// broken counts a start that has failed; nobody waits for the server any more.
func (t *trial) broken(err error) error {
	t.count(func(r *report) { r.startFailures++ })
	t.failed.Store(&err)
	return err
}

// over says whether there is no point in asking again.
func (t *trial) over() bool { return t.failed.Load() != nil }

// finish ends the writers and checks everything against everything.
func (t *trial) finish(err error) (*report, error) {
	t.stop()
	if err != nil {
		t.failed.CompareAndSwap(nil, &err)
	}
	t.work.Wait()
	if err == nil {
		err = t.firstWrite() // the last event that the watch must show
	}
	if err == nil {
		err = t.watch.reach(t.high.Load())
	}
	t.watch.end()
	if err == nil {
		err = t.check()
	}
	t.report.events = t.watch.seen
	return &t.report, errors.Join(t.report.err(), err)
}

func (t *trial) target() (measure.Target, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.to, t.generation
}

func (t *trial) count(f func(*report)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.report)
}

func (t *trial) violation(format string, args ...any) {
	t.count(func(r *report) { r.violations = append(r.violations, fmt.Sprintf(format, args...)) })
}

// acknowledged notes a write whose answer came.
func (t *trial) acknowledged(name string, was, now state) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.acknowledged++
	t.acked = append(t.acked, change{name, was.n, now})
}

// underWay notes a write whose answer did not come.
func (t *trial) underWay(next state, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if dial := (*net.OpError)(nil); !errors.As(why, &dial) || dial.Op != "dial" {
		t.report.unknown++ // it may have been sent
	}
	t.unknown[next.n] = true
}

// made notes that such a write has happened after all.
func (t *trial) made(name string, was, now state) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.kept++
	t.acked = append(t.acked, change{name, was.n, now})
}

// rises checks that a write's revision is above all that were acknowledged
// before it was asked for.
func (t *trial) rises(before int64, s state) {
	rv, err := strconv.ParseInt(s.rv, 10, 64)
	if err != nil || rv <= before {
		t.violation("%s got the resourceVersion %q, but %d was given out before", s.n, s.rv, before)
		return
	}
	for {
		high := t.high.Load()
		if rv <= high || t.high.CompareAndSwap(high, rv) {
			return
		}
	}
}

// check compares the list of all objects with what the writers know, and the
// watch's events with the writes.
func (t *trial) check() error {
	items, err := t.list()
	if err != nil {
		return err
	}
	want := map[string]state{}
	for _, w := range t.writers {
		for i, s := range w.have {
			if s.n != "" {
				want[w.name(i)] = s
			}
		}
	}
	for _, c := range t.acked {
		if c.was == "" && c.name == c.now.n { // a probe's
			want[c.name] = c.now
		}
	}
	for name, s := range want {
		if have := items[name]; have != s {
			t.violation("%s is listed as %q at %q, but was left as %q at %q", name, have.n, have.rv, s.n, s.rv)
		}
	}
	for name, have := range items {
		if _, ok := want[name]; !ok && !t.unknown[have.n] {
			t.violation("%s is listed as %q, which nobody wrote or which was removed", name, have.n)
		}
	}
	t.watch.compare(t.acked)
	return nil
}
