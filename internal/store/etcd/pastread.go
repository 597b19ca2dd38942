package etcd

import (
	"context"
	"errors"
	"iter"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"proa/internal/store"
	"proa/internal/store/past"
)

// keptPage is how many versions of the history are read at a time.
const keptPage = 8

// History is store.Historian's.
func (e *Engine) History(ctx context.Context, key string) (iter.Seq2[store.Version, error], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := e.usable(); err != nil {
		return nil, err
	}
	if !e.past.keep.Keeps(key) {
		return nil, store.ErrNoHistory
	}
	return func(yield func(store.Version, error) bool) {
		r, err := e.rangeOf(ctx, &pb.RangeRequest{Key: e.keys.record(key)})
		if err != nil {
			yield(store.Version{}, err)
			return
		}
		w := walk{e: e, ctx: ctx, key: key, below: r.Header.Revision + 1, horizon: e.horizonInEtcd(), yield: yield}
		w.numbering, _ = e.view()
		w.run(first(r.Kvs))
	}, nil
}

func first(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

// A walk goes through the versions of a key, newest first: from one to the one that
// was there before it, as long as etcd has them, and then through the history. What
// is compacted on the way has moved there before.
type walk struct {
	e         *Engine
	ctx       context.Context
	numbering numbering
	key       string
	horizon   etcdRevision // states below it are gone
	below     etcdRevision // the walk has come to here
	newer     store.Revision
	yield     func(store.Version, error) bool
	ended     bool // yield wants no more
	dec       decoder

	deletions []etcdRevision // of the key above the horizon, ascending
	looked    bool           // they are known
	noneKept  bool           // it is known that the history has nothing of the key
}

// run begins with the record as it is right below w.below.
func (w *walk) run(kv *mvccpb.KeyValue) {
	err := w.live(kv)
	if err == nil && !w.ended && !w.noneKept {
		err = w.kept()
	}
	if err != nil && !w.ended {
		w.yield(store.Version{}, err)
	}
}

func (w *walk) give(v store.Version, err error) {
	w.ended = w.ended || !w.yield(v, err)
}

// live yields what etcd still has as it was written.
func (w *walk) live(kv *mvccpb.KeyValue) error {
	for known := true; !w.ended && w.below > w.horizon; {
		var err error
		if !known {
			if kv, err = w.at(w.below - 1); errors.Is(err, store.ErrCompacted) {
				return nil
			}
		}
		if err == nil && kv == nil {
			kv, known, err = w.deletion()
			if err == nil && !known {
				return nil // there was nothing before
			}
			if err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if kv, known, err = w.record(kv); err != nil {
			return err
		}
	}
	return nil
}

// record yields a record. If the one before it had to be read it is returned, known.
func (w *walk) record(kv *mvccpb.KeyValue) (prev *mvccpb.KeyValue, known bool, err error) {
	rev := w.numbering.store(kv.ModRevision)
	s, err := w.dec.decode(kv.Key, kv.Value)
	if err != nil {
		err = &store.CorruptError{Key: w.key, Revision: rev, Err: err}
		w.below, w.newer = kv.ModRevision, rev
		w.give(store.Version{}, err)
		return nil, false, nil
	}
	v := store.Version{Record: s.record(w.key, rev, w.numbering.store(kv.CreateRevision)), Weight: s.weight, Until: w.newer, Was: s.was}
	switch {
	case s.linked:
		v.Prev = s.prev
	case kv.Version <= 1:
		v.Prev = store.Absent
	default:
		if prev, err = w.at(kv.ModRevision - 1); err == nil && prev != nil {
			v.Prev, known = w.numbering.store(prev.ModRevision), true
			break
		}
		if err != nil && !errors.Is(err, store.ErrCompacted) {
			return nil, false, err
		}
		x, err := w.index()
		if err != nil {
			return nil, false, err
		}
		v.Prev = before(&x, w.numbering, &s, kv)
	}
	if kv.Version <= 1 && w.looked && !w.deletedBetween(kv.ModRevision) {
		known = true // that there is nothing right before it
	}
	w.below, w.newer = kv.ModRevision, rev
	w.give(v, nil)
	return prev, known, nil
}

func (w *walk) deletedBetween(below etcdRevision) bool {
	return len(w.deletions) > 0 && w.deletions[0] < below
}

// deletion yields the last deletion below w.below; known is false if there is none.
// The record that it deleted is returned.
func (w *walk) deletion() (was *mvccpb.KeyValue, known bool, err error) {
	if err := w.look(); err != nil {
		return nil, false, err
	}
	n, _ := slices.BinarySearch(w.deletions, w.below)
	if n == 0 || w.deletions[n-1] <= w.horizon {
		return nil, false, nil
	}
	at := w.deletions[n-1]
	tomb, err := w.e.read(w.ctx, w.e.keys.tombstone(), at)
	if err == nil {
		was, err = w.at(at - 1)
	}
	switch {
	case errors.Is(err, store.ErrCompacted):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	rev := w.numbering.store(at)
	v := store.Version{Record: store.Record{Key: w.key, Revision: rev}, Deleted: true, Until: rev}
	if tomb != nil && tomb.ModRevision == at {
		s, err := w.dec.decode(tomb.Key, tomb.Value)
		if err != nil {
			w.below, w.newer = at, rev
			w.give(store.Version{}, &store.CorruptError{Key: w.key, Revision: rev, Err: err})
			return was, true, nil
		}
		v.Time, v.User, v.Weight = s.time, s.user, s.weight
	}
	if was != nil {
		v.Prev, v.Created = w.numbering.store(was.ModRevision), w.numbering.store(was.CreateRevision)
	}
	w.below, w.newer = at, rev
	w.give(v, nil)
	return was, true, nil
}

// look finds the deletions of the key above the horizon, if they are not known.
func (w *walk) look() error {
	for !w.looked && w.below-1 > w.horizon {
		create := &pb.WatchCreateRequest{Key: w.e.keys.record(w.key), StartRevision: w.horizon + 1,
			Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}
		var found []etcdRevision
		err := w.e.replay(w.ctx, create, w.below-1, func(r *pb.WatchResponse, _ etcdRevision) bool {
			for _, ev := range r.Events {
				found = append(found, ev.Kv.ModRevision)
			}
			return true
		})
		var gap *gapError
		if errors.As(err, &gap) {
			w.horizon = max(w.horizon+1, gap.to) // what was there has moved
			continue
		}
		if err != nil {
			return err
		}
		w.deletions, w.looked = found, true
	}
	return nil
}

// at reads the record as it was at a revision; nil if there was none.
func (w *walk) at(rev etcdRevision) (*mvccpb.KeyValue, error) {
	if rev < w.horizon {
		return nil, store.ErrCompacted
	}
	return w.e.read(w.ctx, w.e.keys.record(w.key), rev)
}

// read reads a key as it was at a revision that was seen, from whichever member answers.
func (e *Engine) read(ctx context.Context, key []byte, rev etcdRevision) (*mvccpb.KeyValue, error) {
	r, err := e.rangeOf(ctx, &pb.RangeRequest{Key: key, Revision: rev, Serializable: true})
	if errors.Is(err, store.ErrFuture) { // this one is behind
		r, err = e.rangeOf(ctx, &pb.RangeRequest{Key: key, Revision: rev})
	}
	if err != nil {
		return nil, err
	}
	return first(r.Kvs), nil
}

func (w *walk) index() (past.Index, error) {
	r, err := w.e.rangeOf(w.ctx, &pb.RangeRequest{Key: w.e.keys.index(w.key)})
	if err != nil || len(r.Kvs) == 0 {
		return past.Index{}, err
	}
	x, err := past.ParseIndex(r.Kvs[0].Key, r.Kvs[0].Value)
	if err != nil {
		return past.Index{}, nil // it is made anew when something moves
	}
	return x, nil
}

// kept yields what the history has below where the walk has come to.
func (w *walk) kept() error {
	from, to := w.e.keys.versions(w.key, w.numbering.store(w.below))
	for !w.ended {
		r, err := w.e.rangeOf(w.ctx, &pb.RangeRequest{Key: from, RangeEnd: to, Limit: keptPage})
		if err != nil {
			return err
		}
		for _, kv := range r.Kvs {
			if err := w.ctx.Err(); err != nil {
				return err
			}
			from = append(slices.Clone(kv.Key), 0)
			_, rev, ok := w.e.keys.parseVersion(kv.Key)
			if !ok {
				continue // nobody's key
			}
			k, err := w.dec.kept(kv.Key, kv.Value)
			if err != nil {
				w.give(store.Version{}, &store.CorruptError{Key: w.key, Revision: rev, Err: err})
			} else {
				w.give(k.version(w.key, rev), nil)
			}
			if w.ended {
				return nil
			}
		}
		if !r.More {
			return nil
		}
	}
	return nil
}

// Past is store.Historian's.
func (e *Engine) Past(ctx context.Context, at store.Revision) (iter.Seq2[store.Version, error], error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	if e.past.keep.Keep == nil {
		return nil, store.ErrNoHistory
	}
	n, _ := e.view()
	r, err := e.rangeOf(ctx, &pb.RangeRequest{Key: e.keys.meta()})
	if err != nil {
		return nil, err
	}
	p := pastOf{e: e, ctx: ctx, numbering: n, at: r.Header.Revision, view: past.View{Keeping: &e.past.keep, At: at}}
	if at != 0 {
		rev, ok := n.etcd(at)
		switch {
		case !ok || at < e.horizon.Load():
			return nil, store.ErrCompacted
		case rev > p.at:
			return nil, store.ErrFuture
		}
		p.at = rev
	}
	return func(yield func(store.Version, error) bool) {
		p := p // each reading begins anew
		p.yield = yield
		if err := p.run(); err != nil && !p.ended {
			yield(store.Version{}, err)
		}
	}, nil
}

// A pastOf reads the history of all keys as it was at a revision.
type pastOf struct {
	e         *Engine
	ctx       context.Context
	numbering numbering
	at        etcdRevision
	horizon   etcdRevision
	view      past.View
	yield     func(store.Version, error) bool
	ended     bool
	deletions map[string][]etcdRevision // above the horizon
}

// errEnough ends a reading of which no more is wanted.
var errEnough = errors.New("enough")

// run goes through three lists of keys side by side: the records that there are, the
// keys of which the history has something, and those that were deleted lately.
func (p *pastOf) run() error {
	p.horizon = p.e.horizonInEtcd()
	if err := p.findDeletions(); err != nil {
		return err
	}
	var deleted []string
	for key := range p.deletions {
		deleted = append(deleted, key)
	}
	slices.Sort(deleted)
	next, stop := iter.Pull2(p.e.all(p.ctx, func() (from, to []byte) { return p.e.keys.indexes("") }, 0))
	defer stop()
	indexed, failed, more := next()
	from, to := p.e.keys.records()
	upTo := func(end string, all bool) error { // keys without a record, before one that has
		for {
			key := ""
			if more && failed != nil {
				return failed
			}
			if more {
				key = string(indexed.Key[len(p.e.keys.index("")):])
			}
			if len(deleted) > 0 && (!more || deleted[0] < key) {
				key = deleted[0]
			}
			if !more && len(deleted) == 0 || !all && key >= end {
				return nil
			}
			has := more && string(indexed.Key[len(p.e.keys.index("")):]) == key
			if has {
				indexed, failed, more = next()
			}
			if len(deleted) > 0 && deleted[0] == key {
				deleted = deleted[1:]
			}
			if err := p.of(key, nil, has); err != nil {
				return err
			}
		}
	}
	err := p.e.each(p.ctx, from, to, p.at, func(kv *mvccpb.KeyValue) error {
		key, _ := p.e.keys.parseRecord(kv.Key)
		if err := upTo(key, false); err != nil {
			return err
		}
		if more && failed != nil {
			return failed
		}
		has := more && string(indexed.Key[len(p.e.keys.index("")):]) == key
		if has {
			indexed, failed, more = next()
		}
		if len(deleted) > 0 && deleted[0] == key {
			deleted = deleted[1:]
		}
		return p.of(key, kv, has)
	})
	if err == nil {
		err = upTo("", true)
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// of yields what there is of one key: kv is its record, kept says that the history
// may have something.
func (p *pastOf) of(key string, kv *mvccpb.KeyValue, kept bool) error {
	if !p.e.past.keep.Keeps(key) {
		return nil
	}
	w := walk{e: p.e, ctx: p.ctx, key: key, numbering: p.numbering, below: p.at + 1, horizon: p.horizon,
		deletions: p.deletions[key], looked: true, noneKept: !kept}
	w.yield = func(v store.Version, err error) bool {
		if err != nil || p.view.Take(&v) {
			p.ended = !p.yield(v, err)
		}
		return !p.ended
	}
	if kv != nil && len(w.deletions) == 0 && !kept {
		if weight, linked := weightIn(kv.Value); weight == store.Passing && (linked || kv.Version <= 1) {
			w.horizon = kv.ModRevision // what it was before is of no interest
		}
	}
	w.run(kv)
	if p.ended {
		return errEnough
	}
	return p.ctx.Err()
}

// findDeletions finds which keys were deleted above the horizon.
func (p *pastOf) findDeletions() error {
	p.deletions = map[string][]etcdRevision{}
	from, to := p.e.keys.records()
	create := &pb.WatchCreateRequest{Key: from, RangeEnd: to, StartRevision: p.horizon + 1,
		Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}
	err := p.e.replay(p.ctx, create, p.at, func(r *pb.WatchResponse, _ etcdRevision) bool {
		for _, ev := range r.Events {
			if key, ok := p.e.keys.parseRecord(ev.Kv.Key); ok && p.e.past.keep.Keeps(key) && ev.Kv.ModRevision <= p.at {
				p.deletions[key] = append(p.deletions[key], ev.Kv.ModRevision)
			}
		}
		return true
	})
	if errors.As(err, new(*gapError)) {
		return store.ErrCompacted
	}
	return err
}

// all is a range of etcd's keys, page by page.
func (e *Engine) all(ctx context.Context, bounds func() (from, to []byte), at etcdRevision) iter.Seq2[*mvccpb.KeyValue, error] {
	return func(yield func(*mvccpb.KeyValue, error) bool) {
		from, to := bounds()
		err := e.each(ctx, from, to, at, func(kv *mvccpb.KeyValue) error {
			if !yield(kv, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// each calls f for each key of a range, which is read page by page, at a revision
// (0: as it is).
func (e *Engine) each(ctx context.Context, from, to []byte, at etcdRevision, f func(*mvccpb.KeyValue) error) error {
	size := int64(pageFirst)
	for {
		r, err := e.rangeOf(ctx, &pb.RangeRequest{Key: from, RangeEnd: to, Revision: at, Limit: size})
		if err != nil {
			return err
		}
		bytes := 0
		for _, kv := range r.Kvs {
			bytes += len(kv.Key) + len(kv.Value) + 64
			if err := f(kv); err != nil {
				return err
			}
		}
		if !r.More || len(r.Kvs) == 0 {
			return nil
		}
		n := len(r.Kvs)
		from = append(slices.Clone(r.Kvs[n-1].Key), 0)
		size = min(max(int64(pageBytes/max(bytes/n, 1)), 1), pageMost)
	}
}
