package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"proa/internal/api"
	"proa/internal/store"
	"proa/internal/store/planted"
)

var errClosed = errors.New("the server is closed")

// The store keys of objects lie between these.
const (
	firstKey = "/"
	lastKey  = "0"
)

// load fills the tables from the engine.
func (s *Server) load(ctx context.Context) error {
	records, rev, err := s.engine.Range(ctx, firstKey, lastKey, 0, 0)
	if err != nil {
		return err
	}
	defined, err := s.loadDefinitions(ctx, rev)
	if err != nil {
		return err
	}
	foreign := 0
	for r, err := range records {
		if err != nil {
			return err
		}
		t, key := s.locate(r.Key)
		if t == nil {
			foreign++
			continue
		}
		item := defined[r.Key]
		if item == nil {
			item = t.item(r.Revision, r.Value, nil)
		}
		t.items.Load(key, item) // they come in order
		if len(t.watch) == 0 {
			continue
		}
		if err := item.Check(); err != nil {
			return err
		}
		for _, f := range t.watch {
			f(nil, item.Object())
		}
	}
	if foreign > 0 {
		s.log.Warn("the store holds objects of kinds that are not served", "objects", foreign)
	}
	for _, t := range s.all() {
		t.log.reset(rev)
	}
	s.rev = rev
	return nil
}

// loadDefinitions makes the tables of custom resources, before anything that
// belongs into them is read. It returns the definitions by their keys.
func (s *Server) loadDefinitions(ctx context.Context, rev int64) (map[string]*api.Item, error) {
	t := s.custom.of
	if t == nil {
		return nil, nil
	}
	records, _, err := s.engine.Range(ctx, t.prefix, behind(t.prefix), rev, 0)
	if err != nil {
		return nil, err
	}
	out := map[string]*api.Item{}
	for r, err := range records {
		if err != nil {
			return nil, err
		}
		item := t.item(r.Revision, r.Value, nil)
		if err := item.Check(); err != nil {
			return nil, err
		}
		out[r.Key] = item
		if d, ok := s.define(r.Key[len(t.prefix):], item, 0); ok {
			s.redefine(d, rev)
		}
	}
	return out, nil
}

// follow is the one goroutine that changes the tables.
func (s *Server) follow(ctx context.Context) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		batches, err := s.engine.Watch(ctx, firstKey, s.Revision())
		if err == nil {
			for b, e := range batches {
				if err = e; err != nil {
					break
				}
				pause = 0
				s.apply(b)
			}
		}
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, store.ErrClosed):
			s.fail(err)
			return
		case errors.Is(err, store.ErrCompacted):
			err = s.reload(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Error("following the store failed and is tried again", "error", err)
			pause = min(max(2*pause, 10*time.Millisecond), 2*time.Second)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
	s.fail(errClosed)
}

// fail ends all that waits for changes.
func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	for _, w := range s.waiting {
		close(w.done)
	}
	s.waiting = nil
	for _, t := range s.all() {
		t.topics.all(s.rev + 1)
	}
}

// reload reads the whole state anew when the engine no longer has the changes
// since the last one. Watchers are told to list again.
func (s *Server) reload(ctx context.Context) error {
	fresh := &Server{engine: s.engine, log: s.log, byPrefix: map[string]*table{}, byName: s.byName}
	fresh.custom.init(Config{Webhook: s.custom.webhook}, nil)
	for _, t := range s.tables {
		n := newTable(t.res, nil)
		fresh.tables = append(fresh.tables, n)
		fresh.byPrefix[n.prefix] = n
		if t == s.custom.of {
			fresh.custom.of = n
		}
	}
	if err := fresh.load(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, t := range s.tables {
		n := fresh.tables[i]
		for _, f := range t.watch {
			t.items.Scan(func(_ string, item *api.Item) bool { f(item.Object(), nil); return true })
			n.items.Scan(func(_ string, item *api.Item) bool { f(nil, item.Object()); return true })
		}
		t.view = n.view
		s.soil(t.rows)
		t.log.reset(fresh.rev)
	}
	s.adoptDefinitions(fresh)
	s.advance(fresh.rev)
	for _, t := range s.all() {
		t.topics.all(fresh.rev)
	}
	return nil
}

// apply takes over the changes of one batch, all at once.
func (s *Server) apply(b store.Batch) {
	now := s.clock.Now()
	list := make([]change, 0, len(b.Events))
	var defined []redefinition
	for i := range b.Events {
		c, ok := s.change(&b.Events[i], now)
		if !ok {
			continue
		}
		list = append(list, c)
		if c.t == s.custom.of && c.e.rev > s.rev { // which only this goroutine changes
			now := c.e.item
			if c.e.gone {
				now = nil
			}
			if d, ok := s.define(c.e.key, now, c.e.rev); ok {
				defined = append(defined, d)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Revision <= s.rev {
		return
	}
	for _, d := range defined {
		s.redefine(d, b.Revision)
	}
	for i := range list {
		c := &list[i]
		if c.e.rev <= s.rev {
			continue
		}
		now := c.e.item
		if c.e.gone {
			now = nil
		}
		c.e.prev = c.t.set(c.e.key, now)
		s.soil(c.t.rows)
		if c.e.gone && c.e.prev == nil {
			continue
		}
		c.t.log.add(c.e)
		for _, f := range c.t.watch {
			f(object(c.e.prev), object(now))
		}
	}
	s.advance(b.Revision)
	for i := range list {
		c := &list[i]
		c.t.topics.event(c.t.res, c.e, namespaceOf(c.t, c.e.key))
	}
}

type change struct {
	t *table
	e *event
}

// change turns an engine's event into ours, with the object of the local
// writer if there is one, so that it need not be decoded again.
func (s *Server) change(ev *store.Event, now time.Time) (change, bool) {
	t, key := s.locate(ev.Key)
	if t == nil {
		return change{}, false
	}
	var obj api.Object
	if !ev.Deleted {
		obj = s.pending.take(ev)
	}
	return change{t, &event{
		key: key, rev: ev.Revision, gone: ev.Deleted, at: now,
		item: t.item(ev.Revision, ev.Value, obj),
	}}, true
}

// advance says that everything up to rev is in the tables.
func (s *Server) advance(rev int64) {
	s.rev = rev
	if !planted.Is("api-stale-snapshot") {
		s.snap.Store(nil)
	}
	left := s.waiting[:0]
	for _, w := range s.waiting {
		if w.rev <= rev {
			close(w.done)
		} else {
			left = append(left, w)
		}
	}
	clear(s.waiting[len(left):])
	s.waiting = left
}

func object(i *api.Item) api.Object {
	if i == nil {
		return nil
	}
	return i.Object()
}

func namespaceOf(t *table, key string) string {
	if t.res.Scope != api.Namespaced {
		return ""
	}
	for i := range key {
		if key[i] == '/' {
			return key[:i]
		}
	}
	return ""
}

// Revision is the newest revision that reads show.
func (s *Server) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rev
}

// waiting is somebody who waits until a revision has been applied.
type waiting struct {
	rev  int64
	done chan struct{}
}

// reach waits until reads show rev.
func (s *Server) reach(ctx context.Context, rev int64) error {
	s.mu.Lock()
	if s.rev >= rev {
		s.mu.Unlock()
		return nil
	}
	if s.failed != nil {
		defer s.mu.Unlock()
		return s.failed
	}
	w := waiting{rev, make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range s.waiting {
			if s.waiting[i].done == w.done {
				s.waiting = append(s.waiting[:i:i], s.waiting[i+1:]...)
				break
			}
		}
		return ctx.Err()
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.rev < rev {
		return s.failed
	}
	return nil
}

// patience is how long a read waits for a revision that is not there yet.
const patience = 3 * time.Second

// fresh waits a little until reads show rev, for a client that knows it.
func (s *Server) fresh(ctx context.Context, rev int64) error {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := s.reach(wait, rev)
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return tooLarge(rev, s.Revision())
	}
	return err
}

// Wait waits until the state is as ready says, looking again after every change
// of the given resource, and returns whether that happened before ctx ended.
func (s *Server) Wait(ctx context.Context, r *api.Resource, ready func(*Snapshot) bool) bool {
	t := s.table(r)
	if t == nil {
		return ready(s.Snapshot())
	}
	w := t.topics.join(topic{})
	defer t.topics.leave(w)
	for {
		s.mu.Lock()
		snap, failed := s.snapshot(), s.failed
		t.topics.wait(w)
		s.mu.Unlock()
		if failed != nil || ready(snap) {
			return failed == nil
		}
		select {
		case <-w.c:
			t.topics.stop(w)
		case <-ctx.Done():
			return false
		}
	}
}

// pending holds the objects whose stored forms are on their way to the engine
// and back. An event with the same key and the same bytes is the same object,
// whoever wrote it.
type pending struct {
	mu sync.Mutex
	by map[string][]handover
}

type handover struct {
	body []byte
	obj  api.Object
}

func (p *pending) put(key string, body []byte, obj api.Object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string][]handover{}
	}
	p.by[key] = append(p.by[key], handover{body, obj})
}

// take gives the object to the applier.
func (p *pending) take(ev *store.Event) api.Object {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, h := range p.by[ev.Key] {
		if bytes.Equal(h.body, ev.Value) {
			p.remove(ev.Key, i)
			return h.obj
		}
	}
	return nil
}

// drop forgets an object that nobody has taken.
func (p *pending) drop(key string, obj api.Object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, h := range p.by[key] {
		if h.obj == obj {
			p.remove(key, i)
			return
		}
	}
}

func (p *pending) remove(key string, i int) {
	if l := p.by[key]; len(l) == 1 {
		delete(p.by, key)
	} else {
		p.by[key] = append(l[:i:i], l[i+1:]...)
	}
}

// write makes one change in the engine, waits until reads show it, and returns
// the new item. A lost race is a *store.ConflictError, after reads show the winner.
func (s *Server) write(ctx context.Context, t *table, key string, op store.Op, obj api.Object) (*api.Item, error) {
	op.Key = t.prefix + key
	op.Codec = api.CodecGeneration
	op.TTL = t.res.TTL
	if obj != nil {
		s.pending.put(op.Key, op.Value, obj)
	}
	rev, err := s.engine.Write(ctx, op)
	if err != nil {
		if obj != nil {
			s.pending.drop(op.Key, obj)
		}
		var lost *store.ConflictError
		if errors.As(err, &lost) {
			now := s.engine.Revision()
			if lost.Current != nil {
				now = lost.Current.Revision
			}
			if e := s.reach(ctx, now); e != nil {
				return nil, e
			}
		}
		return nil, err
	}
	if !planted.Is("api-read-before-write") {
		err = s.reach(ctx, rev)
	}
	if obj != nil {
		s.pending.drop(op.Key, obj) // a reload may have passed it over
	}
	if err != nil {
		return nil, fmt.Errorf("wait for revision %d: %w", rev, err)
	}
	s.mu.RLock()
	item, _ := t.items.Get(key)
	s.mu.RUnlock()
	if item == nil || item.Revision != rev { // overtaken already
		item = t.item(rev, op.Value, nil)
	}
	return item, nil
}
