package etcd

import (
	"context"
	"errors"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"proa/internal/store"
)

// A change is all that one transaction has changed.
type change struct {
	rev     etcdRevision
	event   *store.Event // nil if no record has changed
	mark    mark         // of the write
	expires int64        // of the record; 0: never
	meta    []byte       // the new meta key, or nil
	damaged error
	ended   *replaced // what the change has ended, if the history is to know; see past.go
	gap     bool      // a deleted record's last value is compacted away
}

// parse puts the events of a response together by revision: those after a
// revision, whole, because etcd does not split one over two responses.
func (e *Engine) parse(r *pb.WatchResponse, after etcdRevision) []change {
	n, _ := e.view()
	var out []change
	var d decoder
	for i := 0; i < len(r.Events); {
		rev := r.Events[i].Kv.ModRevision
		j := i
		for j < len(r.Events) && r.Events[j].Kv.ModRevision == rev {
			j++
		}
		if rev > after {
			c := e.join(&d, n, rev, r.Events[i:j])
			if c.meta != nil {
				if next, err := parseNumbering(c.meta, rev); err == nil {
					n = next // the revisions after this one count so
				}
			}
			out = append(out, c)
		}
		i = j
	}
	return out
}

// join makes one change of the events of one revision.
func (e *Engine) join(d *decoder, n numbering, rev etcdRevision, events []*mvccpb.Event) change {
	c := change{rev: rev}
	var tomb *mvccpb.KeyValue
	var rec *mvccpb.Event
	for _, ev := range events {
		switch {
		case string(ev.Kv.Key) == string(e.keys.meta()) && ev.Type == mvccpb.Event_PUT:
			c.meta = ev.Kv.Value
		case string(ev.Kv.Key) == string(e.keys.tombstone()) && ev.Type == mvccpb.Event_PUT:
			tomb = ev.Kv
		case strings.HasPrefix(string(ev.Kv.Key), e.keys.prefix+"/k"):
			rec = ev
		}
	}
	if rec != nil {
		e.joinRecord(&c, d, n, rec, tomb)
	}
	return c
}

func (e *Engine) joinRecord(c *change, d *decoder, n numbering, rec *mvccpb.Event, tomb *mvccpb.KeyValue) {
	key, _ := e.keys.parseRecord(rec.Kv.Key)
	ev := store.Event{Deleted: rec.Type == mvccpb.Event_DELETE}
	rev := n.store(c.rev)
	var s stored
	var err error
	switch {
	case !ev.Deleted:
		if s, err = d.decode(rec.Kv.Key, rec.Kv.Value); err == nil {
			ev.Record = s.record(key, rev, n.store(rec.Kv.CreateRevision))
			c.expires = s.expires
		}
		c.gap = rec.Kv.Version > 1 && rec.PrevKv == nil
	case tomb != nil:
		if s, err = d.decode(tomb.Key, tomb.Value); err == nil {
			ev.Record = s.record(key, rev, 0)
		}
		c.gap = rec.PrevKv == nil
	default: // somebody else's deletion, by nobody knows whom
		ev.Record = store.Record{Key: key, Revision: rev}
		c.gap = rec.PrevKv == nil
	}
	c.ended = e.past.endedBy(key, rec, s, err != nil)
	if err != nil {
		c.damaged = &store.CorruptError{Key: key, Revision: rev, Err: err}
		return
	}
	c.mark = s.mark
	if rec.PrevKv != nil {
		ev.Prev = n.store(rec.PrevKv.ModRevision)
	}
	if ev.Deleted && rec.PrevKv != nil {
		ev.Created = n.store(rec.PrevKv.CreateRevision)
		if last, err := d.decode(rec.PrevKv.Key, rec.PrevKv.Value); err == nil { // a damaged record can still be deleted
			ev.Value, ev.Codec = last.value, last.codec
		}
	}
	c.event = &ev
}

// Bounds of what is read for a watcher at a time.
const (
	olderEvents = 1024
	olderBytes  = 1 << 20
)

// older reads changes from etcd, for watchers that the feed cannot serve.
func (e *Engine) older(ctx context.Context, prefix string, after store.Revision) (store.Batch, error) {
	n, _ := e.view()
	until := e.position()
	if after < e.horizon.Load() {
		return store.Batch{}, store.ErrCompacted
	}
	from, ok := n.etcd(after)
	if !ok {
		return store.Batch{}, store.ErrCompacted
	}
	if from >= until {
		return store.Batch{Revision: n.store(until)}, nil
	}
	b, err := e.readOlder(ctx, n, prefix, from, until)
	switch gap := (*gapError)(nil); {
	case e.usable() != nil:
		return store.Batch{}, store.ErrClosed
	case errors.As(err, &gap):
		raise(&e.horizon, n.store(gap.to))
		return store.Batch{}, store.ErrCompacted
	case err != nil && ctx.Err() != nil:
		return store.Batch{}, ctx.Err()
	}
	return b, err
}

// readOlder reads with a watch of its own, until it has enough, and again on the
// next member if one fails.
func (e *Engine) readOlder(ctx context.Context, n numbering, prefix string, from, until etcdRevision) (store.Batch, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	var pause pauser
	for {
		m := e.cluster.current()
		b, err := e.readOlderFrom(ctx, m, n, prefix, from, until)
		var gap *gapError
		var corrupt *store.CorruptError
		if err == nil || ctx.Err() != nil || errors.As(err, &gap) || errors.As(err, &corrupt) || errors.Is(err, store.ErrCompacted) {
			return b, err
		}
		e.cluster.failed(m, plain(err))
		if err := e.cluster.wait(ctx, &pause); err != nil {
			return store.Batch{}, err
		}
	}
}

func (e *Engine) readOlderFrom(ctx context.Context, m *member, n numbering, prefix string, from, until etcdRevision) (store.Batch, error) {
	s, err := e.openStream(ctx, m, e.allChanges(from))
	if err != nil {
		return store.Batch{}, err
	}
	defer s.cancel()
	again := newTicker(s.ask)
	defer again()
	var b store.Batch
	at, bytes := from, 0
	for at < until && len(b.Events) < olderEvents && bytes < olderBytes {
		r, err := s.next()
		if err != nil {
			return store.Batch{}, err
		}
		if len(r.Events) == 0 && !r.Created {
			at = max(at, r.Header.Revision) // nothing more up to here
			continue
		}
		for _, c := range e.parse(r, at) {
			if c.rev > until {
				break // the feed has it
			}
			switch {
			case c.damaged != nil && at == from && len(b.Events) == 0:
				return store.Batch{}, c.damaged
			case c.damaged != nil:
				b.Revision = n.store(at) // deliver what is before it first
				return b, nil
			case c.gap:
				return store.Batch{}, store.ErrCompacted
			}
			at = c.rev
			if c.event != nil && strings.HasPrefix(c.event.Key, prefix) {
				b.Events = append(b.Events, *c.event)
				bytes += len(c.event.Value) + len(c.event.Key)
			}
		}
	}
	b.Revision = n.store(min(at, until))
	return b, nil
}
