// Package pretend is a container runtime whose containers exist only in memory.
// They start, stop, crash and answer probes by the script in their pod's
// annotations (see [Annotation]). It needs no root and costs no goroutine per
// container, so that thousands of nodes fit in one process.
package pretend

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
	"proa/internal/store"
)

// Options say what a runtime pretends. The zero value works.
type Options struct {
	Clock store.Clock   // nil: the machine's
	Seed  string        // makes IDs differ between runtimes
	CIDR  netip.Prefix  // the pod subnet, if it is known from the start; see SetPodCIDR
	Boot  time.Duration // how long RunSandbox takes
}

// Runtime pretends to run containers.
type Runtime struct {
	o     Options
	clock store.Clock

	mu         sync.Mutex
	slow       time.Duration
	next       uint64
	cidr       netip.Prefix
	lastIP     netip.Addr
	used       map[netip.Addr]bool
	sandboxes  map[string]*sandbox
	containers map[string]*container
	byPod      map[string]map[string]*sandbox // pod UID -> its sandboxes
	images     map[string]*v1.Image
	subs       map[*subscriber]bool
	failures   map[string]error
	began      int64  // when it was made
	spent      uint64 // processor time of containers that have ended, in nanoseconds
}

var (
	_ cri.Runtime = (*Runtime)(nil)
	_ cri.Prober  = (*Runtime)(nil)
)

// New returns a runtime in which nothing runs.
func New(o Options) *Runtime {
	if o.Clock == nil {
		o.Clock = store.SystemClock{}
	}
	return &Runtime{
		o: o, clock: o.Clock, cidr: o.CIDR, began: o.Clock.Now().UnixNano(),
		used:       map[netip.Addr]bool{},
		sandboxes:  map[string]*sandbox{},
		containers: map[string]*container{},
		byPod:      map[string]map[string]*sandbox{},
		images:     map[string]*v1.Image{},
		subs:       map[*subscriber]bool{},
		failures:   map[string]error{},
	}
}

type sandbox struct {
	id         string
	config     *v1.PodSandboxConfig
	handler    string
	created    int64
	ready      bool
	ip         netip.Addr
	containers map[string]*container
}

type container struct {
	id       string
	sandbox  *sandbox
	config   *v1.ContainerConfig
	script   script
	state    v1.ContainerState
	created  int64
	started  int64
	finished int64
	code     int32
	reason   string
	message  string
	cancel   func()          // the timer of its own end
	waiting  []chan struct{} // closed at its end
}

// Fail makes every further call of a method, such as "RunSandbox", fail with
// err; nil lets it work again. For tests.
func (r *Runtime) Fail(method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures[method] = err
}

func (r *Runtime) fails(method string) error { return r.failures[method] }

// Kill ends a container as a crash would. For tests.
func (r *Runtime) Kill(id string, code int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		r.end(c, code, "Error", "")
	}
}

// KillSandbox ends a sandbox and all in it, as a reboot would. For tests.
func (r *Runtime) KillSandbox(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[id]; s != nil {
		r.stopSandbox(s, 137)
	}
}

// Slow makes every pull of an image and every start of a container take d longer
// from now on; 0 ends that.
func (r *Runtime) Slow(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slow = d
}

// drag lets the time pass by which the runtime is slow.
func (r *Runtime) drag(ctx context.Context) error {
	r.mu.Lock()
	d := r.slow
	r.mu.Unlock()
	if d == 0 {
		return nil
	}
	return r.pause(ctx, d)
}

// Off is the end of the power: everything is gone, and nobody is told. The
// runtime is of no use afterwards.
func (r *Runtime) Off() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.cancel != nil {
			c.cancel()
		}
		for _, w := range c.waiting {
			close(w)
		}
		c.waiting = nil
	}
	clear(r.containers)
	clear(r.sandboxes)
	clear(r.byPod)
	clear(r.images)
	clear(r.used)
}

// id returns a new identifier, shaped like containerd's.
func (r *Runtime) id() string {
	r.next++
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], r.next)
	h := fnv(r.o.Seed)
	return fmt.Sprintf("%016x%016x%016x%016x", h, r.next*0x9e3779b97f4a7c15, h^r.next, r.next)
}

func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(s) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func (r *Runtime) now() int64 { return r.clock.Now().UnixNano() }

// Version implements cri.Runtime.
func (r *Runtime) Version(context.Context) (*v1.VersionResponse, error) {
	return &v1.VersionResponse{Version: "0.1.0", RuntimeName: "pretend", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
}

// Status implements cri.Runtime. The network is ready once the subnet is known.
func (r *Runtime) Status(context.Context) (*v1.StatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	net := &v1.RuntimeCondition{Type: v1.NetworkReady, Status: r.cidr.IsValid()}
	if !net.Status {
		net.Reason, net.Message = "NetworkPluginNotReady", "the node has no pod subnet yet"
	}
	return &v1.StatusResponse{Status: &v1.RuntimeStatus{Conditions: []*v1.RuntimeCondition{
		{Type: v1.RuntimeReady, Status: true}, net}}}, r.fails("Status")
}

// SetPodCIDR implements cri.Runtime.
func (r *Runtime) SetPodCIDR(_ context.Context, cidr string) error {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "%v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cidr != p {
		r.cidr, r.lastIP = p, netip.Addr{}
	}
	return nil
}

// address hands out the next free address of the subnet; .0 and .1 are kept.
func (r *Runtime) address() (netip.Addr, error) {
	if !r.cidr.IsValid() {
		return netip.Addr{}, status.Error(codes.Unknown, "failed to setup network for sandbox: the node has no pod subnet yet")
	}
	first := r.cidr.Masked().Addr().Next().Next()
	a := r.lastIP
	if !a.IsValid() {
		a = first.Prev()
	}
	for range 1 << 16 {
		if a = a.Next(); !r.cidr.Contains(a) || !r.cidr.Contains(a.Next()) {
			a = first
		}
		if !r.used[a] {
			r.used[a], r.lastIP = true, a
			return a, nil
		}
	}
	return netip.Addr{}, status.Error(codes.Unknown, "failed to setup network for sandbox: no address is free")
}

// RunSandbox implements cri.Runtime.
func (r *Runtime) RunSandbox(ctx context.Context, c *v1.PodSandboxConfig, handler string) (string, error) {
	if r.o.Boot > 0 {
		if err := r.pause(ctx, r.o.Boot); err != nil {
			return "", err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fails("RunSandbox"); err != nil {
		return "", err
	}
	uid := c.GetMetadata().GetUid()
	for _, s := range r.byPod[uid] {
		if s.config.Metadata.Attempt == c.Metadata.Attempt {
			return "", status.Errorf(codes.AlreadyExists, "name of sandbox %s attempt %d is reserved for %q", uid, c.Metadata.Attempt, s.id)
		}
	}
	s := &sandbox{id: r.id(), config: c, handler: handler, created: r.now(), ready: true, containers: map[string]*container{}}
	if c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != v1.NamespaceMode_NODE {
		ip, err := r.address()
		if err != nil {
			return "", err
		}
		s.ip = ip
	}
	r.sandboxes[s.id] = s
	if r.byPod[uid] == nil {
		r.byPod[uid] = map[string]*sandbox{}
	}
	r.byPod[uid][s.id] = s
	r.tell(s, s.id, v1.ContainerEventType_CONTAINER_CREATED_EVENT)
	r.tell(s, s.id, v1.ContainerEventType_CONTAINER_STARTED_EVENT)
	return s.id, nil
}

func (r *Runtime) pause(ctx context.Context, d time.Duration) error {
	done := make(chan struct{})
	stop := r.clock.AfterFunc(d, func() { close(done) })
	defer stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// StopSandbox implements cri.Runtime.
func (r *Runtime) StopSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fails("StopSandbox"); err != nil {
		return err
	}
	if s := r.sandboxes[id]; s != nil {
		r.stopSandbox(s, 137)
	}
	return nil
}

func (r *Runtime) stopSandbox(s *sandbox, code int32) {
	for _, c := range s.containers {
		r.end(c, code, "Error", "")
	}
	if s.ip.IsValid() {
		delete(r.used, s.ip)
	}
	if s.ready {
		s.ready = false
		r.tell(s, s.id, v1.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
}

// RemoveSandbox implements cri.Runtime.
func (r *Runtime) RemoveSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil
	}
	if err := r.fails("RemoveSandbox"); err != nil {
		return err
	}
	r.stopSandbox(s, 137)
	for _, c := range s.containers {
		delete(r.containers, c.id)
	}
	uid := s.config.Metadata.Uid
	delete(r.sandboxes, id)
	if delete(r.byPod[uid], id); len(r.byPod[uid]) == 0 {
		delete(r.byPod, uid)
	}
	r.tell(s, id, v1.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// SandboxStatus implements cri.Runtime.
func (r *Runtime) SandboxStatus(_ context.Context, id string) (*v1.PodSandboxStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, missing("sandbox", id)
	}
	return s.status(), r.fails("SandboxStatus")
}

func missing(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %q: not found", what, id)
}

func (s *sandbox) state() v1.PodSandboxState {
	if s.ready {
		return v1.PodSandboxState_SANDBOX_READY
	}
	return v1.PodSandboxState_SANDBOX_NOTREADY
}

func (s *sandbox) status() *v1.PodSandboxStatus {
	st := &v1.PodSandboxStatus{Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.created,
		Labels: s.config.Labels, Annotations: s.config.Annotations, RuntimeHandler: s.handler,
		Linux:   &v1.LinuxPodSandboxStatus{Namespaces: &v1.Namespace{Options: s.config.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
		Network: &v1.PodSandboxNetworkStatus{}}
	if s.ip.IsValid() && s.ready {
		st.Network.Ip = s.ip.String()
	}
	return st
}

// ListSandboxes implements cri.Runtime.
func (r *Runtime) ListSandboxes(_ context.Context, f *v1.PodSandboxFilter) (out []*v1.PodSandbox, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fails("ListSandboxes"); err != nil {
		return nil, err
	}
	from := r.sandboxes
	if uid := f.GetLabelSelector()[cri.LabelPodUID]; uid != "" {
		from = r.byPod[uid]
	}
	for _, s := range from {
		if (f.GetId() != "" && f.Id != s.id) || !subset(f.GetLabelSelector(), s.config.Labels) ||
			(f.GetState() != nil && f.State.State != s.state()) {
			continue
		}
		out = append(out, &v1.PodSandbox{Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.created,
			Labels: s.config.Labels, Annotations: s.config.Annotations, RuntimeHandler: s.handler})
	}
	slices.SortFunc(out, func(a, b *v1.PodSandbox) int { return int(b.CreatedAt - a.CreatedAt) })
	return out, nil
}

func subset(want, have map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// ListSandboxStats implements cri.Runtime. Pretended pods use nothing.
func (r *Runtime) ListSandboxStats(context.Context) (out []*v1.PodSandboxStats, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		out = append(out, &v1.PodSandboxStats{Attributes: &v1.PodSandboxAttributes{Id: s.id, Metadata: s.config.Metadata,
			Labels: s.config.Labels, Annotations: s.config.Annotations}, Linux: &v1.LinuxPodSandboxStats{}})
	}
	return out, nil
}

// Addresses are the pod addresses in use, in order. For tests.
func (r *Runtime) Addresses() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Keys(r.used), netip.Addr.Compare)
}
