package etcd

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"proa/internal/store"
	"proa/internal/store/seal"
)

// The history. Before etcd is compacted, the versions that will be gone then are
// written once more, under keys of their own. All of that hangs on one key,
// the history's state: each transaction compares its revision and changes it, so
// that there is one after the other, whoever makes them, and none twice. The state
// says up to where versions have moved. Between then and the compaction a version
// is in both places; readers of the history take the one that is no history yet.

// pasts is an engine's part in the history.
type pasts struct {
	e    *Engine
	keep store.Keeping

	busy sync.Mutex   // held by whoever changes the history
	done etcdRevision // what ended up to here has moved; guarded by busy

	mu    sync.Mutex
	queue []replaced   // by the changes above from, ascending, as the watch has told
	from  etcdRevision // what ended up to here is not in the queue, and can be read again
}

// mostQueued bounds the queue. What is too much is read again.
const mostQueued = 1 << 16

// A replaced is what the history is to know of a change.
type replaced struct {
	rev     etcdRevision
	key     string
	prev    etcdRevision // of the version that it ended; 0: there was none
	created etcdRevision // of that version's key
	size    int          // of that version
	keep    bool         // that version is to be kept
	deleted *stored      // the change is a deletion that is to be kept
	link    bool         // the change made a record that does not say what it followed
}

// endedBy says what a change of a key means to the history; nil if nothing.
// damaged says that the change itself could not be read.
func (p *pasts) endedBy(key string, rec *mvccpb.Event, s stored, damaged bool) *replaced {
	if rec.PrevKv == nil || !p.keep.Keeps(key) {
		return nil
	}
	w, linked := weightIn(rec.PrevKv.Value)
	deleted := rec.Type == mvccpb.Event_DELETE
	x := replaced{rev: rec.Kv.ModRevision, key: key, prev: rec.PrevKv.ModRevision, created: rec.PrevKv.CreateRevision,
		size: len(rec.PrevKv.Key) + len(rec.PrevKv.Value), keep: w != store.Passing, link: !deleted && !s.linked}
	if deleted && !damaged && s.weight != store.Passing {
		s.value = nil
		x.deleted = &s
	}
	noted := !linked && rec.PrevKv.Version > 1 // perhaps in the index, which it must leave
	if !x.keep && x.deleted == nil && !x.link && !noted {
		return nil
	}
	return &x
}

// note remembers what the watch has told.
func (p *pasts) note(x *replaced) {
	if x == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == mostQueued {
		p.queue, p.from = nil, x.rev
		return
	}
	p.queue = append(p.queue, *x)
}

// moveUpTo moves what has ended up to a revision that the watch has passed. The
// caller holds busy.
func (p *pasts) moveUpTo(ctx context.Context, to etcdRevision) error {
	if p.keep.Keep == nil {
		return nil
	}
	st, err := p.state(ctx)
	if err != nil {
		return fmt.Errorf("the history: %w", err)
	}
	p.done = max(p.done, st.Moved, p.e.horizonInEtcd())
	p.mu.Lock()
	again := min(p.from, to)
	p.mu.Unlock()
	for p.done < again && err == nil { // after a start, or when there was too much
		var list []replaced
		var upTo etcdRevision
		if list, upTo, err = p.scan(ctx, p.done, again); err == nil {
			err = p.move(ctx, list, upTo)
		}
	}
	if err == nil {
		err = p.move(ctx, p.queued(to), to)
	}
	if errors.Is(err, store.ErrReadOnly) { // a compaction must go on, or there never is room again
		p.e.logger.Error("There is no room for the history of what has changed: it is lost", "error", err)
		p.done, err = to, nil
	}
	if err != nil {
		return fmt.Errorf("move versions to the history: %w", err)
	}
	p.forgetQueued()
	if err := p.fit(ctx); err != nil && !errors.Is(err, store.ErrReadOnly) {
		return fmt.Errorf("shorten the history: %w", err)
	}
	return nil
}

// queued is what the queue has up to a revision.
func (p *pasts) queued(to etcdRevision) []replaced {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := sort.Search(len(p.queue), func(i int) bool { return p.queue[i].rev > to })
	return p.queue[:n:n]
}

// forgetQueued takes out of the queue what is done.
func (p *pasts) forgetQueued() {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := sort.Search(len(p.queue), func(i int) bool { return p.queue[i].rev > p.done })
	p.queue = append([]replaced(nil), p.queue[n:]...)
	p.from = max(p.from, p.done)
}

// scan reads from etcd what the changes after a revision have ended, up to
// another one or until it is enough, and returns how far it came.
func (p *pasts) scan(ctx context.Context, after, upTo etcdRevision) (list []replaced, at etcdRevision, err error) {
	const enough = 4096
	at = after
	err = p.e.replay(ctx, p.e.allChanges(after), upTo, func(r *pb.WatchResponse, come etcdRevision) bool {
		for _, c := range p.e.parse(r, at) {
			if c.ended != nil && c.rev <= upTo { // what is above it is not over yet
				list = append(list, *c.ended)
			}
		}
		at = max(at, come)
		return len(list) < enough
	})
	var gap *gapError
	if errors.As(err, &gap) { // somebody else has compacted etcd: what they have not moved is lost
		return nil, min(max(at, gap.to), upTo), nil
	}
	return list, min(at, upTo), err
}

// replay hands out what a watch says up to a revision, until f has enough, and
// goes on with the next member if one fails. f is told how far the watch is with it.
func (e *Engine) replay(ctx context.Context, create *pb.WatchCreateRequest, until etcdRevision, f func(r *pb.WatchResponse, upTo etcdRevision) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	var pause pauser
	for {
		m := e.cluster.current()
		err := e.replayFrom(ctx, m, create, until, f)
		switch {
		case err == nil || errors.As(err, new(*gapError)):
			return err
		case e.ctx.Err() != nil:
			return store.ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		}
		e.cluster.failed(m, fmt.Errorf("%s: %w", m.endpoint, plain(err)))
		if err := e.cluster.wait(ctx, &pause); err != nil {
			return err
		}
	}
}

// replayFrom asks one member. It moves the beginning in create on as it goes.
func (e *Engine) replayFrom(ctx context.Context, m *member, create *pb.WatchCreateRequest, until etcdRevision, f func(*pb.WatchResponse, etcdRevision) bool) error {
	s, err := e.openStream(ctx, m, create)
	if err != nil {
		return err
	}
	defer s.cancel()
	defer newTicker(s.ask)()
	for create.StartRevision <= until {
		r, err := s.next()
		if err != nil {
			return err
		}
		at := r.Header.Revision
		if n := len(r.Events); n > 0 {
			at = r.Events[n-1].Kv.ModRevision
		} else if r.Created {
			continue
		}
		create.StartRevision = max(create.StartRevision, at+1)
		if !f(r, at) {
			return nil
		}
	}
	return nil
}

// horizonInEtcd is the engine's horizon as etcd counts.
func (e *Engine) horizonInEtcd() etcdRevision {
	n, _ := e.view()
	h, _ := n.etcd(e.horizon.Load())
	return max(h, n.last().Etcd)
}

// A pastState is the value of the key on which the history hangs.
type pastState struct {
	Format int          `json:"format"`
	Moved  etcdRevision `json:"moved"` // what ended up to here is there, if it is to be kept
	Bytes  int64        `json:"bytes"` // keys and values of the versions

	at etcdRevision // of the key
}

const pastFormat = 1

func (s pastState) encode() []byte {
	s.Format = pastFormat
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // numbers only
	}
	return b
}

// parsePastState reads the state; there is none before the first version has moved.
func parsePastState(r *pb.RangeResponse) (s pastState, err error) {
	if len(r.Kvs) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(r.Kvs[0].Value, &s); err != nil {
		return s, fmt.Errorf("the key %s is damaged: %w", r.Kvs[0].Key, err)
	}
	if s.Format != pastFormat {
		return s, fmt.Errorf("the history has the layout %d, and this proa knows %d: use a newer proa", s.Format, pastFormat)
	}
	s.at = r.Kvs[0].ModRevision
	return s, nil
}

func (p *pasts) state(ctx context.Context) (pastState, error) {
	r, err := p.e.rangeOf(ctx, &pb.RangeRequest{Key: p.e.keys.pastState()})
	if err != nil {
		return pastState{}, err
	}
	return parsePastState(r)
}

// rangeOf asks for a range.
func (e *Engine) rangeOf(ctx context.Context, req *pb.RangeRequest) (r *pb.RangeResponse, err error) {
	err = e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		r, err = m.kv.Range(ctx, req, o...)
		return err
	})
	if err != nil && e.usable() != nil {
		return nil, store.ErrClosed
	}
	return r, translate(err)
}

// A kept is a version in the history.
type kept struct {
	stored
	deleted bool
	created store.Revision
	until   store.Revision
}

// encode makes the value for the key of a version, which the checksum covers.
func (k *kept) encode(key []byte) []byte {
	flags := byte(k.weight) << weightShift
	if k.deleted {
		flags |= flagDeleted
	}
	if k.was != 0 {
		flags |= flagWas
	}
	b := make([]byte, 0, seal.Size+7*binary.MaxVarintLen64+len(k.user)+len(k.value))
	b = append(b, recordFormat, flags, 0, 0, 0, 0)
	for _, n := range []store.Revision{k.prev, k.created, k.until} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	if k.was != 0 {
		b = binary.AppendUvarint(b, uint64(k.was))
	}
	nanos := int64(0)
	if !k.time.IsZero() {
		nanos = k.time.UnixNano()
	}
	b = binary.AppendVarint(b, nanos)
	b = binary.AppendUvarint(b, uint64(k.codec))
	b = binary.AppendUvarint(b, uint64(len(k.user)))
	b = append(b, k.user...)
	if !k.deleted {
		b = append(b, k.value...)
	}
	seal.Put(key, b)
	return b
}

// kept decodes the value of a version.
func (d *decoder) kept(key, b []byte) (k kept, err error) {
	switch {
	case len(b) < seal.Size:
		return k, seal.ErrTruncated
	case b[0] != recordFormat:
		return k, errFormat
	case !seal.Intact(key, b):
		return k, seal.ErrChecksum
	}
	f := seal.Fields{Rest: b[seal.Size:]}
	k.weight, _ = weightIn(b)
	k.deleted = b[1]&flagDeleted != 0
	k.linked, k.prev = true, store.Revision(f.Uvarint())
	k.created, k.until = store.Revision(f.Uvarint()), store.Revision(f.Uvarint())
	if b[1]&flagWas != 0 {
		k.was = store.Revision(f.Uvarint())
	}
	if nanos := f.Varint(); nanos != 0 {
		k.time = time.Unix(0, nanos).UTC()
	}
	k.codec = uint16(f.Uvarint())
	user := f.Bytes(f.Uvarint())
	if f.Bad {
		return kept{}, seal.ErrTruncated
	}
	if d.user != string(user) {
		d.user = string(user)
	}
	k.user = d.user
	if len(f.Rest) > 0 {
		k.value = f.Rest[:len(f.Rest):len(f.Rest)]
	}
	return k, nil
}

// version is a version as the history shows it.
func (k *kept) version(key string, rev store.Revision) store.Version {
	v := store.Version{Record: k.record(key, rev, k.created), Deleted: k.deleted, Weight: k.weight, Prev: k.prev, Until: k.until, Was: k.was}
	v.Expires = time.Time{}
	return v
}
