package dns

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// An upstream is a resolver of the node.
type upstream struct {
	addr   netip.AddrPort
	failed atomic.Int64 // when it last did not answer, Unix nanoseconds; 0 if it answered since
	circle atomic.Bool  // it asks us
}

// forwarder asks others.
type forwarder struct {
	c    *Config
	log  *slog.Logger
	zone string // wire form

	ups   atomic.Pointer[[]*upstream]
	slots chan struct{}
	cache cache

	mu      sync.Mutex
	probes  map[string]*upstream // by the first label of the question
	probing atomic.Int32
}

const (
	maxAsking  = 1000                    // questions to others at a time
	patience   = 1500 * time.Millisecond // for one answer
	poorHealth = 5 * time.Second         // that an upstream which did not answer comes last
)

func newForwarder(c *Config, zone string) *forwarder {
	f := &forwarder{c: c, log: c.Log, zone: zone, slots: make(chan struct{}, maxAsking), probes: map[string]*upstream{}}
	f.ups.Store(&[]*upstream{})
	f.cache.entries = map[string]*cached{}
	return f
}

// start reads the node's resolvers and keeps following them until ctx ends.
func (f *forwarder) start(ctx context.Context, all *sync.WaitGroup) error {
	unnoticed := func(err error) {
		f.log.Warn("Changes of the node's resolvers will not be noticed", "err", err)
	}
	// First the watch, then the read, so that no change falls between the two.
	w, err := openFileWatch(f.c.ResolvConf, f.c.StubConf)
	if err != nil {
		unnoticed(err)
	}
	f.reload(ctx)
	if err == nil {
		all.Go(func() {
			if err := w.follow(ctx, func() { f.reload(ctx) }); err != nil {
				unnoticed(err)
			}
		})
	}
	return nil
}

func (f *forwarder) reload(ctx context.Context) {
	list, err := f.c.resolvers()
	if err != nil {
		f.log.Warn("The node's resolvers could not be read", "err", err)
		return
	}
	old := *f.ups.Load()
	same := slices.EqualFunc(old, list, func(u *upstream, a netip.AddrPort) bool { return u.addr == a })
	if same && len(list) > 0 {
		return
	}
	ups := make([]*upstream, len(list))
	for i, a := range list {
		ups[i] = &upstream{addr: a}
	}
	f.ups.Store(&ups)
	f.cache.clear()
	if len(list) == 0 {
		f.log.Warn("The node has no resolver: names outside of the cluster are not answered", "file", f.c.ResolvConf)
		return
	}
	f.log.Info("Names outside of the cluster are asked of the node's resolvers", "resolvers", list)
	for _, u := range ups {
		go f.probe(ctx, u)
	}
}

const probeLabel = "proa-loop-probe-"

// probe asks an upstream for a name of ours that does not exist. If the
// question comes back to us, we would go round in a circle with it.
func (f *forwarder) probe(ctx context.Context, u *upstream) {
	var r [8]byte
	binary.BigEndian.PutUint64(r[:], rand.Uint64())
	label := probeLabel + hex.EncodeToString(r[:])
	f.mu.Lock()
	f.probes[label] = u
	f.mu.Unlock()
	f.probing.Add(1)
	m := new(dns.Msg)
	m.SetQuestion(label+"."+f.c.Zone+".", dns.TypeHINFO)
	if b, err := m.Pack(); err == nil {
		_, _ = f.exchange(ctx, u, b, "udp")
	}
	f.probing.Add(-1)
	f.mu.Lock()
	delete(f.probes, label)
	f.mu.Unlock()
}

// probed looks whether a question that came in is one of our probes.
func (f *forwarder) probed(name []byte) {
	if f.probing.Load() == 0 || len(name) < 1+len(probeLabel) || string(name[1:1+len(probeLabel)]) != probeLabel {
		return
	}
	f.mu.Lock()
	u := f.probes[string(name[1:1+int(name[0])])]
	f.mu.Unlock()
	if u != nil && !u.circle.Swap(true) {
		f.log.Error("A resolver of this node asks the cluster's name server, and is not used, or they would ask each other for ever",
			"resolver", u.addr)
	}
}

var errNoUpstream = errors.New("no resolver")

// ask passes a question to the upstreams, the healthiest first, until one
// answers, and returns its answer with the question's ID. Truncated answers are
// asked for again over TCP only if tcp is set: otherwise the client does that.
func (f *forwarder) ask(ctx context.Context, q *query, tcp bool) ([]byte, error) {
	key := cacheKey(q)
	if b := f.cache.get(key, q); b != nil {
		return b, nil
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, errors.New("too many questions at a time")
	}
	now := time.Now().UnixNano()
	ups := slices.DeleteFunc(slices.Clone(*f.ups.Load()), func(u *upstream) bool { return u.circle.Load() })
	slices.SortStableFunc(ups, func(a, b *upstream) int { return boolInt(a.poor(now)) - boolInt(b.poor(now)) })
	err := errNoUpstream
	for i, u := range ups {
		if i > 0 && u.poor(now) && i > 2 {
			break
		}
		var b []byte
		if b, err = f.exchange(ctx, u, q.packet, "udp"); err == nil && b[2]&bitTC != 0 && tcp {
			b, err = f.exchange(ctx, u, q.packet, "tcp")
		}
		if err == nil {
			u.failed.Store(0)
			f.cache.put(key, q, b)
			return b, nil
		}
		u.failed.Store(time.Now().UnixNano())
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (u *upstream) poor(now int64) bool { return now-u.failed.Load() < int64(poorHealth) }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// exchange sends a question from a port of its own with an ID of its own.
func (f *forwarder) exchange(ctx context.Context, u *upstream, packet []byte, network string) ([]byte, error) {
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(ctx, network, u.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(patience))
	out := append(make([]byte, 2, 2+len(packet)), packet...)
	binary.BigEndian.PutUint16(out, uint16(len(packet)))
	id := uint16(rand.Uint32())
	binary.BigEndian.PutUint16(out[2:], id)
	if network == "udp" {
		out = out[2:]
	}
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := receive(conn, buf, network)
		if err != nil {
			return nil, err
		}
		b := buf[:n]
		if n < headerLen || binary.BigEndian.Uint16(b) != id || b[2]&bitQR == 0 || !sameQuestion(b, packet) {
			if network == "udp" {
				continue // somebody else's, or forged
			}
			return nil, fmt.Errorf("%s answered another question", u.addr)
		}
		copy(b, packet[:2])
		return slices.Clone(b), nil
	}
}

func receive(conn net.Conn, buf []byte, network string) (int, error) {
	if network == "udp" {
		return conn.Read(buf)
	}
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	_, err := io.ReadFull(conn, buf[:n])
	return n, err
}

// sameQuestion compares the question sections; an answer that has none is an
// error that some servers send in a hurry.
func sameQuestion(answer, question []byte) bool {
	if binary.BigEndian.Uint16(answer[4:]) == 0 {
		return answer[3]&15 != dns.RcodeSuccess
	}
	var a, q query
	a.packet, q.packet = answer, question
	return a.question() && q.question() && string(a.name()) == string(q.name()) && a.typ == q.typ && a.class == q.class
}
