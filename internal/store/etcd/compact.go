package etcd

import (
	"context"
	"fmt"
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"proa/internal/store"
)

// Watch is store.Engine's.
func (e *Engine) Watch(ctx context.Context, prefix string, after store.Revision) (iter.Seq2[store.Batch, error], error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	switch {
	case after < e.horizon.Load():
		return nil, store.ErrCompacted
	case after > max(e.seen.Load(), e.Revision()):
		return nil, store.ErrFuture
	}
	return e.feed.Watch(ctx, prefix, after), nil
}

// Compact is store.Engine's. It compacts all of this etcd, whoever else uses it. What
// the history keeps of what goes has moved there before.
func (e *Engine) Compact(ctx context.Context, rev store.Revision) error {
	if err := e.enter(); err != nil {
		return err
	}
	e.past.busy.Lock()
	defer e.past.busy.Unlock()
	n, _ := e.view()
	to, _ := n.etcd(rev)
	switch {
	case rev > max(e.seen.Load(), e.Revision()):
		return store.ErrFuture
	case rev <= e.horizon.Load():
		return nil
	}
	err := e.past.moveUpTo(ctx, to)
	if err == nil {
		err = e.compact(ctx, to)
	}
	if err != nil {
		return fmt.Errorf("store: compact to revision %d: %w", rev, err)
	}
	raise(&e.horizon, rev)
	return nil
}

func (e *Engine) compact(ctx context.Context, to etcdRevision) error {
	err := e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) error {
		_, err := m.kv.Compact(ctx, &pb.CompactionRequest{Revision: to}, o...)
		return err
	})
	if says(err, saidCompacted) { // by somebody else, or by the call whose answer was lost
		return nil
	}
	return translate(err)
}

// Advance is store.Advancer's. The jump is a change of the meta key, which says
// what the store's revision is from there on.
func (e *Engine) Advance(ctx context.Context, to store.Revision) error {
	if to <= 0 {
		return &store.InvalidError{Reason: "cannot advance to a revision that is not positive"}
	}
	if err := e.enter(); err != nil {
		return err
	}
	e.past.busy.Lock()
	defer e.past.busy.Unlock()
	e.moves.Lock()
	defer e.moves.Unlock()
	if err := e.past.moveUpTo(ctx, e.position()); err != nil { // nothing is written meanwhile
		return fmt.Errorf("store: advance to revision %d: %w", to, err)
	}
	for {
		n, fence := e.view()
		if newest := max(e.Revision(), e.seen.Load()); to < newest {
			return fmt.Errorf("store: cannot advance from revision %d back to %d", newest, to)
		}
		var resp *pb.TxnResponse
		err := e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
			resp, err = m.kv.Txn(ctx, &pb.TxnRequest{
				Compare: []*pb.Compare{modIs(e.keys.meta(), fence)},
				Success: []*pb.RequestOp{putOp(e.keys.meta(), n.encode(&to))},
			}, o...)
			return err
		})
		if err == nil {
			err = e.reach(ctx, resp.Header.Revision)
		}
		if err != nil {
			return fmt.Errorf("store: advance to revision %d: %w", to, translate(err))
		}
		if now, _ := e.view(); now.last().Store == to { // ours, also if its answer was lost
			return e.compact(ctx, now.last().Etcd)
		}
	}
}
