package apiserver

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"time"

	apiwatch "k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/store"
	"proa/internal/store/planted"
)

const (
	bookmarkEvery = time.Minute
	watchTimeout  = 30 * time.Minute // up to twice as long, for callers from outside that name none
)

// A watcher is one watch under way. Waiting, it is a position, a channel and a
// timer; it holds no events.
type watcher struct {
	s     *Server
	t     *table
	r     *api.Request
	scope scope
	topic topic
	era   int       // of the definition, of a custom resource
	at    int64     // everything up to here has been delivered
	end   time.Time // zero: never
	next  time.Time // of the next bookmark; zero: never
	yield func(api.Event, error) bool
	held  api.Event // matched, and yielded as soon as it is known whether another follows at once; Type "" without one
	wait  *waiter
	alarm *time.Timer // pokes wait when due
	set   time.Time   // what alarm is set to
}

func (s *Server) watch(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	if err := checkOptions(t.terms(r), r); err != nil {
		return nil, err
	}
	rev, err := parseRevision(r.At.ResourceVersion)
	if err != nil {
		return nil, err
	}
	w := &watcher{s: s, t: t, r: r, scope: scopeOf(t.res, r)}
	if t.res.Family != nil {
		s.mu.RLock()
		w.era = t.era
		s.mu.RUnlock()
	}
	w.topic = w.choose()
	return &api.Response{Events: w.events(ctx, rev)}, nil
}

// choose picks the narrowest topic that all events of the watch touch.
func (w *watcher) choose() topic {
	if w.scope.name != "" {
		return topic{topicKey, w.t.key(w.scope.ns, w.scope.name)}
	}
	if f := w.t.res.Family; f == nil || f.Plain {
		if field, value, ok := exactField(w.t.res, w.r.Select); ok {
			return topic{field, value}
		}
	}
	if w.scope.ns != "" && w.t.res.Scope == api.Namespaced {
		return topic{topicNamespace, w.scope.ns}
	}
	return topic{}
}

func (w *watcher) events(ctx context.Context, rev int64) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		w.yield = yield
		now := time.Now()
		switch d := w.r.At.Timeout; {
		case d > 0:
			w.end = now.Add(d)
		case w.r.HTTP != nil:
			w.end = now.Add(watchTimeout + rand.N(watchTimeout))
		}
		if w.r.At.Bookmarks {
			w.next = now.Add(bookmarkEvery - rand.N(bookmarkEvery/10))
		}
		more, err := w.begin(ctx, rev)
		if more && err == nil {
			w.wait = w.t.topics.join(w.topic)
			defer w.t.topics.leave(w.wait)
			defer context.AfterFunc(ctx, w.wait.poke)()
			if w.set = w.due(); !w.set.IsZero() {
				w.alarm = time.AfterFunc(time.Until(w.set), w.wait.poke)
				defer w.alarm.Stop()
			}
		}
		for more && err == nil {
			more, err = w.step(ctx)
		}
		if err != nil && ctx.Err() == nil {
			yield(api.Event{}, w.s.statusError(w.r, err))
		}
	}
}

// begin delivers the state that the watch starts from, if it is to.
func (w *watcher) begin(ctx context.Context, rev int64) (bool, error) {
	initial := w.r.At.SendInitialEvents
	if rev > 0 {
		if err := w.s.fresh(ctx, rev); err != nil {
			return false, err
		}
	}
	if w.at = rev; rev > 0 && (initial == nil || !*initial) {
		return true, nil
	}
	snap := w.s.Snapshot()
	w.at = snap.rev
	if initial != nil && !*initial {
		return true, nil
	}
	q := *w.r
	q.At = api.Version{}
	listed, err := w.s.listNow(ctx, w.t, &q, snap, "")
	if err != nil {
		return false, err
	}
	for _, item := range listed.List.Items {
		if !w.hold(api.Event{Type: apiwatch.Added, Item: item, Revision: item.Revision}) {
			return false, nil
		}
	}
	if !w.flush(false) {
		return false, nil
	}
	if initial != nil && w.r.At.Bookmarks {
		return w.yield(api.Event{Type: apiwatch.Bookmark, Revision: w.at, InitialEnd: true}, nil), nil
	}
	return true, nil
}

// step delivers what has happened, or waits until something does.
func (w *watcher) step(ctx context.Context) (bool, error) {
	s := w.s
	s.mu.RLock()
	list, held := w.t.log.after(w.at)
	now, failed := s.rev, s.failed
	// When the definition has changed the client begins anew; when it is gone, after the last events.
	if w.t.era != w.era && (!w.t.gone || !held || len(list) == 0) {
		s.mu.RUnlock()
		return false, nil
	}
	sleep := held && len(list) == 0 && failed == nil
	if sleep {
		w.at = max(w.at, now)
		w.t.topics.wait(w.wait)
	}
	s.mu.RUnlock()
	switch {
	case !held:
		return w.older(ctx)
	case sleep:
		return w.sleep(ctx)
	case len(list) == 0:
		return false, nil // the server closes
	}
	for _, e := range list {
		if ok, err := w.deliver(ctx, e); !ok {
			return false, err
		}
	}
	if !w.flush(false) {
		return false, nil
	}
	w.at = max(w.at, list[len(list)-1].rev)
	return w.tick(time.Now()), ctx.Err()
}

// sleep waits for the topic, the next bookmark or the end.
func (w *watcher) sleep(ctx context.Context) (bool, error) {
	if <-w.wait.c; w.wait.from.Load() == 0 {
		if ctx.Err() != nil {
			return false, nil
		}
		// Nothing has touched the topic up to the present revision, unless it does right now.
		w.s.mu.RLock()
		w.t.topics.stop(w.wait)
		now := w.s.rev
		w.s.mu.RUnlock()
		if w.wait.from.Load() == 0 {
			w.at = max(w.at, now)
			return w.tick(time.Now()), nil
		}
	}
	w.at = max(w.at, w.wait.from.Load()-1)
	return ctx.Err() == nil, nil
}

func (w *watcher) due() time.Time {
	if w.next.IsZero() || !w.end.IsZero() && w.end.Before(w.next) {
		return w.end
	}
	return w.next
}

// tick sends the bookmark that is due, and says whether the watch goes on.
func (w *watcher) tick(now time.Time) bool {
	over := !w.end.IsZero() && !now.Before(w.end)
	if !w.next.IsZero() && (over || !now.Before(w.next)) {
		w.next = now.Add(bookmarkEvery - rand.N(bookmarkEvery/10))
		at := w.at
		if planted.Is("api-bookmark-ahead") {
			at += 100
		}
		if !w.yield(api.Event{Type: apiwatch.Bookmark, Revision: at}, nil) {
			return false
		}
	}
	if due := w.due(); w.alarm != nil && !due.Equal(w.set) {
		w.set = due
		w.alarm.Reset(due.Sub(now))
	}
	return !over
}

// deliver yields an event if the watch is about it.
func (w *watcher) deliver(ctx context.Context, e *event) (more bool, err error) {
	if planted.Is("api-event-skipped") && e.rev%7 == 0 {
		return true, nil
	}
	switch {
	case e.rev <= w.at || w.scope.nothing:
		return true, nil
	case w.scope.name != "":
		if e.key != w.topic.value {
			return true, nil
		}
	case w.scope.ns != "" && namespaceOf(w.t, e.key) != w.scope.ns:
		return true, nil
	}
	was, is := e.prev != nil, !e.gone
	if !w.r.Select.Empty() {
		if is, err = w.selects(ctx, is, e.item); err != nil {
			return false, err
		}
		if was, err = w.selects(ctx, was, e.prev); err != nil {
			return false, err
		}
	}
	ev := api.Event{Type: apiwatch.Modified, Item: e.item, Revision: e.rev}
	switch {
	case !was && !is:
		return true, nil
	case !was:
		ev.Type = apiwatch.Added
	case !is && planted.Is("api-leaving-untold") && !e.gone:
		return true, nil
	case !is:
		ev.Type, ev.Item = apiwatch.Deleted, e.leaving()
	}
	return w.hold(ev), nil
}

// selects says whether a state that is there is selected.
func (w *watcher) selects(ctx context.Context, there bool, item *api.Item) (bool, error) {
	if !there {
		return false, nil
	}
	o, err := w.s.seen(ctx, w.t, w.r, item)
	return err == nil && w.r.Select.Matches(w.t.terms(w.r), o), err
}

// hold keeps an event and yields the one before it.
func (w *watcher) hold(e api.Event) bool {
	if !w.flush(true) {
		return false
	}
	w.held = e
	return true
}

// flush yields the event that is held, if there is one.
func (w *watcher) flush(more bool) bool {
	if w.held.Type == "" {
		return true
	}
	e := w.held
	w.held, e.More = api.Event{}, more
	return w.yield(e, nil)
}

// older delivers from the engine what the log no longer has, until the two meet.
func (w *watcher) older(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked := w.at
	batches, err := w.s.engine.Watch(ctx, w.t.prefix, w.at)
	if err != nil {
		return false, w.gone(err, asked)
	}
	for b, err := range batches {
		if err != nil {
			return false, w.gone(err, asked)
		}
		for i := range b.Events {
			e, err := w.olderEvent(ctx, &b.Events[i])
			if err != nil {
				return false, w.gone(err, asked)
			}
			if ok, err := w.deliver(ctx, e); !ok {
				return false, err
			}
		}
		if !w.flush(false) {
			return false, nil
		}
		w.at = max(w.at, b.Revision)
		w.s.mu.RLock()
		met := w.at >= w.t.log.floor
		w.s.mu.RUnlock()
		if met {
			return true, w.s.reach(ctx, w.at)
		}
		if !w.tick(time.Now()) {
			return false, nil
		}
	}
	return false, ctx.Err()
}

func (w *watcher) gone(err error, asked int64) error {
	if errors.Is(err, store.ErrCompacted) && planted.Is("api-gone-untold") {
		return nil
	}
	if errors.Is(err, store.ErrCompacted) {
		return tooOld(asked, w.s.engine.Horizon())
	}
	return err
}

// olderEvent makes an event as the log would have held it.
func (w *watcher) olderEvent(ctx context.Context, ev *store.Event) (*event, error) {
	e := &event{key: ev.Key[len(w.t.prefix):], rev: ev.Revision, gone: ev.Deleted}
	e.item = w.t.item(ev.Revision, ev.Value, nil)
	switch {
	case ev.Deleted:
		e.prev = e.item
	case ev.Prev != store.Absent && w.r.Select.Empty():
		e.prev = e.item // only its being there matters
	case ev.Prev != store.Absent:
		before, _, err := w.s.engine.Range(ctx, ev.Key, ev.Key+"\x00", ev.Revision-1, 1)
		if err != nil {
			return nil, err
		}
		for rec, err := range before {
			if err != nil {
				return nil, err
			}
			e.prev = w.t.item(rec.Revision, rec.Value, nil)
		}
	}
	return e, nil
}
