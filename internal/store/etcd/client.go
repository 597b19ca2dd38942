package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"proa/internal/store"
)

// How long is waited.
const (
	patience = 10 * time.Second // for an etcd that does not answer, from when it stopped
	attempt  = 5 * time.Second  // for one answer
	pauseMin = 20 * time.Millisecond
	pauseMax = 500 * time.Millisecond
)

// A DownError says that no member of etcd answers. Its kind is store.ErrUnavailable.
type DownError struct {
	Endpoints []string
	Err       error
}

func (e *DownError) Error() string {
	return fmt.Sprintf("%v: no etcd answers at %s (%v); start it or make it reachable: a server that runs goes on by itself then",
		store.ErrUnavailable, strings.Join(e.Endpoints, ", "), e.Err)
}

func (e *DownError) Unwrap() []error { return []error{store.ErrUnavailable, e.Err} }

// A member is one endpoint.
type member struct {
	endpoint string
	conn     *grpc.ClientConn
	kv       pb.KVClient
	watch    pb.WatchClient
	lease    pb.LeaseClient
}

// cluster is the connections to etcd: one member is asked until it fails, then
// the next.
type cluster struct {
	members  []*member
	logger   *slog.Logger
	patience time.Duration

	mu      sync.Mutex
	now     int
	failing time.Time // since when nobody answers; zero if somebody does
	err     error     // why
	leave   func()    // ends the watch on the member that is left
}

func dial(endpoints []string, t *tls.Config, logger *slog.Logger, wait time.Duration) (*cluster, error) {
	c := &cluster{logger: logger, patience: wait}
	creds := insecure.NewCredentials()
	if t != nil {
		creds = credentials.NewTLS(t)
	}
	for _, e := range endpoints {
		conn, err := grpc.NewClient("passthrough:///"+e,
			grpc.WithTransportCredentials(creds),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: pauseMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: pauseMax},
				MinConnectTimeout: 3 * time.Second,
			}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
			grpc.WithDisableRetry(),
			grpc.WithDisableServiceConfig(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
		if err != nil {
			c.close()
			return nil, fmt.Errorf("store: etcd endpoint %s: %w", e, err)
		}
		c.members = append(c.members, &member{endpoint: e, conn: conn,
			kv: pb.NewKVClient(conn), watch: pb.NewWatchClient(conn), lease: pb.NewLeaseClient(conn)})
	}
	return c, nil
}

func (c *cluster) close() {
	for _, m := range c.members {
		m.conn.Close()
	}
}

func (c *cluster) current() *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[c.now]
}

// answered says that a member works.
func (c *cluster) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing.IsZero() {
		return
	}
	c.logger.Info("etcd answers again", "after", time.Since(c.failing))
	c.failing, c.err = time.Time{}, nil
}

// failed says that a member does not work; the next one is asked from now on.
func (c *cluster) failed(m *member, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing.IsZero() {
		c.failing = time.Now()
		c.logger.Error("etcd does not answer", "endpoint", m.endpoint, "error", err)
	}
	c.err = err
	if c.members[c.now] == m && len(c.members) > 1 {
		c.now = (c.now + 1) % len(c.members)
		if c.leave != nil {
			c.leave()
		}
	}
}

// onLeave has f called when the current member is left; nil: nothing any more.
func (c *cluster) onLeave(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave = f
}

// down returns a *DownError if no member has answered for longer than the
// patience is, or at all if now is set.
func (c *cluster) down(now bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing.IsZero() || !now && time.Since(c.failing) < c.patience {
		return nil
	}
	e := &DownError{Err: c.err}
	for _, m := range c.members {
		e.Endpoints = append(e.Endpoints, m.endpoint)
	}
	return e
}

// An outcome is what is known of a call.
type outcome int

const (
	answered outcome = iota
	refused          // etcd has said no, and nothing was done
	unsent           // nobody was there to ask
	doubtful         // asked, and no answer
	ended            // the caller's context did
)

// call makes one call of one member, with a limit of its own.
func (c *cluster) call(ctx context.Context, f func(context.Context, *member, ...grpc.CallOption) error) (outcome, error) {
	if err := ctx.Err(); err != nil {
		return ended, err
	}
	m := c.current()
	limited, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	var to peer.Peer
	err := f(limited, m, grpc.Peer(&to))
	switch {
	case err == nil:
		c.answered()
		return answered, nil
	case ctx.Err() != nil:
		return ended, ctx.Err()
	case isRefusal(err):
		c.answered()
		return refused, err
	}
	err = fmt.Errorf("%s: %w", m.endpoint, plain(err))
	c.failed(m, err)
	if to.Addr == nil {
		return unsent, err
	}
	return doubtful, err
}

// read calls until a member answers, as long as the patience lasts. It is for
// calls that can be made again.
func (c *cluster) read(ctx context.Context, f func(context.Context, *member, ...grpc.CallOption) error) error {
	var pause pauser
	for {
		out, err := c.call(ctx, f)
		switch out {
		case answered:
			return nil
		case refused, ended:
			return err
		}
		if err := c.wait(ctx, &pause); err != nil {
			return err
		}
	}
}

// wait lets some time pass before the next attempt, or says that it is over.
func (c *cluster) wait(ctx context.Context, p *pauser) error {
	p.tried++
	if p.tried >= len(c.members) {
		if err := c.down(false); err != nil {
			return err
		}
	}
	return p.pause(ctx)
}

// A pauser waits longer each time.
type pauser struct {
	tried int
	d     time.Duration
}

func (p *pauser) pause(ctx context.Context) error {
	p.d = min(max(2*p.d, pauseMin), pauseMax)
	t := time.NewTimer(p.d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// What etcd says, as far as it matters here.
const (
	saidCompacted  = "etcdserver: mvcc: required revision has been compacted"
	saidFuture     = "etcdserver: mvcc: required revision is a future revision"
	saidNoSpace    = "etcdserver: mvcc: database space exceeded"
	saidTooLarge   = "etcdserver: request is too large"
	saidTooMany    = "etcdserver: too many requests"
	saidLeaseThere = "etcdserver: lease already exists"
	saidNoLease    = "etcdserver: requested lease not found"
)

func says(err error, what string) bool { return err != nil && status.Convert(err).Message() == what }

// isRefusal says whether an error is etcd's answer, after which nothing happens
// any more, and not a sign of its being away.
func isRefusal(err error) bool {
	if says(err, saidTooMany) {
		return false
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.ResourceExhausted,
		codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated, codes.DataLoss:
		return true
	}
	return false
}

// plain takes gRPC's wrapping off an error's text.
func plain(err error) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		return err
	}
	text := s.Message()
	if s.Code() == codes.DeadlineExceeded {
		text = fmt.Sprintf("no answer within %v", attempt)
	}
	if _, after, ok := strings.Cut(text, `rror while dialing: `); ok {
		text = strings.TrimSuffix(after, `"`)
	}
	return errors.New(text)
}

// translate turns a refusal into the store's own errors.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case says(err, saidCompacted):
		return store.ErrCompacted
	case says(err, saidFuture):
		return store.ErrFuture
	case says(err, saidNoSpace):
		return errFull
	case status.Code(err) == codes.Unauthenticated, status.Code(err) == codes.PermissionDenied:
		return fmt.Errorf("store: etcd lets nobody in with these certificates: %w; see --store-cert and --store-key", plain(err))
	}
	if _, ok := status.FromError(err); ok {
		return fmt.Errorf("store: etcd refuses: %w", plain(err))
	}
	return err
}

var errFull = &store.FullError{Reason: "etcd's database has reached its quota and etcd has raised the alarm NOSPACE; " +
	"give it more with --quota-backend-bytes, or run 'etcdctl defrag', and then 'etcdctl alarm disarm'"}

// withLeader asks a member to end a stream when it has lost the leader.
func withLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
}
