package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"proa/internal/store"
	"proa/internal/store/expiry"
)

// askAgain is how soon etcd is asked again how far the watch is: it does not
// answer while the watch has something to catch up with.
const askAgain = 100 * time.Millisecond

// follow keeps the one watch that tells the engine of all changes, over restarts
// of etcd's members, until the engine is closed.
func (e *Engine) follow() {
	var pause pauser
	for e.ctx.Err() == nil {
		before := e.position()
		err := e.followOnce()
		if e.ctx.Err() != nil {
			return
		}
		if err != nil && e.enter() != nil {
			return // dead
		}
		if e.position() != before {
			pause = pauser{}
		}
		if err != nil {
			e.logger.Debug("etcd's watch has ended and is made again", "error", err)
		}
		if pause.pause(e.ctx) != nil {
			return
		}
	}
}

func (e *Engine) position() etcdRevision {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at
}

// A stream is a watch from a revision on.
type stream struct {
	pb.Watch_WatchClient
	cancel  context.CancelFunc
	sending sync.Mutex
}

// allChanges asks for what was changed after a revision.
func (e *Engine) allChanges(after etcdRevision) *pb.WatchCreateRequest {
	start, end := e.keys.watched()
	return &pb.WatchCreateRequest{Key: start, RangeEnd: end, StartRevision: after + 1, PrevKv: true}
}

func (e *Engine) openStream(ctx context.Context, m *member, create *pb.WatchCreateRequest) (*stream, error) {
	ctx, cancel := context.WithCancel(withLeader(ctx))
	w, err := m.watch.Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	s := &stream{Watch_WatchClient: w, cancel: cancel}
	err = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	if err != nil {
		cancel()
		return nil, err
	}
	return s, nil
}

// ask asks etcd to say how far the watch is.
func (s *stream) ask() {
	s.sending.Lock()
	defer s.sending.Unlock()
	// An error ends the stream, and the receiver sees it.
	_ = s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// next returns what the watch says next; a *gapError if it cannot go on.
func (s *stream) next() (*pb.WatchResponse, error) {
	r, err := s.Recv()
	switch {
	case err != nil:
		return nil, err
	case r.CompactRevision != 0:
		return nil, &gapError{r.CompactRevision}
	case r.Canceled:
		return nil, errors.New("etcd has ended the watch: " + r.CancelReason)
	}
	return r, nil
}

// A gapError says that a watch cannot go on because etcd has been compacted.
type gapError struct{ to etcdRevision }

func (e *gapError) Error() string { return fmt.Sprintf("etcd has been compacted to revision %d", e.to) }

// followOnce watches until that fails.
func (e *Engine) followOnce() error {
	if err := e.sameEtcd(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	m := e.cluster.current()
	e.cluster.onLeave(cancel)
	defer e.cluster.onLeave(nil)
	s, err := e.openStream(ctx, m, e.allChanges(e.position()))
	if err != nil {
		e.cluster.failed(m, fmt.Errorf("%s: %w", m.endpoint, plain(err)))
		return err
	}
	defer s.cancel()
	e.setAsk(s.ask)
	defer e.setAsk(nil)
	again := time.AfterFunc(askAgain, s.ask)
	defer again.Stop()
	for {
		r, err := s.next()
		var gap *gapError
		switch {
		case errors.As(err, &gap):
			e.leap(gap.to)
			return err
		case err != nil:
			if ctx.Err() == nil {
				if errors.Is(err, io.EOF) {
					err = errors.New("the watch was ended")
				}
				e.cluster.failed(m, fmt.Errorf("%s: %w", m.endpoint, plain(err)))
			}
			return err
		}
		e.cluster.answered()
		e.apply(r)
		if e.wanted() {
			again.Reset(askAgain)
		}
	}
}

func (e *Engine) setAsk(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ask = f
}

// wanted says whether somebody waits for what the watch has not delivered.
func (e *Engine) wanted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.want > e.at
}

// sameEtcd makes sure, before a watch goes on, that etcd still holds what it held.
func (e *Engine) sameEtcd() error {
	var r *pb.RangeResponse
	err := e.cluster.read(e.ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		r, err = m.kv.Range(ctx, &pb.RangeRequest{Key: e.keys.meta()}, o...)
		return err
	})
	if err != nil {
		return err
	}
	at := e.position()
	switch {
	case r.Header.ClusterId != e.id:
		err = fmt.Errorf("store: %s: this is another etcd cluster (%x) than before (%x): start proa again to use it",
			e.target, r.Header.ClusterId, e.id)
	case r.Header.Revision < at:
		err = fmt.Errorf("store: %s: etcd has gone back from revision %d to %d (was it restored, or did it lose its disk?): stop proa and restore the store with 'proa snapshot restore'",
			e.target, at, r.Header.Revision)
	case len(r.Kvs) == 0:
		err = fmt.Errorf("store: %s: the key %s is gone: somebody has deleted the store's data in etcd", e.target, e.keys.meta())
	default:
		return nil
	}
	e.kill(err)
	return err
}

// leap goes on after a gap that a compaction has left: watchers must list anew.
func (e *Engine) leap(to etcdRevision) {
	e.mu.Lock()
	n := e.numbering
	e.at = max(e.at, to)
	rev := n.store(e.at)
	for _, w := range e.writing {
		w.lost = true
		w.finish()
	}
	e.mu.Unlock()
	e.logger.Warn("etcd was compacted while it could not be followed; watches begin anew", "revision", rev)
	raise(&e.horizon, rev)
	e.feed.Skip(rev)
	e.wake()
}

func (w *writing) finish() {
	select {
	case <-w.done:
	default:
		close(w.done)
	}
}

func (e *Engine) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wakeLocked()
}

func (e *Engine) wakeLocked() {
	close(e.moved)
	e.moved = make(chan struct{})
}

// apply makes what the watch says visible: changes to the feed first, then their
// writers are answered, in the order of revisions.
func (e *Engine) apply(r *pb.WatchResponse) {
	n, _ := e.view()
	at := e.position()
	var out changes
	for _, c := range e.parse(r, at) {
		e.past.note(c.ended)
		if c.meta == nil && c.damaged == nil && !c.gap {
			e.look(&c, n, &out)
			continue
		}
		out.upTo = c.rev - 1
		e.publish(out, n)
		out = changes{}
		switch {
		case c.meta != nil:
			n = e.renumber(&c, n)
		case c.damaged != nil:
			e.logger.Error("A change in etcd is damaged", "revision", n.store(c.rev), "error", c.damaged)
			e.jump(&c, n.store(c.rev))
		default:
			raise(&e.horizon, n.store(c.rev))
			e.jump(&c, n.store(c.rev))
		}
	}
	if len(r.Events) == 0 && !r.Created && r.Header.Revision > at { // how far it is, as asked
		out.upTo = r.Header.Revision
	}
	e.publish(out, n)
}

// changes is what is published at a time.
type changes struct {
	events []store.Event
	marks  []mark
	revs   []etcdRevision
	ttl    []expiry.Item
	upTo   etcdRevision
}

// look turns one change into what is to be published and kept.
func (e *Engine) look(c *change, n numbering, out *changes) {
	out.upTo = c.rev
	if c.event == nil {
		return
	}
	ev := *c.event
	e.mu.Lock()
	if c.expires != 0 {
		e.ending[ev.Key] = ending{c.expires, c.rev}
	} else if len(e.ending) > 0 {
		delete(e.ending, ev.Key)
	}
	e.mu.Unlock()
	if c.expires != 0 {
		out.ttl = append(out.ttl, expiry.Item{At: time.Unix(0, c.expires), Key: ev.Key, Revision: n.store(c.rev)})
	}
	out.events = append(out.events, ev)
	out.marks = append(out.marks, c.mark)
	out.revs = append(out.revs, c.rev)
}

// publish shows changes to watchers and readers, and then to their writers.
func (e *Engine) publish(c changes, n numbering) {
	if c.upTo == 0 {
		return
	}
	rev := n.store(c.upTo)
	e.saw(rev)
	e.ttl.Add(c.ttl...)
	e.feed.Publish(store.Batch{Events: c.events, Revision: rev})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at = max(e.at, c.upTo)
	for i, m := range c.marks {
		e.answerLocked(m, n.store(c.revs[i]))
	}
	e.wakeLocked()
}

// answerLocked tells the writer of a change that it is made.
func (e *Engine) answerLocked(m mark, rev store.Revision) {
	if w := e.writing[m.seq]; w != nil && m.session == e.session {
		w.rev = rev
		w.finish()
	}
}

// jump moves over one change that watchers must read from etcd themselves.
func (e *Engine) jump(c *change, rev store.Revision) {
	e.saw(rev)
	e.mu.Lock()
	e.at = max(e.at, c.rev)
	e.answerLocked(c.mark, rev)
	e.mu.Unlock()
	e.feed.Skip(rev)
	e.wake()
}

// renumber takes over a change of the meta key: a raised fence, or a jump of the
// revisions.
func (e *Engine) renumber(c *change, was numbering) numbering {
	n, err := parseNumbering(c.meta, c.rev)
	if err != nil {
		e.kill(fmt.Errorf("store: %s: %w", e.target, err))
		return was
	}
	rev := n.store(c.rev)
	e.mu.Lock()
	e.numbering, e.fence = n, c.rev
	e.at = max(e.at, c.rev)
	e.mu.Unlock()
	if n.last() != was.last() {
		raise(&e.seen, rev)
		raise(&e.horizon, rev)
		e.feed.Skip(rev)
	} else {
		e.feed.Publish(store.Batch{Revision: rev})
	}
	e.wake()
	return n
}
