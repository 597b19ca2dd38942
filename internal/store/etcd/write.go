package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"proa/internal/store"
)

// A writing is a write whose change has not come by in the watch.
type writing struct {
	seq  uint64
	done chan struct{} // closed when it has come by, or never will be seen to
	rev  store.Revision
	lost bool // the watch has jumped over what may have been it
}

// Write is store.Engine's. A call that etcd does not answer is cleared up before
// there is an answer: see clear. If etcd does not come back in time the error is
// of the kind store.ErrUnknown.
func (e *Engine) Write(ctx context.Context, op store.Op) (store.Revision, error) {
	if err := op.Check(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	e.moves.RLock()
	defer e.moves.RUnlock()
	w := &writing{seq: e.seq.Add(1), done: make(chan struct{})}
	if err := e.register(w); err != nil {
		return 0, err
	}
	defer e.forget(w)
	var pause pauser
	for {
		n, fence := e.view()
		resp, out, err := e.send(ctx, n, fence, w, &op)
		switch {
		case out == answered && resp.Succeeded:
			return e.made(ctx, w, n.store(resp.Header.Revision))
		case out == answered:
			again, err := e.unmet(ctx, n, fence, &op, resp)
			if !again {
				return 0, err
			}
			continue
		case out == refused && says(err, saidNoSpace):
			return e.full(ctx, w, translate(err))
		case out == refused:
			return 0, refusal(&op, err)
		case out == ended:
			return 0, err
		case out == doubtful:
			sure, rev, err := e.clear(ctx, fence, w, err)
			if sure || err != nil {
				return rev, err
			}
		}
		if err := e.cluster.wait(ctx, &pause); err != nil {
			return 0, err
		}
		if err := e.enter(); err != nil && !errors.Is(err, store.ErrClosed) {
			return 0, err
		}
	}
}

func (e *Engine) register(w *writing) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	if e.dead != nil {
		return e.dead
	}
	e.writing[w.seq] = w
	return nil
}

func (e *Engine) forget(w *writing) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.writing, w.seq)
}

// send asks etcd once to make the change, if nobody has raised the fence and the
// key is as expected.
func (e *Engine) send(ctx context.Context, n numbering, fence etcdRevision, w *writing, op *store.Op) (*pb.TxnResponse, outcome, error) {
	txn := e.txn(n, fence, w, op)
	var resp *pb.TxnResponse
	out, err := e.cluster.call(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		resp, err = m.kv.Txn(ctx, txn, o...)
		return err
	})
	return resp, out, err
}

func (e *Engine) txn(n numbering, fence etcdRevision, w *writing, op *store.Op) *pb.TxnRequest {
	key := e.keys.record(op.Key)
	txn := &pb.TxnRequest{
		Compare: []*pb.Compare{modIs(e.keys.meta(), fence)},
		Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: key}), rangeOp(&pb.RangeRequest{Key: e.keys.meta()})},
	}
	switch {
	case op.Expect == store.Absent:
		txn.Compare = append(txn.Compare, modIs(key, 0))
	case op.Expect != store.Any:
		rev, ok := n.etcd(op.Expect)
		if !ok {
			rev = math.MaxInt64 // nothing ever had it
		}
		txn.Compare = append(txn.Compare, modIs(key, rev))
	case op.Delete:
		txn.Compare = append(txn.Compare, exists(key))
	}
	s := stored{mark: mark{e.session, w.seq}, time: e.clock.Now().Round(0), user: op.User, weight: op.Weight}
	if op.Delete {
		tomb := e.keys.tombstone()
		txn.Success = []*pb.RequestOp{deleteOp(key), putOp(tomb, s.encode(tomb, true))}
	} else {
		s.codec, s.value = op.Codec, op.Value
		if op.TTL > 0 {
			s.expires = s.time.Add(op.TTL).UnixNano()
		}
		s.linked, s.prev = op.Expect > 0, max(op.Expect, 0)
		if o := op.Origin; o != nil {
			s.was, s.linked, s.prev = o.Revision, true, o.Prev
			if !o.Time.IsZero() {
				s.time = o.Time.Round(0)
			}
		}
		txn.Success = []*pb.RequestOp{putOp(key, s.encode(key, false))}
	}
	txn.Success = append(txn.Success, e.endingOps(op.Key, s.expires)...)
	return txn
}

// endingOps keep the index of expiries: the one that the key had goes, with what
// an earlier race has left, and the new one comes.
func (e *Engine) endingOps(key string, expires int64) (ops []*pb.RequestOp) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if was, ok := e.ending[key]; ok && was.at != expires {
		ops = append(ops, deleteOp(e.keys.expiry(was.at, key)))
	}
	if expires != 0 {
		ops = append(ops, putOp(e.keys.expiry(expires, key), nil))
	}
	for name := range e.stale {
		if len(ops) >= 16 {
			break
		}
		if name != string(e.keys.expiry(expires, key)) {
			ops = append(ops, deleteOp([]byte(name)))
		}
		delete(e.stale, name)
	}
	return ops
}

// made waits until the change has come by in the watch, so that reads and
// watches show it.
func (e *Engine) made(ctx context.Context, w *writing, rev store.Revision) (store.Revision, error) {
	select {
	case <-w.done:
		return e.saw(rev), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-e.ctx.Done():
		return 0, store.ErrClosed
	}
}

// unmet says what it means that a change was not made: that the fence was
// raised, so that it is to be tried again, or that the key is not as expected.
func (e *Engine) unmet(ctx context.Context, n numbering, fence etcdRevision, op *store.Op, resp *pb.TxnResponse) (again bool, err error) {
	key, meta := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
	if len(meta) == 0 {
		err := fmt.Errorf("store: %s: the key %s is gone: somebody has deleted the store's data in etcd", e.target, e.keys.meta())
		e.kill(err)
		return false, err
	}
	if err := e.reach(ctx, resp.Header.Revision); err != nil {
		return false, err
	}
	if meta[0].ModRevision != fence {
		return true, nil
	}
	conflict := &store.ConflictError{Key: op.Key, Expect: op.Expect}
	if len(key) > 0 {
		r, err := e.decode(&decoder{}, n, key[0])
		if err != nil {
			return false, err
		}
		conflict.Current = &r
		e.saw(r.Revision)
	}
	return false, conflict
}

// clear finds out whether a change was made whose call was not answered. It
// raises the fence: what was sent before cannot be made any more after that.
// What was made has come by in the watch when that has passed the fence. If it
// was not made, and can never be, neither sure nor err is set.
func (e *Engine) clear(ctx context.Context, fence etcdRevision, w *writing, cause error) (sure bool, rev store.Revision, err error) {
	raised, err := e.raise(ctx, fence)
	if err == nil {
		err = e.reach(ctx, raised)
	}
	return e.passed(ctx, w, cause, err)
}

// full finds out whether a change was made that etcd says it has no room for: the one
// that reaches the quota is made, and answered as those are that come after it. If it was not
// the error is cause.
func (e *Engine) full(ctx context.Context, w *writing, cause error) (store.Revision, error) {
	var at etcdRevision // that etcd was at after it had answered
	err := e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) error {
		resp, err := m.kv.Range(ctx, &pb.RangeRequest{Key: e.keys.meta(), CountOnly: true}, o...)
		if err == nil {
			at = resp.Header.Revision
		}
		return err
	})
	if err == nil {
		err = e.reach(ctx, at)
	}
	if sure, rev, err := e.passed(ctx, w, cause, err); sure || err != nil {
		return rev, err
	}
	return 0, cause
}

// passed says whether the change has come by in the watch, which is beyond where it
// would be; err is why it is not.
func (e *Engine) passed(ctx context.Context, w *writing, cause, err error) (sure bool, rev store.Revision, _ error) {
	select {
	case <-w.done:
	default:
		if err != nil {
			if ctx.Err() != nil {
				return false, 0, ctx.Err()
			}
			return false, 0, fmt.Errorf("%w: %w (%w)", store.ErrUnknown, cause, err)
		}
		return false, 0, nil
	}
	if w.lost {
		return false, 0, fmt.Errorf("%w: %w, and etcd has been compacted since", store.ErrUnknown, cause)
	}
	return true, e.saw(w.rev), nil
}

// raise changes the meta key, so that no transaction that expects it at fence can
// be made any more, and returns the revision from which that holds. It does
// nothing if somebody else has done it.
func (e *Engine) raise(ctx context.Context, fence etcdRevision) (at etcdRevision, err error) {
	n, now := e.view()
	if now != fence {
		return now, nil
	}
	err = e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) error {
		resp, err := m.kv.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{modIs(e.keys.meta(), fence)},
			Success: []*pb.RequestOp{putOp(e.keys.meta(), n.encode(nil))},
		}, o...)
		if err == nil {
			at = resp.Header.Revision // of the change, or later
		}
		return err
	})
	return at, err
}

// reach waits until the watch has passed a revision of etcd's.
func (e *Engine) reach(ctx context.Context, rev etcdRevision) error {
	limit := time.NewTimer(e.cluster.patience)
	defer limit.Stop()
	for first := true; ; first = false {
		e.mu.Lock()
		there, dead, moved, ask := e.at >= rev, e.dead, e.moved, e.ask
		e.want = max(e.want, rev)
		e.mu.Unlock()
		if there || dead != nil {
			return dead
		}
		if first && ask != nil {
			ask()
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-e.ctx.Done():
			return store.ErrClosed
		case <-limit.C:
			if err := e.cluster.down(true); err != nil {
				return err
			}
			return fmt.Errorf("%w: etcd's watch does not go on to revision %d", store.ErrUnavailable, rev)
		}
	}
}

// refusal says why etcd did not take a write.
func refusal(op *store.Op, err error) error {
	if says(err, saidTooLarge) || status.Code(err) == codes.ResourceExhausted && !says(err, saidNoSpace) {
		return &store.InvalidError{Reason: fmt.Sprintf("%s: the value has %d bytes, more than this etcd takes: start etcd with a higher --max-request-bytes", op.Key, len(op.Value))}
	}
	return translate(err)
}

// decode reads a record from etcd.
func (e *Engine) decode(d *decoder, n numbering, kv *mvccpb.KeyValue) (store.Record, error) {
	rev := n.store(kv.ModRevision)
	key, ok := e.keys.parseRecord(kv.Key)
	if !ok {
		return store.Record{}, &store.CorruptError{Key: string(kv.Key), Revision: rev, Err: errFormat}
	}
	s, err := d.decode(kv.Key, kv.Value)
	if err != nil {
		return store.Record{}, &store.CorruptError{Key: key, Revision: rev, Err: err}
	}
	return s.record(key, rev, n.store(kv.CreateRevision)), nil
}
