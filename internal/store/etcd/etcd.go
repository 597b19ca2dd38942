// Package etcd is the engine for clusters that outgrow one machine: an etcd that
// somebody else runs (or several members of one). Every change is one
// transaction of etcd's and has its revision; the engine follows the changes with
// one watch, hands them to its own watchers (feed), and answers a writer once its
// change has come by there. The keys and values are described in
// docs/formats/etcd.md, and why it is so in docs/design/011-etcd-and-snapshots.md.
package etcd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"proa/internal/store"
	"proa/internal/store/expiry"
	"proa/internal/store/feed"
)

// Options of an engine. Endpoints are required.
type Options struct {
	Endpoints []string     // host:port of the members, at least one
	Prefix    string       // of all keys in etcd; DefaultPrefix if empty
	TLS       *tls.Config  // nil: in the clear
	Clock     store.Clock  // nil: the system's
	Logger    *slog.Logger // nil: none

	// Owner names who uses the store, the same after a restart. While an engine
	// with another owner has the store open, Open fails with a *store.HeldError.
	// It guards against a mistake and is no fence: an owner that loses etcd for
	// longer than its lease lasts may find another one there, and then writes no
	// more. Empty: nothing is looked at.
	Owner string

	// Patience is how long a call waits for an etcd that does not answer, counted
	// from when it stopped answering; 10 s if 0.
	Patience time.Duration

	// History is what is kept of versions below the horizon; the zero value keeps none.
	History store.Keeping

	// FeedEvents and FeedBytes bound the newest changes that are kept in memory
	// for watchers. 0 means feed.DefaultEvents and feed.DefaultBytes.
	FeedEvents, FeedBytes int
}

// An Engine is a store.Engine, a store.Advancer and a store.Historian on etcd.
type Engine struct {
	target  Target
	keys    keyspace
	clock   store.Clock
	logger  *slog.Logger
	cluster *cluster
	feed    *feed.Feed
	ttl     *expiry.Queue
	gets    batcher
	session uint64
	seq     atomic.Uint64
	seen    atomic.Int64 // newest revision that anybody was told of
	horizon atomic.Int64
	stop    context.CancelFunc
	ctx     context.Context // of the work in the background
	work    sync.WaitGroup  // the goroutines in the background
	moves   sync.RWMutex    // held for reading by writes under way, for writing by Advance and Close
	lease   int64
	past    pasts

	mu        sync.Mutex
	numbering numbering
	fence     etcdRevision // of the meta key
	id        uint64       // of etcd's cluster
	at        etcdRevision // up to here the watch has delivered
	want      etcdRevision // up to here somebody waits for it
	moved     chan struct{}
	ask       func() // asks the watch how far it is
	writing   map[uint64]*writing
	ending    map[string]ending // records that expire
	stale     map[string]bool   // keys in etcd of expiries whose record is gone
	dead      error             // why nothing can be done any more
	closed    bool
}

// An ending is when a record expires, and which revision of it.
type ending struct {
	at  int64 // unix nanoseconds
	rev etcdRevision
}

var (
	_ store.Engine    = (*Engine)(nil)
	_ store.Advancer  = (*Engine)(nil)
	_ store.Historian = (*Engine)(nil)
)

// Open connects to an etcd and makes an empty store if there is none. If no
// member answers within Options.Patience the error is a *DownError.
func Open(ctx context.Context, o Options) (_ *Engine, err error) {
	e := &Engine{
		target: Target{Endpoints: o.Endpoints, Prefix: o.Prefix, TLS: o.TLS != nil}, clock: o.Clock, logger: o.Logger,
		moved: make(chan struct{}), writing: map[uint64]*writing{}, ending: map[string]ending{}, stale: map[string]bool{},
	}
	if o.Prefix == "" {
		e.target.Prefix = DefaultPrefix
	}
	if e.clock == nil {
		e.clock = store.SystemClock{}
	}
	if e.logger == nil {
		e.logger = slog.New(slog.DiscardHandler)
	}
	if o.Patience == 0 {
		o.Patience = patience
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	e.session = binary.BigEndian.Uint64(random[:])
	e.keys = keyspace{e.target.Prefix}
	e.gets.e = e
	e.past.e, e.past.keep = e, o.History
	if e.cluster, err = dial(o.Endpoints, o.TLS, e.logger, o.Patience); err != nil {
		return nil, err
	}
	e.ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			e.stop()
			e.work.Wait()
			e.cluster.close()
		}
	}()
	if err := e.begin(ctx); err != nil {
		return nil, err
	}
	if o.Owner != "" {
		if err := e.hold(ctx, o.Owner); err != nil {
			return nil, err
		}
		e.work.Go(func() { e.keepHold(o.Owner) })
	}
	e.past.from = e.at
	newest := e.numbering.store(e.at)
	e.feed = feed.New(newest, o.FeedEvents, o.FeedBytes, e.older)
	e.ttl = expiry.New(e.clock, e.expire)
	endings, err := e.loadEndings(ctx)
	if err != nil {
		return nil, err
	}
	e.work.Go(e.follow)
	e.ttl.Add(endings...)
	return e, nil
}

// begin reads the meta key, or writes it, and finds out the revisions.
func (e *Engine) begin(ctx context.Context) error {
	zero := store.Revision(0)
	from, to := e.keys.all()
	var resp *pb.TxnResponse
	err := e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		resp, err = m.kv.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{countIs(e.keys.meta(), 0)},
			Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: from, RangeEnd: to, CountOnly: true})},
			Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: e.keys.meta()})},
		}, o...)
		return err
	})
	if err != nil {
		return fmt.Errorf("store: open %s: %w", e.target, translate(err))
	}
	if resp.Succeeded {
		if n := resp.Responses[0].GetResponseRange().Count; n > 0 {
			return fmt.Errorf("store: open %s: there are %d keys below %s that are not proa's: name another prefix, as in etcd://HOST:PORT/PREFIX",
				e.target, n, e.target.Prefix)
		}
		err := e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
			resp, err = m.kv.Txn(ctx, &pb.TxnRequest{
				Compare: []*pb.Compare{countIs(e.keys.meta(), 0)},
				Success: []*pb.RequestOp{putOp(e.keys.meta(), numbering{}.encode(&zero)), rangeOp(&pb.RangeRequest{Key: e.keys.meta()})},
				Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: e.keys.meta()})},
			}, o...)
			return err
		})
		if err != nil {
			return fmt.Errorf("store: begin a store in %s: %w", e.target, translate(err))
		}
	}
	kvs := resp.Responses[len(resp.Responses)-1].GetResponseRange().Kvs
	if len(kvs) != 1 {
		return fmt.Errorf("store: open %s: %w", e.target, errors.New("etcd does not return the meta key"))
	}
	if e.numbering, err = parseNumbering(kvs[0].Value, kvs[0].ModRevision); err != nil {
		return fmt.Errorf("store: open %s: %w", e.target, err)
	}
	e.fence, e.at, e.id = kvs[0].ModRevision, resp.Header.Revision, resp.Header.ClusterId
	e.seen.Store(e.numbering.store(e.at))
	compacted, err := e.compacted(ctx, e.at)
	if err != nil {
		return fmt.Errorf("store: open %s: %w", e.target, translate(err))
	}
	e.horizon.Store(max(e.numbering.last().Store, e.numbering.store(compacted)))
	return nil
}

// compacted finds the revision that etcd was compacted to, which it tells
// nobody: the first one that can be read. at can be read.
func (e *Engine) compacted(ctx context.Context, at etcdRevision) (etcdRevision, error) {
	readable := func(rev etcdRevision) (bool, error) {
		err := e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) error {
			_, err := m.kv.Range(ctx, &pb.RangeRequest{Key: e.keys.meta(), CountOnly: true, Revision: rev}, o...)
			return err
		})
		if says(err, saidCompacted) {
			return false, nil
		}
		return err == nil, err
	}
	lo, hi := etcdRevision(1), at
	for lo < hi {
		mid := lo + (hi-lo)/2
		if lo == 1 && hi == at {
			mid = 1 // the usual case of a young etcd
		}
		ok, err := readable(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == 1 {
		return 0, nil
	}
	return lo, nil
}

// enter says whether the engine can be used.
func (e *Engine) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	return e.dead
}

// kill ends everything that changes something, for good.
func (e *Engine) kill(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead == nil {
		e.dead = err
		e.logger.Error("The store in etcd can be written no more", "error", err)
		e.wakeLocked()
	}
}

// Err says why the store cannot be written now, or nil.
func (e *Engine) Err() error {
	if err := e.enter(); err != nil {
		return err
	}
	return e.cluster.down(true)
}

// Target says where the data is.
func (e *Engine) Target() Target { return e.target }

// view is what a call needs to know of the revisions.
func (e *Engine) view() (numbering, etcdRevision) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.numbering, e.fence
}

// Revision is store.Engine's: the newest one that watches have been told of.
func (e *Engine) Revision() store.Revision {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.numbering.store(e.at)
}

// Horizon is store.Engine's.
func (e *Engine) Horizon() store.Revision { return e.horizon.Load() }

// saw notes that a caller is told of a revision.
func (e *Engine) saw(rev store.Revision) store.Revision {
	raise(&e.seen, rev)
	return rev
}

func raise(v *atomic.Int64, to int64) {
	for {
		was := v.Load()
		if to <= was || v.CompareAndSwap(was, to) {
			return
		}
	}
}

// Close is store.Engine's. It gives the hold on the store back if etcd answers.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return store.ErrClosed
	}
	e.closed = true
	e.mu.Unlock()
	e.ttl.Close()
	e.moves.Lock() // no write is under way any more
	defer e.moves.Unlock()
	e.stop()
	e.work.Wait()
	e.feed.Close(store.ErrClosed)
	e.letGo()
	e.cluster.close()
	return nil
}
