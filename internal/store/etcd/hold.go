package etcd

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"proa/internal/store"
)

// leaseSeconds is how long an engine that was killed keeps others out.
const leaseSeconds = 10

// Bits of a lease's number: the upper ones say which store it is for, the lower
// ones whose it is. A lease, unlike a key, costs no revision.
const ownerBits = 24

// leaseOf is the lease by which an owner holds this store.
func (e *Engine) leaseOf(owner string) int64 {
	h := fnv.New64a()
	h.Write([]byte("proa store " + e.target.Prefix))
	id := int64(h.Sum64() >> 1 >> ownerBits << ownerBits)
	o := fnv.New32a()
	o.Write([]byte(owner))
	return id | int64(o.Sum32()&(1<<ownerBits-1)) | 1
}

// hold takes the store for an owner, unless another one has it.
func (e *Engine) hold(ctx context.Context, owner string) error {
	id := e.leaseOf(owner)
	err := e.grant(ctx, id)
	if err != nil {
		return err
	}
	e.lease = id
	var all *pb.LeaseLeasesResponse
	err = e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) (err error) {
		all, err = m.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{}, o...)
		return err
	})
	if err != nil {
		return fmt.Errorf("store: who uses %s: %w", e.target, translate(err))
	}
	for _, l := range all.Leases {
		if l.ID != id && l.ID>>ownerBits == id>>ownerBits {
			e.letGo()
			return &store.HeldError{Dir: e.target.String()}
		}
	}
	return nil
}

func (e *Engine) grant(ctx context.Context, id int64) error {
	err := e.cluster.read(ctx, func(ctx context.Context, m *member, o ...grpc.CallOption) error {
		_, err := m.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: leaseSeconds}, o...)
		return err
	})
	if err != nil && !says(err, saidLeaseThere) { // this owner's, from before a crash
		return fmt.Errorf("store: hold %s: %w", e.target, translate(err))
	}
	return nil
}

// keepHold renews the lease, and takes it anew if etcd has been away for too
// long. Another owner that has come meanwhile ends this one.
func (e *Engine) keepHold(owner string) {
	t := time.NewTicker(leaseSeconds * time.Second / 3)
	defer t.Stop()
	for {
		if ok, err := e.renew(); err == nil && !ok {
			err = e.hold(e.ctx, owner)
			var held *store.HeldError
			if errors.As(err, &held) {
				e.kill(fmt.Errorf("%w: it came while etcd was away from here; stop one of the two", held))
				return
			}
		}
		select {
		case <-t.C:
		case <-e.ctx.Done():
			return
		}
	}
}

// renew says whether the lease was there to be renewed.
func (e *Engine) renew() (bool, error) {
	ctx, cancel := context.WithTimeout(e.ctx, attempt)
	defer cancel()
	s, err := e.cluster.current().lease.LeaseKeepAlive(ctx)
	if err != nil {
		return false, err
	}
	if err := s.Send(&pb.LeaseKeepAliveRequest{ID: e.lease}); err != nil {
		return false, err
	}
	r, err := s.Recv()
	if err != nil {
		return false, err
	}
	return r.TTL > 0, s.CloseSend()
}

// letGo gives the lease back, if etcd answers; otherwise it ends by itself.
func (e *Engine) letGo() {
	if e.lease == 0 || e.cluster.down(true) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := e.cluster.current().lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: e.lease})
	if err != nil && !says(err, saidNoLease) {
		e.logger.Debug("The hold on the store could not be given back; it ends by itself", "error", err)
	}
	e.lease = 0
}
