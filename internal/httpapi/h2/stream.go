package h2

import (
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"

	"proa/internal/httpapi/lazy"
)

// A stream is one request and its answer. What is below moved belongs to whoever
// holds the connection's lock.
type stream struct {
	c         *conn
	id        uint32
	req       *http.Request
	ctx       lazy.Context
	body      body
	answer    answer
	truncated bool // the header, which was too large

	moved   sync.Cond // something of this changed that somebody may wait for
	err     error     // why there is no more: the client has given it up, or gone
	over    bool      // the body has been closed, or the handler has returned
	readBy  *limit    // when a read gives up
	writeBy *limit    // when a write does

	in       []byte // what the client has sent
	off      int    // of in, that was read
	heard    bool   // there is no more to come
	declared int64  // Content-Length; -1: none
	got      int64  // bytes of the body
	taken    uint32 // bytes of the window that it was given
	credit   uint32 // of these, those it may send again and does not know of
	trailer  http.Header
	expects  bool // "100-continue", and has not got it

	window int64
	queued bool // in the connection's queue
	said   bool // the answer has been sent, all of it
}

// stop ends the stream. The lock is held.
func (s *stream) stop(err error) {
	if s.err == nil {
		s.err = err
	}
	s.drop()
	s.ctx.Cancel()
	s.moved.Broadcast()
}

// drop forgets what was sent and not read. The lock is held.
func (s *stream) drop() {
	left := len(s.in) - s.off
	s.in, s.off = nil, 0
	if left > 0 {
		s.c.took(s, uint32(left))
	}
}

// onHeaders begins a request, or ends one with a trailer.
func (c *conn) onHeaders(f *http2.MetaHeadersFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := f.StreamID
	if id%2 == 0 {
		return connError(http2.ErrCodeProtocol)
	}
	if s := c.streams[id]; s != nil {
		return c.onTrailer(s, f)
	}
	if id <= c.last {
		if c.wasReset(id) {
			return nil
		}
		return connError(http2.ErrCodeStreamClosed)
	}
	if f.HasPriority() && f.Priority.StreamDep == id {
		return connError(http2.ErrCodeProtocol)
	}
	if c.away {
		return nil // the client repeats it elsewhere
	}
	c.last = id
	if most := int(c.srv.MaxStreams); len(c.streams) >= most || c.running >= most+most/4 {
		c.refused++ // requests that were given up still run
		return streamError(id, http2.ErrCodeRefusedStream)
	}
	c.refused = 0
	s := &stream{c: c, id: id, window: c.streamWindow, heard: f.StreamEnded(), truncated: f.Truncated, declared: -1}
	s.moved.L = &c.mu
	s.ctx.Init(c.base, time.Time{})
	s.body.s, s.answer.s = s, s
	if !s.request(f) {
		return streamError(id, http2.ErrCodeProtocol)
	}
	c.streams[id] = s
	c.running++
	s.start()
	return nil
}

// blank is what requests are made from: only WithContext gives one a context.
var blank = &http.Request{Proto: "HTTP/2.0", ProtoMajor: 2}

// request makes the request. False: it is malformed (RFC 9113, section 8).
func (s *stream) request(f *http2.MetaHeadersFrame) bool {
	r := blank.WithContext(&s.ctx)
	s.req = r
	r.RemoteAddr, r.TLS, r.Body = s.c.remote, s.c.state, http.NoBody
	if !s.heard {
		r.Body = &s.body
	}
	fields := f.RegularFields()
	r.Header = make(http.Header, len(fields))
	values := make([]string, len(fields)) // each header's value, in one piece
	var scheme string
	for _, p := range f.PseudoFields() {
		switch p.Name {
		case ":method":
			r.Method = p.Value
		case ":path":
			r.RequestURI = p.Value
		case ":authority":
			r.Host = p.Value
		case ":scheme":
			scheme = p.Value
		default:
			return false
		}
	}
	for i, h := range fields {
		switch h.Name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			return false
		case "te":
			if h.Value != "trailers" {
				return false
			}
		case "content-length":
			n, err := strconv.ParseUint(h.Value, 10, 63)
			if err != nil || s.declared >= 0 && s.declared != int64(n) {
				return false
			}
			s.declared = int64(n)
		}
		name := canonical(h.Name)
		if all := r.Header[name]; name == "Cookie" && len(all) == 1 {
			all[0] += "; " + h.Value
		} else if all != nil {
			r.Header[name] = append(all, h.Value)
		} else {
			values[i] = h.Value
			r.Header[name] = values[i : i+1 : i+1]
		}
	}
	return s.complete(scheme)
}

// complete checks the request and fills in what follows from its header.
func (s *stream) complete(scheme string) bool {
	r := s.req
	if host := r.Header["Host"]; len(host) > 0 {
		if r.Host == "" {
			r.Host = host[0]
		}
		delete(r.Header, "Host")
	}
	if !httpguts.ValidHostHeader(r.Host) {
		return false
	}
	var err error
	if r.Method == http.MethodConnect {
		if r.RequestURI != "" || scheme != "" || r.Host == "" {
			return false
		}
		r.URL, r.RequestURI = &url.URL{Host: r.Host}, r.Host
	} else {
		if r.Method == "" || r.RequestURI == "" || scheme != "https" && scheme != "http" {
			return false
		}
		if r.RequestURI[0] != '/' && (r.RequestURI != "*" || r.Method != http.MethodOptions) {
			return false
		}
		if r.URL, err = url.ParseRequestURI(r.RequestURI); err != nil {
			return false
		}
	}
	r.ContentLength = s.declared
	if s.heard {
		if s.declared > 0 {
			return false
		}
		r.ContentLength = 0
	} else if n := s.declared; n > 0 && n <= streamWindow/16 {
		s.in = make([]byte, 0, n)
	}
	if v := r.Header["Expect"]; len(v) > 0 && httpguts.HeaderValuesContainsToken(v, "100-continue") {
		delete(r.Header, "Expect")
		s.expects = !s.heard
	}
	for _, v := range r.Header["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			name = http.CanonicalHeaderKey(textproto.TrimString(name))
			if httpguts.ValidTrailerHeader(name) {
				if r.Trailer == nil {
					r.Trailer = http.Header{}
				}
				r.Trailer[name] = nil
			}
		}
	}
	delete(r.Header, "Trailer")
	return true
}

// onTrailer ends a request's body. The lock is held.
func (c *conn) onTrailer(s *stream, f *http2.MetaHeadersFrame) error {
	switch {
	case s.heard:
		return streamError(s.id, http2.ErrCodeStreamClosed)
	case !f.StreamEnded(), len(f.PseudoFields()) > 0, s.declared >= 0 && s.got != s.declared:
		return streamError(s.id, http2.ErrCodeProtocol)
	}
	for _, h := range f.RegularFields() {
		name := canonical(h.Name)
		if _, ok := s.req.Trailer[name]; ok {
			if s.trailer == nil {
				s.trailer = http.Header{}
			}
			s.trailer.Add(name, h.Value)
		}
	}
	c.heardAll(s)
	s.moved.Broadcast()
	return nil
}

// body is what a handler reads of a request.
type body struct{ s *stream }

func (b *body) Read(p []byte) (int, error) {
	s := b.s
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	b.goOn()
	for {
		switch {
		case s.over:
			return 0, http.ErrBodyReadAfterClose
		case s.off < len(s.in):
			n := copy(p, s.in[s.off:])
			if s.off += n; s.off == len(s.in) {
				s.in, s.off = s.in[:0], 0
				if s.heard || cap(s.in) > 2*frameSize {
					s.in = nil
				}
			}
			c.took(s, uint32(n))
			return n, nil
		case s.err != nil:
			return 0, s.err
		case s.heard:
			b.end()
			return 0, io.EOF
		case s.readBy.passed():
			return 0, timeout{}
		case len(p) == 0:
			return 0, nil
		}
		s.moved.Wait()
	}
}

// ReadAll returns what is left of the body, without a copy if that is little. It
// reads no more than a part beyond most bytes.
func (b *body) ReadAll(most int64) ([]byte, error) {
	s := b.s
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	b.goOn()
	var all []byte
	for int64(len(all)) <= most {
		if n := len(s.in) - s.off; n > 0 && (s.heard || s.err != nil || n >= streamWindow/8) {
			if all == nil {
				all = s.in[s.off:]
			} else {
				all = append(all, s.in[s.off:]...)
			}
			s.in, s.off = nil, 0
			c.took(s, uint32(n))
			continue
		}
		switch {
		case s.over:
			return nil, http.ErrBodyReadAfterClose
		case s.err != nil:
			return nil, s.err
		case s.heard:
			b.end()
			return all, nil
		case s.readBy.passed():
			return nil, timeout{}
		}
		s.moved.Wait()
	}
	return all, nil
}

// goOn lets a client begin that waits to be told so. The lock is held.
func (b *body) goOn() {
	if s, c := b.s, b.s.c; s.expects && s.err == nil {
		s.expects = false
		c.encodeStatus(http.StatusContinue)
		c.appendFields(s.id, false)
		c.flush()
	}
}

// end is called when all has been read.
func (b *body) end() {
	for name, v := range b.s.trailer {
		b.s.req.Trailer[name] = v
	}
}

// Close says that nothing more will be read.
func (b *body) Close() error {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	b.s.over = true
	b.s.drop()
	return nil
}

// A limit is a deadline of reads or writes. Nil: there is none.
type limit struct {
	timer *time.Timer
	over  bool
}

func (l *limit) passed() bool { return l != nil && l.over }

func (l *limit) stop() {
	if l != nil {
		l.timer.Stop()
	}
}

// limit replaces a deadline, which then calls after. The lock is held.
func (s *stream) limit(old **limit, at time.Time, after func()) {
	(*old).stop()
	if *old = nil; at.IsZero() {
		return
	}
	l := &limit{}
	l.timer = time.AfterFunc(time.Until(at), func() {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		if *old == l {
			l.over = true
			after()
		}
	})
	*old = l
}

var _ io.ReadCloser = (*body)(nil)
