package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"proa/internal/store"
	"proa/internal/store/past"
)

// What leaves the history because it is too large, and what is taken over from another.

// fit drops what ended first until the history is no larger than it may be.
func (p *pasts) fit(ctx context.Context) error {
	for {
		from, to := p.e.keys.orders()
		m, got, err := p.begin(ctx, nil, []*pb.RangeRequest{{Key: from, RangeEnd: to, Limit: moveChanges}})
		if err != nil {
			return translate(err)
		}
		if m.state.Bytes <= p.keep.Bytes {
			return nil
		}
		if len(got[0].Kvs) == 0 { // which takes damage
			p.e.logger.Error("The history is too large, but holds nothing that could go", "bytes", m.state.Bytes)
			return nil
		}
		if err := p.dropOldest(ctx, got[0].Kvs); err != nil {
			return err
		}
	}
}

// dropOldest drops versions by entries of the order, in one transaction.
func (p *pasts) dropOldest(ctx context.Context, orders []*mvccpb.KeyValue) error {
	var keys []string
	for _, kv := range orders {
		if key, ok := parseSealedOrder(kv.Key, kv.Value); ok && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	m, _, err := p.begin(ctx, keys, nil)
	if err != nil {
		return translate(err)
	}
	touched := map[string]bool{}
	left := m.state.Bytes
	for _, kv := range orders {
		until, known := p.e.keys.parseOrder(kv.Key)
		if left <= p.keep.Bytes || len(m.order)*4 >= moveOps {
			break
		}
		if !known {
			continue // nobody's key
		}
		m.order = append(m.order, until)
		key, ok := parseSealedOrder(kv.Key, kv.Value)
		if !ok { // its versions go when their key has too many
			p.e.logger.Error("A damaged entry of the history's order is dropped", "revision", until)
			continue
		}
		k := m.shelves[key]
		touched[key] = true
		k.Entries = slices.DeleteFunc(k.Entries, func(x past.Entry) bool {
			if x.Until == until {
				k.gone = append(k.gone, x)
				left -= x.Size
			}
			return x.Until == until
		})
	}
	for key := range m.shelves {
		if !touched[key] {
			delete(m.shelves, key)
		}
	}
	_, err = m.finish(ctx) // if it was not made, the caller sees that
	return err
}

// Adopt is store.Historian's.
func (e *Engine) Adopt(ctx context.Context, versions []store.Version) error {
	if err := e.enter(); err != nil {
		return err
	}
	p := &e.past
	if p.keep.Keep == nil {
		return nil
	}
	versions = slices.DeleteFunc(past.Ascending(versions), func(v store.Version) bool {
		return v.Weight == store.Passing || !p.keep.Keeps(v.Key)
	})
	p.busy.Lock()
	defer p.busy.Unlock()
	for len(versions) > 0 {
		n, err := p.adopt(ctx, versions)
		if errors.Is(err, errTooLarge) && n > 1 {
			n, err = p.adopt(ctx, versions[:1])
		}
		if errors.Is(err, errTooLarge) {
			err = fmt.Errorf("%s at revision %d: %w", versions[0].Key, versions[0].Revision, err)
		}
		if err != nil {
			return fmt.Errorf("store: take over a history: %w", err)
		}
		versions = versions[n:]
	}
	if err := p.fit(ctx); err != nil {
		return fmt.Errorf("store: shorten the history: %w", err)
	}
	return nil
}

// adopt takes over as many versions as make a transaction, and returns how many;
// with an error, how many they would have been.
func (p *pasts) adopt(ctx context.Context, versions []store.Version) (n int, err error) {
	var keys []string
	bytes := 0
	for i := range versions[:min(len(versions), moveChanges)] {
		if bytes += len(versions[i].Value); i > 0 && bytes > moveBytes {
			break
		}
		if !slices.Contains(keys, versions[i].Key) {
			keys = append(keys, versions[i].Key)
		}
		n++
	}
	m, _, err := p.begin(ctx, keys, nil)
	if err != nil {
		return 0, translate(err)
	}
	for i := range versions[:n] {
		if m.ops() >= moveOps && i > 0 {
			n = i
			break
		}
		v := &versions[i]
		s := stored{time: v.Time, user: v.User, codec: v.Codec, weight: v.Weight, linked: true, prev: v.Prev, was: v.Was, value: v.Value}
		m.shelve(v.Key, v.Revision, &kept{stored: s, deleted: v.Deleted, created: v.Created, until: v.Until})
	}
	made, err := m.finish(ctx)
	if err == nil && !made {
		n = 0
	}
	return n, err
}

// Forget is store.Historian's.
func (e *Engine) Forget(ctx context.Context, prefix string) error {
	if err := e.enter(); err != nil {
		return err
	}
	e.past.busy.Lock()
	defer e.past.busy.Unlock()
	for {
		done, err := e.past.forget(ctx, prefix)
		if err != nil {
			return fmt.Errorf("store: forget the history: %w", err)
		}
		if done {
			return nil
		}
	}
}

// forget drops what is kept of the keys with a prefix, in one transaction, and then
// their part of the order, of which nobody takes notice any more.
func (p *pasts) forget(ctx context.Context, prefix string) (done bool, err error) {
	keys := &p.e.keys
	m, _, err := p.begin(ctx, nil, nil)
	if err != nil {
		return false, translate(err)
	}
	from, to := keys.indexes(prefix)
	var orders []*pb.RequestOp
	found, heads := false, false
	err = p.e.each(ctx, from, to, 0, func(kv *mvccpb.KeyValue) error {
		found = true
		key := string(kv.Key[len(keys.index("")):])
		k, err := p.shelf(ctx, key, []*mvccpb.KeyValue{kv})
		if err != nil {
			return err
		}
		heads = heads || k.Head != 0
		for _, x := range k.Entries {
			m.state.Bytes -= x.Size
			orders = append(orders, deleteOp(keys.order(x.Until)))
		}
		return nil
	})
	if err != nil || !found {
		return !found, err
	}
	if heads {
		return true, p.forgetEntries(ctx, prefix)
	}
	txn := &pb.TxnRequest{Compare: []*pb.Compare{modIs(keys.pastState(), m.state.at)}}
	txn.Success = append(txn.Success, deleteRangeOp(from, to), deleteRangeOp(keys.allVersions(prefix)))
	if prefix == "" {
		txn.Success, orders = append(txn.Success, deleteRangeOp(keys.orders())), nil
		m.state.Bytes = 0
	}
	if made, err := p.send(ctx, txn, m.state); err != nil || !made {
		return false, err
	}
	for some := range slices.Chunk(orders, moveOps) {
		err := p.e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) error {
			_, err := m.kv.Txn(ctx, &pb.TxnRequest{Success: some}, o...)
			return err
		})
		if err != nil {
			return false, translate(err)
		}
	}
	return true, nil
}

// forgetEntries is forget where indexes hold what must stay: what records do not say
// that were written whatever there was before.
func (p *pasts) forgetEntries(ctx context.Context, prefix string) error {
	from, to := p.e.keys.indexes(prefix)
	return p.e.each(ctx, from, to, 0, func(kv *mvccpb.KeyValue) error {
		key := string(kv.Key[len(p.e.keys.index("")):])
		for {
			m, _, err := p.begin(ctx, []string{key}, nil)
			if err != nil {
				return translate(err)
			}
			k := m.shelves[key]
			if len(k.Entries) == 0 {
				return nil
			}
			gone := k.Entries
			k.Entries = nil
			m.drop(k, gone)
			if _, err := m.finish(ctx); err != nil {
				return err
			}
		}
	})
}
