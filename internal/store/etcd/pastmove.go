package etcd

import (
	"cmp"
	"context"
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"proa/internal/store"
	"proa/internal/store/past"
	"proa/internal/store/seal"
)

// Bounds of one transaction of the history. etcd takes 128 operations and 1.5 MB.
const (
	moveChanges = 24        // changes whose versions are read at a time
	moveBytes   = 512 << 10 // of versions; one may be larger
	moveOps     = 64        // operations after which nothing is added: the last adds 44 at most
	moveGone    = 20        // versions of one key that leave; if there are more, the rest leaves later
)

// errTooLarge is etcd's refusal of a transaction.
var errTooLarge = errors.New("larger than this etcd takes: start it with a higher --max-request-bytes")

// A mover makes one transaction of the history.
type mover struct {
	p       *pasts
	n       numbering
	state   pastState
	shelves map[string]*shelf
	order   []store.Revision // entries of the order that go, whoever's they were
	bytes   int64            // of what is put on shelves
	dec     decoder
}

// A shelf is what is kept of one key.
type shelf struct {
	past.Index
	fresh map[store.Revision][]byte // versions that are not in etcd yet
	gone  []past.Entry              // versions that are
}

// begin reads the state, the indexes of some keys and what else is asked for, all
// at one moment.
func (p *pasts) begin(ctx context.Context, keys []string, also []*pb.RangeRequest) (*mover, []*pb.RangeResponse, error) {
	m := &mover{p: p, shelves: map[string]*shelf{}}
	m.n, _ = p.e.view()
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: p.e.keys.pastState()})}}
	for _, key := range keys {
		txn.Success = append(txn.Success, rangeOp(&pb.RangeRequest{Key: p.e.keys.index(key)}))
	}
	for _, r := range also {
		txn.Success = append(txn.Success, rangeOp(r))
	}
	var resp *pb.TxnResponse
	err := p.e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		resp, err = m.kv.Txn(ctx, txn, o...)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	var got []*pb.RangeResponse
	for _, r := range resp.Responses {
		got = append(got, r.GetResponseRange())
	}
	if m.state, err = parsePastState(got[0]); err != nil {
		return nil, nil, err
	}
	for i, key := range keys {
		if m.shelves[key], err = p.shelf(ctx, key, got[1+i].Kvs); err != nil {
			return nil, nil, err
		}
	}
	return m, got[1+len(keys):], nil
}

// shelf makes a shelf of what etcd has as the index of a key. A damaged index is
// made anew from the versions.
func (p *pasts) shelf(ctx context.Context, key string, kvs []*mvccpb.KeyValue) (*shelf, error) {
	k := &shelf{fresh: map[store.Revision][]byte{}}
	if len(kvs) == 0 {
		return k, nil
	}
	x, err := past.ParseIndex(kvs[0].Key, kvs[0].Value)
	if err == nil {
		k.Index = x
		return k, nil
	}
	p.e.logger.Error("A damaged index of the history is made anew", "key", key, "error", err)
	from, to := p.e.keys.allVersions(key + "\x00")
	r, err := p.e.rangeOf(ctx, &pb.RangeRequest{Key: from, RangeEnd: to})
	if err != nil {
		return nil, err
	}
	var d decoder
	for _, kv := range r.Kvs {
		_, rev, ok := p.e.keys.parseVersion(kv.Key)
		if v, err := d.kept(kv.Key, kv.Value); err == nil && ok {
			k.Insert(past.Entry{Revision: rev, Until: v.until, Size: int64(len(kv.Key) + len(kv.Value)), Light: v.weight == store.Light})
		}
	}
	return k, nil
}

// ops is how many operations the transaction has.
func (m *mover) ops() int {
	n := 1 + len(m.order)
	for _, k := range m.shelves {
		n += 1 + 2*len(k.fresh) + 2*len(k.gone)
	}
	return n
}

// shelve puts a version on its key's shelf, unless it is there.
func (m *mover) shelve(key string, rev store.Revision, v *kept) {
	k := m.shelves[key]
	name := m.p.e.keys.version(key, rev)
	b := v.encode(name)
	size := int64(len(name) + len(b))
	if !k.Insert(past.Entry{Revision: rev, Until: v.until, Size: size, Light: v.weight == store.Light}) {
		return
	}
	k.fresh[rev] = b
	m.bytes += size
	var gone []past.Entry
	k.Entries, gone = past.Trim(k.Entries, &m.p.keep)
	m.drop(k, gone)
}

// drop takes entries that are no longer in a shelf's index out of it. The oldest go
// first; those that would make the transaction too large stay until the next time.
func (m *mover) drop(k *shelf, gone []past.Entry) {
	slices.SortFunc(gone, func(a, b past.Entry) int { return cmp.Compare(a.Revision, b.Revision) })
	for _, x := range gone {
		switch {
		case k.fresh[x.Revision] != nil:
			m.bytes -= x.Size
			delete(k.fresh, x.Revision)
		case len(k.gone) >= moveGone:
			k.Insert(x)
		default:
			k.gone = append(k.gone, x)
		}
	}
}

// finish makes the transaction. It was not made if somebody else has changed the
// history, or nobody knows whether it was: what is to be done begins anew then.
func (m *mover) finish(ctx context.Context) (made bool, err error) {
	p := m.p
	keys := &p.e.keys
	txn := &pb.TxnRequest{Compare: []*pb.Compare{modIs(keys.pastState(), m.state.at)}}
	orders := map[store.Revision][]byte{} // nil: it goes
	for _, until := range m.order {
		orders[until] = nil
	}
	for key, k := range m.shelves {
		for _, x := range k.gone {
			m.state.Bytes -= x.Size
			txn.Success = append(txn.Success, deleteOp(keys.version(key, x.Revision)))
			if !k.Ends(x.Until) {
				orders[x.Until] = nil
			}
		}
		for _, x := range k.Entries {
			if b := k.fresh[x.Revision]; b != nil {
				m.state.Bytes += x.Size
				txn.Success = append(txn.Success, putOp(keys.version(key, x.Revision), b))
				orders[x.Until] = sealedOrder(keys.order(x.Until), key)
			}
		}
		name := keys.index(key)
		if len(k.Entries) == 0 && k.Head == 0 {
			txn.Success = append(txn.Success, deleteOp(name))
		} else {
			txn.Success = append(txn.Success, putOp(name, k.Append(nil, name)))
		}
	}
	for until, b := range orders {
		if b == nil {
			txn.Success = append(txn.Success, deleteOp(keys.order(until)))
		} else {
			txn.Success = append(txn.Success, putOp(keys.order(until), b))
		}
	}
	return p.send(ctx, txn, m.state)
}

// send makes a transaction that changes the state, too.
func (p *pasts) send(ctx context.Context, txn *pb.TxnRequest, next pastState) (made bool, err error) {
	if err := p.e.enter(); err != nil {
		return false, err
	}
	txn.Success = append(txn.Success, putOp(p.e.keys.pastState(), next.encode()))
	var resp *pb.TxnResponse
	out, err := p.e.cluster.call(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		resp, err = m.kv.Txn(ctx, txn, o...)
		return err
	})
	switch {
	case out == answered:
		return resp.Succeeded, nil
	case out == ended:
		return false, err
	case out == refused && (says(err, saidTooLarge) || status.Code(err) == codes.ResourceExhausted && !says(err, saidNoSpace)):
		return false, errTooLarge
	case out == refused:
		return false, translate(err)
	}
	// It may have been made, and if not, it may still be: but not after the next one,
	// which compares the same revision of the state.
	var pause pauser
	return false, p.e.cluster.wait(ctx, &pause)
}

// sealedOrder is the value of an entry of the order.
func sealedOrder(name []byte, key string) []byte {
	b := append([]byte{recordFormat, 0, 0, 0, 0, 0}, key...)
	seal.Put(name, b)
	return b
}

func parseSealedOrder(name, b []byte) (key string, ok bool) {
	if len(b) < seal.Size || b[0] != recordFormat || !seal.Intact(name, b) {
		return "", false
	}
	return string(b[seal.Size:]), true
}

// move moves what a list of changes, which are all that count up to a revision,
// has ended.
func (p *pasts) move(ctx context.Context, list []replaced, upTo etcdRevision) error {
	most := moveChanges
	for len(list) > 0 {
		if list[0].rev <= p.done {
			list = list[1:]
			continue
		}
		n, err := p.moveSome(ctx, list[:min(most, len(list))])
		switch {
		case errors.Is(err, errTooLarge) && most > 1:
			most = 1
			continue
		case errors.Is(err, errTooLarge):
			p.e.logger.Error("A version is lost to history", "key", list[0].key, "revision", list[0].prev, "error", err)
			n = 1
		case err != nil:
			return err
		}
		if n > 0 {
			p.done = max(p.done, list[n-1].rev)
			list, most = list[n:], moveChanges
		}
	}
	p.done = max(p.done, upTo)
	return nil
}

// moveSome makes one transaction of the first changes of a list, and returns how
// many are done.
func (p *pasts) moveSome(ctx context.Context, list []replaced) (n int, err error) {
	m, n, err := p.prepare(ctx, list)
	if err != nil || m == nil {
		return n, err
	}
	if made, err := m.finish(ctx); err != nil || !made {
		return 0, err
	}
	return n, nil
}

// prepare makes a transaction ready that does the first n changes of a list. There
// is none if they are done already, or cannot be any more.
func (p *pasts) prepare(ctx context.Context, list []replaced) (_ *mover, n int, err error) {
	var keys []string
	var reads []*pb.RangeRequest
	bytes := 0
	for i := range list {
		x := &list[i]
		if bytes += x.size; i > 0 && bytes > moveBytes {
			list = list[:i]
			break
		}
		if !slices.Contains(keys, x.key) {
			keys = append(keys, x.key)
		}
		if x.keep {
			reads = append(reads, &pb.RangeRequest{Key: p.e.keys.record(x.key), Revision: x.rev - 1})
		}
	}
	m, got, err := p.begin(ctx, keys, reads)
	if says(err, saidCompacted) {
		n, err = p.lost(ctx, list)
		return nil, n, err
	}
	if err != nil {
		return nil, 0, translate(err)
	}
	moved := m.state.Moved
	for i := range list {
		x := &list[i]
		var was *mvccpb.KeyValue
		if x.keep {
			if len(got[0].Kvs) > 0 {
				was = got[0].Kvs[0]
			}
			got = got[1:]
		}
		if x.rev > moved { // otherwise it has been, or somebody else has
			if m.ops() >= moveOps {
				break
			}
			m.end(x, was)
			m.state.Moved = x.rev
		}
		n++
	}
	if m.state.Moved == moved {
		return nil, n, nil
	}
	for key, k := range m.shelves { // of changes that are left for the next time
		if !slices.ContainsFunc(list[:n], func(x replaced) bool { return x.key == key }) && len(k.fresh) == 0 {
			delete(m.shelves, key)
		}
	}
	return m, n, nil
}

// lost says how many of the changes ended versions that are compacted away.
func (p *pasts) lost(ctx context.Context, list []replaced) (n int, err error) {
	first, err := p.e.compacted(ctx, p.e.position())
	if err != nil {
		return 0, translate(err)
	}
	for n < len(list) && list[n].rev <= first {
		n++
	}
	if n == 0 {
		return 0, store.ErrCompacted
	}
	return n, nil
}

// end takes over what a change has ended. A version that is damaged is left out:
// it would be lost without a history too.
func (m *mover) end(x *replaced, was *mvccpb.KeyValue) {
	k := m.shelves[x.key]
	until := m.n.store(x.rev)
	if was != nil && was.ModRevision == x.prev {
		rev := m.n.store(x.prev)
		s, err := m.dec.decode(was.Key, was.Value)
		if err == nil {
			s.prev = before(&k.Index, m.n, &s, was)
			m.shelve(x.key, rev, &kept{stored: s, created: m.n.store(was.CreateRevision), until: until})
		} else {
			m.p.e.logger.Error("A damaged version is lost to history", "key", x.key, "revision", rev, "error", err)
		}
	}
	if x.deleted != nil {
		d := kept{stored: *x.deleted, deleted: true, created: m.n.store(x.created), until: until}
		d.prev = m.n.store(x.prev)
		m.shelve(x.key, until, &d)
	}
	k.Head, k.Before = 0, 0 // whatever that was is no more
	if x.link {
		k.Head, k.Before = until, m.n.store(x.prev)
	}
}

// before is the change that a state followed, whose predecessor cannot be read.
func before(x *past.Index, n numbering, s *stored, kv *mvccpb.KeyValue) store.Revision {
	rev := n.store(kv.ModRevision)
	switch {
	case s.linked:
		return s.prev
	case kv.Version <= 1:
		return store.Absent
	case x.Head == rev:
		return x.Before
	}
	last := n.store(kv.CreateRevision) // it is that, or one of those that are not kept
	for _, e := range x.Entries {
		if e.Revision < rev && e.Until <= rev {
			last = max(last, e.Revision)
		}
	}
	return last
}
