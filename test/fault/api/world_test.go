package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"k8s.io/apimachinery/pkg/version"

	kube "proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/httpapi"
	"proa/internal/kinds"
	"proa/internal/pki"
	"proa/internal/store"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
)

// length is how long a test goes on.
func length(t testing.TB, otherwise time.Duration) time.Duration {
	v := os.Getenv("SECONDS")
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("SECONDS=%s is no number", v)
	}
	return time.Duration(n) * time.Second
}

// seeded is the source of a test's random choices.
func seeded(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("SEED=%s is no number", v)
		}
		seed = n
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func fork(r *rand.Rand) *rand.Rand { return rand.New(rand.NewPCG(r.Uint64(), r.Uint64())) }

var errDisk = syscall.EIO

// A world is a server on the wire with what breaks it.
type world struct {
	t       testing.TB
	random  *rand.Rand
	history time.Duration
	roots   *x509.CertPool
	cert    tls.Certificate
	truth   *truth

	crashes, faults int

	mu  sync.Mutex
	run *run // the present one
}

// A run is the time between two crashes.
type run struct {
	number int
	opened int64 // the revision that it was opened at
	url    string
	mem    *vfs.MemFS // nil: the engine is in memory
	breaks atomic.Bool
	real   store.Engine // what the server has, without what the test adds
	server *apiserver.Server
	http   *http.Server
	gate   *gate
	stop   context.CancelFunc
	serve  sync.WaitGroup
}

// newWorld starts a server on a disk that can lose power, or on memory.
func newWorld(t testing.TB, random *rand.Rand, history time.Duration, disk bool) *world {
	w := &world{t: t, random: random, history: history, truth: &truth{grown: make(chan struct{})}}
	ca, err := pki.OpenCA(t.TempDir(), "ca", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.roots = x509.NewCertPool()
	w.roots.AddCert(ca.Cert)
	pair, err := ca.Issue(pki.Leaf{User: "kube-apiserver", Server: true, Hosts: []string{"127.0.0.1"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if w.cert, err = tls.X509KeyPair(pair.Cert, pair.Key); err != nil {
		t.Fatal(err)
	}
	var mem *vfs.MemFS
	if disk {
		mem = vfs.NewCrashableMem()
	}
	w.start(mem)
	t.Cleanup(func() { w.now().end() })
	return w
}

func (w *world) now() *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.run
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start opens the store as it lies on the disk and serves it.
func (w *world) start(mem *vfs.MemFS) {
	r := &run{mem: mem}
	if before := w.now(); before != nil {
		r.number = before.number + 1
	}
	var err error
	if mem == nil {
		r.real = memory.New(nil)
	} else {
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && r.breaks.CompareAndSwap(true, false) {
				return errDisk
			}
			return nil
		}))
		if r.real, err = lsm.Open("d", lsm.Options{FS: fs, Reserve: -1, FeedEvents: 64}); err != nil {
			w.t.Fatalf("after %d crashes the store does not open: %v", w.crashes, err)
		}
	}
	r.opened = r.real.Revision()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	w.truth.follow(ctx, w.t, r.real)
	var engine store.Engine = &followed{Engine: r.real, truth: w.truth}
	if re, ok := r.real.(store.Reopener); ok {
		engine = &reopenable{followed{r.real, w.truth}, re}
	}
	r.server, err = apiserver.New(ctx, apiserver.Config{Engine: engine, Kinds: kinds.All, Log: quiet(), History: w.history,
		Admit: admit.All(admit.Settings{Services: netip.MustParsePrefix("10.43.0.0/16"), NodePorts: [2]int32{30000, 32767}})})
	if err == nil {
		err = r.server.EnsureDefaults(ctx, apiserver.Defaults{})
	}
	if err != nil {
		w.t.Fatalf("start the server: %v", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	r.url = "https://" + listener.Addr().String()
	r.gate = &gate{Listener: listener, conns: map[net.Conn]bool{}}
	r.http = httpapi.Server("", &tls.Config{Certificates: []tls.Certificate{w.cert}}, httpapi.Serve(r.server, httpapi.Config{
		Groups: r.server.Groups, Version: version.Info{GitVersion: "v0"}, Log: quiet(),
		Authenticate: func(*http.Request) (kube.User, bool, error) {
			return kube.User{Name: "tester", Groups: []string{kube.GroupMasters}}, true, nil
		}}))
	r.http.ErrorLog = log.New(io.Discard, "", 0)
	r.serve.Go(func() { _ = r.http.ServeTLS(r.gate, "", "") }) // until it is closed
	w.mu.Lock()
	w.run = r
	w.mu.Unlock()
}

// end lets go of a run, whose clients are cut off.
func (r *run) end() {
	r.gate.cut()
	r.http.Close()
	r.serve.Wait()
	r.server.Close()
	r.stop()
	_ = r.real.Close() // what it still writes nobody reads
}

// crash cuts all clients off, takes the power from the disk, and starts again.
// The order matters: what was answered was durable before the picture is taken.
func (w *world) crash() {
	r := w.now()
	w.crashes++
	r.gate.cut()
	lost := []int{0, 50, 100}[w.random.IntN(3)]
	picture := r.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100 - lost, RNG: fork(w.random)})
	r.end()
	w.truth.stop()
	w.start(picture)
}

// fault makes the next write to the disk fail.
func (w *world) fault() {
	w.faults++
	w.now().breaks.Store(true)
}

// A gate is a listener whose connections can all be cut.
type gate struct {
	net.Listener
	mu    sync.Mutex
	shut  bool
	conns map[net.Conn]bool
}

func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		c.Close()
		return nil, net.ErrClosed
	}
	g.conns[c] = true
	return &gated{c, g}, nil
}

// cut closes everything; nothing reaches a client afterwards.
func (g *gate) cut() {
	g.Listener.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for c := range g.conns {
		c.Close()
	}
	clear(g.conns)
}

type gated struct {
	net.Conn
	g *gate
}

func (c *gated) Close() error {
	c.g.mu.Lock()
	delete(c.g.conns, c.Conn)
	c.g.mu.Unlock()
	return c.Conn.Close()
}

// A client has a connection of its own to whichever server runs.
type client struct {
	w    *world
	slow bool // takes little ahead of what it reads
	run  *run
	http *http.Client
}

// to is the server of now and how to reach it.
func (c *client) to() (*run, *http.Client) {
	if r := c.w.now(); c.run != r {
		c.close()
		c.run = r
		t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.w.roots}, ForceAttemptHTTP2: true, DisableCompression: true}
		if c.slow {
			t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 16 << 10, MaxReceiveBufferPerConnection: 64 << 10}
		}
		c.http = &http.Client{Transport: t}
	}
	return c.run, c.http
}

func (c *client) close() {
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

// The truth is what the engine's log says, change by change, without a gap.
type truth struct {
	mu     sync.Mutex
	events []store.Event // of revisions 1, 2, …
	grown  chan struct{} // closed and replaced when events grow
	end    context.CancelFunc
	done   sync.WaitGroup
}

// follow reads an engine's log from where the truth ends. What an engine before
// had that this one does not was never acknowledged to anybody, and is forgotten.
func (x *truth) follow(ctx context.Context, t testing.TB, e store.Engine) {
	x.mu.Lock()
	if n := e.Revision(); n < int64(len(x.events)) {
		x.events = x.events[:n]
	}
	at := int64(len(x.events))
	x.mu.Unlock()
	ctx, x.end = context.WithCancel(ctx)
	batches, err := e.Watch(ctx, "", at)
	if err != nil {
		t.Fatalf("follow the engine's log from revision %d: %v", at, err)
	}
	x.done.Go(func() {
		for b, err := range batches {
			if err != nil {
				if !errors.Is(err, store.ErrClosed) {
					t.Errorf("the engine's log: %v", err)
				}
				return
			}
			x.add(t, b)
		}
	})
}

func (x *truth) add(t testing.TB, b store.Batch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range b.Events {
		if e.Revision != int64(len(x.events))+1 {
			t.Errorf("the engine's log has revision %d after %d", e.Revision, len(x.events))
		}
		x.events = append(x.events, e)
	}
	close(x.grown)
	x.grown = make(chan struct{})
}

func (x *truth) stop() {
	x.end()
	x.done.Wait()
}

// reach waits until the truth goes up to a revision.
func (x *truth) reach(ctx context.Context, rev int64) error {
	for {
		x.mu.Lock()
		have, grown := int64(len(x.events)), x.grown
		x.mu.Unlock()
		if have >= rev {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// upTo is all of it up to a revision.
func (x *truth) upTo(rev int64) []store.Event {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.events[:min(rev, int64(len(x.events)))]
}

// followed compacts nothing that the truth has not read.
type followed struct {
	store.Engine
	truth *truth
}

func (f *followed) Compact(ctx context.Context, rev int64) error {
	if err := f.truth.reach(ctx, rev); err != nil {
		return err
	}
	return f.Engine.Compact(ctx, rev)
}

type reopenable struct {
	followed
	store.Reopener
}
