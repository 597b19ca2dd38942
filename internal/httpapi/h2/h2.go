// Package h2 serves HTTP/2 (RFC 9113) for an http.Server. The frames and the
// header compression are golang.org/x/net/http2's; the connection is here, so
// that an answer costs what its bytes cost: a handler puts its frames into the
// connection's buffer itself, and what many handlers have put there goes out as
// one piece. The server in net/http hands each frame from the handler to the
// connection's goroutine, and from that to one that writes it.
//
// What differs from net/http for a handler: an answer that has fewer bytes than
// its Content-Length says is reset, so that it does not look whole. There is no
// server push and no priority.
package h2

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What a connection may take of memory, apart from what its handlers take: its
// send buffer twice, and what its clients have sent and nobody has read.
const (
	frameSize    = 16 << 10 // most payload of a frame that a client may send, the least that RFC 9113 allows
	tableSize    = 4 << 10  // of header compression, each way
	streamWindow = 1 << 20  // bytes a client may send before the handler has read them
	connWindow   = 1 << 20  // the same for all streams of a connection
	outMost      = 60 << 10 // bytes that handlers may leave to be sent
	outFlood     = 1 << 20  // bytes of answers to control frames, to a client that does not read them
	outSoon      = 32 << 10 // bytes that are sent by whoever added the last, though nobody has asked for it
)

// Config says how connections are served. What is 0 has the value that is given.
type Config struct {
	MaxStreams uint32        // requests at a time on a connection; 1000
	MaxHeader  uint32        // bytes of a request's header; 64 KiB
	Tick       time.Duration // a silent client is asked for a sign of life after two, given up after three, and one that asks nothing after six; 15 s
	Linger     time.Duration // how long a client may take to read the last words; 1 s
}

// Configure makes s serve HTTP/2 with this package, on connections over TLS
// (ServeTLS). It goes before the first use of s. Shutdown of s lets requests
// end, and takes no more.
func Configure(s *http.Server, cfg Config) {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 1000
	}
	if cfg.MaxHeader == 0 {
		cfg.MaxHeader = 64 << 10
	}
	if cfg.Tick == 0 {
		cfg.Tick = 15 * time.Second
	}
	if cfg.Linger == 0 {
		cfg.Linger = time.Second
	}
	srv := &server{Config: cfg, http: s, conns: map[*conn]struct{}{}}
	if s.TLSNextProto == nil {
		s.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	s.TLSNextProto["h2"] = srv.serve
	s.RegisterOnShutdown(srv.shutdown)
}

// A Corker is a connection under TLS that can hold back what is written, so that
// the records of one piece are sent in one system call.
type Corker interface {
	Cork()
	Uncork() error
}

type server struct {
	Config
	http *http.Server

	mu    sync.Mutex
	down  bool
	conns map[*conn]struct{}
	idle  []worker
}

func (s *server) logf(format string, args ...any) {
	if l := s.http.ErrorLog; l != nil {
		l.Printf(format, args...)
	} else {
		log.Printf(format, args...)
	}
}

func (s *server) shutdown() {
	s.mu.Lock()
	s.down = true
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.mu.Lock()
		c.goAway(http2.ErrCodeNo)
		c.mu.Unlock()
	}
}

// serve serves one connection until it ends.
func (s *server) serve(_ *http.Server, t *tls.Conn, h http.Handler) {
	ctx := context.Background()
	if b, ok := h.(interface{ BaseContext() context.Context }); ok {
		ctx = b.BaseContext()
	}
	state := t.ConnectionState()
	c := &conn{srv: s, handler: h, base: ctx, tls: t, state: &state, remote: t.RemoteAddr().String(),
		streams: map[uint32]*stream{}, window: 65535, streamWindow: 65535, frameMost: 16 << 10}
	c.cork, _ = t.NetConn().(Corker)
	c.quiet.L, c.enc = &c.mu, hpack.NewEncoder((*scratch)(&c.fields))
	c.frames = http2.NewFramer(nil, bufio.NewReaderSize(t, 4<<10))
	c.frames.SetMaxReadFrameSize(frameSize)
	c.frames.SetReuseFrames()
	c.frames.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	c.frames.MaxHeaderListSize = s.MaxHeader

	s.mu.Lock()
	s.conns[c] = struct{}{}
	down := s.down
	s.mu.Unlock()
	c.run(down)
	s.mu.Lock()
	if delete(s.conns, c); len(s.conns) == 0 {
		s.dismiss()
	}
	s.mu.Unlock()
}

// A conn is one connection. Its reader is the goroutine of serve; all that is
// below mu belongs to whoever holds it.
type conn struct {
	srv     *server
	handler http.Handler
	base    context.Context
	tls     *tls.Conn
	cork    Corker // nil: there is none
	state   *tls.ConnectionState
	remote  string
	frames  *http2.Framer // the reader's

	heard atomic.Uint32 // frames read

	mu      sync.Mutex
	streams map[uint32]*stream
	last    uint32 // newest stream that the client has begun
	running int    // handlers
	refused int    // requests in a row
	away    bool   // GOAWAY has been said
	err     error  // why nothing goes any more
	gone    [8]uint32
	goneAt  int // in gone, which are the newest streams that were reset here

	out          []byte // frames to be sent
	tail         int    // where in out the last frame begins, if more may be put to it
	tailOf       *stream
	due          bool      // a goroutine is there that will send out
	sending      bool      // somebody sends what was in out
	quiet        sync.Cond // neither any more
	window       int64     // bytes of data that the client takes
	streamWindow int64     // the same for a new stream
	frameMost    int
	taken        uint32    // bytes the client has sent of the window it was given
	credit       uint32    // of these, those it may send again and does not know of
	queue        []*stream // that wait for room in out or window
	enc          *hpack.Encoder
	fields       []byte // an encoded header
}

var (
	errGone  = errors.New("h2: the client has gone")
	errReset = errors.New("h2: the client has given up the request")
	errDone  = errors.New("h2: the answer is over")
)

// run reads frames until there is no more.
func (c *conn) run(down bool) {
	err := c.hello()
	if err == nil {
		alive := &pulse{c: c}
		alive.watch()
		defer alive.stop()
		if down {
			c.mu.Lock()
			c.goAway(http2.ErrCodeNo)
			c.mu.Unlock()
		}
		err = c.read()
	}
	c.mu.Lock()
	var fault http2.ConnectionError
	if errors.As(err, &fault) {
		c.goAway(http2.ErrCode(fault))
	}
	c.fail(errGone)
	c.mu.Unlock()
	c.sayLast(fault != 0)
}

// hello reads what a client says first, and answers.
func (c *conn) hello() error {
	if !goodTLS(c.state) {
		return http2.ConnectionError(http2.ErrCodeInadequateSecurity)
	}
	c.mu.Lock()
	c.appendSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.srv.MaxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: c.srv.MaxHeader})
	c.appendUint32(http2.FrameWindowUpdate, 0, connWindow-65535)
	c.flush()
	c.mu.Unlock()
	if err := c.tls.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	var preface [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(c.tls, preface[:]); err != nil {
		return err
	}
	if string(preface[:]) != http2.ClientPreface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	f, err := c.frames.ReadFrame()
	if err != nil {
		return err
	}
	settings, ok := f.(*http2.SettingsFrame)
	if !ok || settings.IsAck() {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if err := c.onSettings(settings); err != nil {
		return err
	}
	return c.tls.SetReadDeadline(time.Time{})
}

// goodTLS says whether RFC 9113, section 9.2 lets HTTP/2 be spoken.
func goodTLS(s *tls.ConnectionState) bool {
	if s.Version >= tls.VersionTLS13 {
		return true
	}
	switch s.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return s.Version == tls.VersionTLS12
	}
	return false
}

// fail ends everything with err. The lock is held.
func (c *conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	for id, s := range c.streams {
		delete(c.streams, id)
		s.stop(c.err)
	}
	c.queue = nil
	c.quiet.Broadcast()
}

// sayLast waits until what was to be said has been sent, and in case of a fault of
// the client until it has heard it: closing a connection on which there is
// something to read makes the other end forget what it has not read.
func (c *conn) sayLast(fault bool) {
	_ = c.tls.SetDeadline(time.Now().Add(c.srv.Linger))
	c.mu.Lock()
	for c.sending || c.due {
		c.quiet.Wait()
	}
	c.mu.Unlock()
	if fault && c.tls.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c.tls, outFlood))
	}
}

// goAway tells the client to begin no more requests here, and ends the connection
// once there are none, or at once if code is that of an error. The lock is held.
func (c *conn) goAway(code http2.ErrCode) {
	if c.err != nil || c.away && code == http2.ErrCodeNo {
		return
	}
	c.away = true
	c.appendHead(http2.FrameGoAway, 0, 0, 8)
	c.out = appendUint32(appendUint32(c.out, c.last), uint32(code))
	c.flush()
	c.endIfAway()
}

// endIfAway ends the connection if it was to end once there are no more requests.
// The lock is held.
func (c *conn) endIfAway() {
	if c.away && len(c.streams) == 0 && c.running == 0 {
		// The reader ends when the client closes, which has no reason to wait.
		_ = c.tls.SetReadDeadline(time.Now().Add(c.srv.Linger))
	}
}

// A pulse looks after a connection on which nothing happens.
type pulse struct {
	c      *conn
	mu     sync.Mutex
	timer  *time.Timer // nil: over
	heard  uint32      // at the beat before
	last   uint32      // likewise
	silent int         // beats without a frame
	idle   int         // beats without a request
}

// watch makes the first beat come.
func (p *pulse) watch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(p.c.srv.Tick, p.beat)
}

func (p *pulse) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
	p.timer = nil
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil {
		return
	}
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	heard := c.heard.Load()
	if p.silent++; heard != p.heard {
		p.silent = 0
	}
	if p.idle++; c.last != p.last || len(c.streams) > 0 {
		p.idle = 0
	}
	switch {
	case p.silent > 2:
		c.fail(errGone)
		go c.tls.NetConn().Close() // the reader ends, and a write that is stuck
	case p.silent == 2:
		c.appendHead(http2.FramePing, 0, 0, 8)
		c.out = append(c.out, "proa:yes"...)
		c.flush()
	case p.idle >= 6:
		c.goAway(http2.ErrCodeNo)
	}
	p.heard, p.last = heard, c.last
	p.timer.Reset(c.srv.Tick)
}

var _ net.Error = timeout{}

// timeout is the error of a read or write after its deadline.
type timeout struct{}

func (timeout) Error() string   { return "h2: the deadline is over" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }
