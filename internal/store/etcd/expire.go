package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"proa/internal/store"
	"proa/internal/store/expiry"
)

// expireRetry is when a record is tried again that could not be deleted.
const expireRetry = 10 * time.Second

// loadEndings reads the index of expiries as it is where the watch begins.
func (e *Engine) loadEndings(ctx context.Context) ([]expiry.Item, error) {
	n, _ := e.view()
	var items []expiry.Item
	next, end := e.keys.expiries()
	for more := true; more; {
		var page *pb.RangeResponse
		err := e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
			page, err = m.kv.Range(ctx, &pb.RangeRequest{Key: next, RangeEnd: end, Revision: e.at, Limit: pageMost, KeysOnly: true}, o...)
			return err
		})
		if err != nil {
			return nil, translate(err)
		}
		for _, kv := range page.Kvs {
			nanos, key, ok := e.keys.parseExpiry(kv.Key)
			if !ok {
				continue
			}
			if was, there := e.ending[key]; !there || was.rev < kv.ModRevision {
				e.ending[key] = ending{nanos, kv.ModRevision}
			}
			items = append(items, expiry.Item{At: time.Unix(0, nanos), Key: key, Revision: n.store(kv.ModRevision)})
		}
		if more = page.More && len(page.Kvs) > 0; more {
			next = append(page.Kvs[len(page.Kvs)-1].Key, 0)
		}
	}
	return items, nil
}

// expire deletes what is due, all at a time. What cannot be deleted now is tried
// again; what has been changed since is not deleted at all.
func (e *Engine) expire(due []expiry.Item) {
	var wg sync.WaitGroup
	for _, it := range due {
		wg.Go(func() {
			_, err := e.Write(e.ctx, store.Op{Key: it.Key, Delete: true, Expect: it.Revision, User: store.Expired})
			var conflict *store.ConflictError
			switch {
			case err == nil || e.usable() != nil:
			case errors.As(err, &conflict):
				e.leaveStale(it)
			default:
				e.logger.Error("A record could not be expired", "key", it.Key, "error", err)
				e.ttl.Add(expiry.Item{At: e.clock.Now().Add(expireRetry), Key: it.Key, Revision: it.Revision})
			}
		})
	}
	wg.Wait()
}

// leaveStale has the index entry of an expiry that is none any more deleted with a
// later write: alone it would cost a revision.
func (e *Engine) leaveStale(it expiry.Item) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, ok := e.ending[it.Key]
	if ok && now.at == it.At.UnixNano() {
		if e.numbering.store(now.rev) != it.Revision {
			return // the same time, for a later state
		}
		delete(e.ending, it.Key)
	}
	e.stale[string(e.keys.expiry(it.At.UnixNano(), it.Key))] = true
}

// newTicker calls f again and again until the function it returns is called.
func newTicker(f func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(askAgain)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				f()
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}
