package etcd

import (
	"context"
	"iter"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"proa/internal/store"
)

// Bounds of reads.
const (
	batchGets    = 64      // gets that share one question, at most; etcd takes up to 128
	parallelGets = 4       // questions at a time
	pageFirst    = 100     // records of a range's first page; later ones go by their size
	pageMost     = 10_000  // records of a page at most
	pageBytes    = 2 << 20 // what a page is to weigh
)

// A get is one Get that waits.
type get struct {
	key  string
	rec  *store.Record
	rev  store.Revision
	err  error
	done chan struct{}
}

// A batcher puts the gets that come while others are under way into one question,
// for which etcd makes sure once that it is up to date.
type batcher struct {
	e       *Engine
	mu      sync.Mutex
	queue   []*get
	running int
}

// Get is store.Engine's.
func (e *Engine) Get(ctx context.Context, key string) (*store.Record, store.Revision, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if err := e.usable(); err != nil {
		return nil, 0, err
	}
	g := &get{key: key, done: make(chan struct{})}
	e.gets.add(g)
	select {
	case <-g.done:
		return g.rec, g.rev, g.err
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	case <-e.ctx.Done():
		return nil, 0, store.ErrClosed
	}
}

// usable is enter for reads: they go on when writes do not.
func (e *Engine) usable() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	return nil
}

func (b *batcher) add(g *get) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, g)
	if b.running < parallelGets {
		b.running++
		go b.run()
	}
}

func (b *batcher) run() {
	for {
		b.mu.Lock()
		n := min(len(b.queue), batchGets)
		if n == 0 {
			b.queue = nil
			b.running--
			b.mu.Unlock()
			return
		}
		group := b.queue[:n:n]
		b.queue = b.queue[n:]
		b.mu.Unlock()
		b.ask(group)
	}
}

// ask answers a group with one read-only transaction: a linearizable read.
func (b *batcher) ask(group []*get) {
	e := b.e
	txn := &pb.TxnRequest{}
	for _, g := range group {
		txn.Success = append(txn.Success, rangeOp(&pb.RangeRequest{Key: e.keys.record(g.key)}))
	}
	var resp *pb.TxnResponse
	err := e.cluster.read(e.ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		resp, err = m.kv.Txn(ctx, txn, o...)
		return err
	})
	n, _ := e.view()
	var d decoder
	for i, g := range group {
		if g.err = translate(err); err == nil {
			g.rev = e.saw(n.store(resp.Header.Revision))
			if kvs := resp.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
				var r store.Record
				if r, g.err = e.decode(&d, n, kvs[0]); g.err == nil {
					g.rec = &r
				}
			}
		}
		close(g.done)
	}
}

// Range is store.Engine's. The first page is read at once: it says of which
// revision the rest is.
func (e *Engine) Range(ctx context.Context, from, to string, at store.Revision, limit int) (iter.Seq2[store.Record, error], store.Revision, error) {
	if err := e.usable(); err != nil {
		return nil, 0, err
	}
	p := &pages{e: e, ctx: ctx, next: e.keys.record(from), left: limit, size: pageFirst}
	p.numbering, _ = e.view()
	_, p.end = e.keys.records()
	if to != "" {
		p.end = e.keys.record(to)
	}
	if at != 0 {
		switch rev, ok := p.numbering.etcd(at); {
		case at < e.horizon.Load():
			return nil, 0, store.ErrCompacted
		case at > max(e.seen.Load(), e.Revision()):
			return nil, 0, store.ErrFuture
		case !ok:
			return nil, 0, store.ErrCompacted // the store has jumped over it
		default:
			p.at = rev
		}
	}
	if err := p.read(); err != nil {
		return nil, 0, err
	}
	if at == 0 {
		at = e.saw(p.numbering.store(p.at))
	}
	first := *p
	return func(yield func(store.Record, error) bool) {
		p := first
		for {
			if err := ctx.Err(); err != nil {
				yield(store.Record{}, err)
				return
			}
			if !p.yield(yield) || !p.more {
				return
			}
			if err := p.read(); err != nil {
				yield(store.Record{}, err)
				return
			}
		}
	}, at, nil
}

// pages reads a range piece by piece, all of one revision.
type pages struct {
	e         *Engine
	ctx       context.Context
	numbering numbering
	at        etcdRevision // 0: the newest, until the first page says which that is
	next, end []byte
	left      int // 0: no limit
	size      int64
	page      *pb.RangeResponse
	more      bool
	dec       decoder
}

// read reads the next page. One of a known revision is asked of whoever answers,
// and only if that member is behind, of one that has made sure it is not.
func (p *pages) read() error {
	req := &pb.RangeRequest{Key: p.next, RangeEnd: p.end, Revision: p.at, Limit: p.size, Serializable: p.at != 0}
	if p.left > 0 {
		req.Limit = min(req.Limit, int64(p.left))
	}
	if string(p.next) >= string(p.end) && p.at != 0 {
		p.page, p.more = &pb.RangeResponse{}, false
		return nil
	}
	if string(p.next) >= string(p.end) { // etcd refuses such a range, and the revision is still wanted
		req.Key, req.RangeEnd, req.CountOnly = p.e.keys.meta(), nil, true
	}
	ask := func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		p.page, err = m.kv.Range(ctx, req, o...)
		return err
	}
	err := p.e.cluster.read(p.ctx, ask)
	if says(err, saidFuture) && req.Serializable {
		req.Serializable = false
		err = p.e.cluster.read(p.ctx, ask)
	}
	if err != nil {
		if p.e.usable() != nil {
			return store.ErrClosed
		}
		return translate(err)
	}
	if p.at == 0 {
		p.at = p.page.Header.Revision
	}
	p.more = p.page.More
	return nil
}

// yield hands out the page; it returns whether the caller wants more.
func (p *pages) yield(yield func(store.Record, error) bool) bool {
	bytes := 0
	for _, kv := range p.page.Kvs {
		bytes += len(kv.Key) + len(kv.Value) + 64
		r, err := p.e.decode(&p.dec, p.numbering, kv)
		if !yield(r, err) || err != nil {
			return false
		}
		if p.left > 0 {
			if p.left--; p.left == 0 {
				p.more = false
			}
		}
	}
	if n := len(p.page.Kvs); n > 0 {
		p.next = append(append([]byte(nil), p.page.Kvs[n-1].Key...), 0)
		p.size = min(max(int64(pageBytes/max(bytes/n, 1)), 1), pageMost)
	}
	p.page = nil
	return true
}
