package h2

import (
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
)

// answer is the ResponseWriter of a stream. It belongs to the handler's
// goroutine; only what it appends to the connection is under the lock.
type answer struct {
	s      *stream
	header http.Header
	sent   http.Header // as it was at WriteHeader, for a header that waits for the length
	code   int         // 0: not said yet
	length int64       // that the header says; -1: it says nothing
	wrote  int64
	begun  bool   // the header has been sent
	wait   []byte // the beginning of a body whose length may become known
}

var (
	_ http.ResponseWriter = (*answer)(nil)
	_ http.Flusher        = (*answer)(nil)
)

// waitMost is how much of a body waits for its end, so that its length can be said.
const waitMost = 4 << 10

// A worker is a goroutine that runs handlers one after the other: a new one would
// have to make its stack large again for each.
type worker chan *stream

// idleMost is how many workers wait for requests.
const idleMost = 64

// start runs the handler.
func (s *stream) start() {
	srv := s.c.srv
	srv.mu.Lock()
	n := len(srv.idle)
	if n == 0 {
		srv.mu.Unlock()
		go make(worker, 1).run(s)
		return
	}
	w := srv.idle[n-1]
	srv.idle = srv.idle[:n-1]
	srv.mu.Unlock()
	w <- s
}

func (w worker) run(s *stream) {
	for s != nil {
		srv := s.c.srv
		s.serve()
		srv.mu.Lock()
		if len(srv.conns) == 0 || len(srv.idle) >= idleMost {
			srv.mu.Unlock()
			return
		}
		srv.idle = append(srv.idle, w)
		srv.mu.Unlock()
		s = <-w
	}
}

// dismiss ends the workers that wait. The lock is held.
func (s *server) dismiss() {
	for _, w := range s.idle {
		w <- nil
	}
	s.idle = nil
}

// serve runs the handler.
func (s *stream) serve() {
	finished := false
	defer func() {
		if !finished {
			if e := recover(); e != nil && e != http.ErrAbortHandler {
				s.c.srv.logf("h2: a handler panicked, for %s: %v\n%s", s.c.remote, e, debug.Stack())
			}
		}
		s.finish(finished)
	}()
	if s.truncated {
		http.Error(&s.answer, "the header of the request is too large", http.StatusRequestHeaderFieldsTooLarge)
	} else {
		s.c.handler.ServeHTTP(&s.answer, s.req)
	}
	finished = true
}

// finish ends the answer when the handler has returned or panicked.
func (s *stream) finish(ok bool) {
	if ok {
		ok = s.answer.end() == nil
	}
	c := s.c
	c.mu.Lock()
	s.over = true
	s.readBy.stop()
	s.writeBy.stop()
	s.drop()
	switch {
	case c.streams[s.id] != s:
	case !ok:
		c.abort(s, http2.ErrCodeInternal, errDone)
	case s.heard:
		c.forget(s)
	default: // the rest of the request is of no interest
		c.abort(s, http2.ErrCodeNo, errDone)
	}
	s.ctx.Cancel()
	c.running--
	c.endIfAway()
	switch { // to be sent by this goroutine, which has nothing else to do
	case c.sending || c.due || len(c.out) == 0:
	case c.running == 0:
		c.sendAll()
	default:
		c.sendLast()
	}
	c.mu.Unlock()
}

func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header, 8)
	}
	return a.header
}

// WriteHeader sends a header of the code, at once if it says how long the body is
// and with the body's beginning otherwise. Codes below 200 may come before the
// last one.
func (a *answer) WriteHeader(code int) {
	if a.code != 0 {
		return
	}
	if code < 100 || code > 999 {
		panic("h2: the status code " + strconv.Itoa(code) + " does not exist")
	}
	c := a.s.c
	if code < 200 {
		if code == http.StatusSwitchingProtocols {
			panic("h2: HTTP/2 does not switch protocols")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if code == http.StatusContinue {
			a.s.expects = false
		}
		if a.s.err == nil {
			c.encodeStatus(code)
			c.encodeHeader(a.header)
			c.appendFields(a.s.id, false)
			c.flush()
		}
		return
	}
	a.code, a.length = code, -1
	if v := a.header["Content-Length"]; len(v) > 0 && bodyAllowed(code) {
		n, err := strconv.ParseUint(v[0], 10, 63)
		if err != nil || len(v) > 1 {
			delete(a.header, "Content-Length")
		} else {
			a.length = int64(n)
		}
	}
	if a.length > 0 && !sniffed(a.header) {
		a.begin(-1, false)
	} else {
		a.sent = a.header.Clone()
	}
}

// sniffed says whether the body tells its type.
func sniffed(h http.Header) bool {
	_, typed := h["Content-Type"]
	_, coded := h["Content-Encoding"]
	return !typed && !coded
}

func bodyAllowed(code int) bool {
	return code != http.StatusNoContent && code != http.StatusNotModified
}

// begin appends the header, with a Content-Length if it is not negative.
func (a *answer) begin(length int64, end bool) {
	a.begun = true
	h := a.sent
	if h == nil {
		h = a.header
	}
	c := a.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.s.err != nil {
		return
	}
	c.encodeStatus(a.code)
	c.encodeHeader(h)
	if len(a.wait) > 0 && sniffed(h) {
		c.encodeField("content-type", http.DetectContentType(a.wait), false)
	}
	if length >= 0 {
		c.encodeField("content-length", strconv.FormatInt(length, 10), true)
	}
	if _, dated := h["Date"]; !dated {
		c.encodeField("date", date(), false)
	}
	c.appendFields(a.s.id, end)
	if end {
		c.saidAll(a.s)
	}
	if v := h["Connection"]; len(v) == 1 && strings.EqualFold(v[0], "close") {
		c.goAway(http2.ErrCodeNo)
	}
}

func (a *answer) Write(p []byte) (int, error) {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if !bodyAllowed(a.code) {
		return 0, http.ErrBodyNotAllowed
	}
	if len(p) == 0 {
		return 0, nil // the last byte may have been sent, and that it is
	}
	if a.length >= 0 && a.wrote+int64(len(p)) > a.length {
		return 0, http.ErrContentLength
	}
	a.wrote += int64(len(p))
	if a.s.req.Method == http.MethodHead {
		if a.wait == nil {
			a.wait = slices.Clone(p[:min(len(p), 512)]) // to see what it is
		}
		return len(p), nil
	}
	if !a.begun {
		if len(a.wait)+len(p) <= waitMost {
			a.wait = append(a.wait, p...)
			return len(p), nil
		}
		if err := a.release(p); err != nil {
			return 0, err
		}
	}
	if err := a.s.send(p, a.wrote == a.length && len(a.header["Trailer"]) == 0); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString is Write.
func (a *answer) WriteString(s string) (int, error) { return a.Write([]byte(s)) }

// release sends the header and what has waited for it. P comes next.
func (a *answer) release(p []byte) error {
	wait := a.wait
	if len(wait) == 0 {
		a.wait = p[:min(len(p), 512)] // to see what it is
	}
	a.begin(-1, false)
	if a.wait = nil; len(wait) == 0 || a.s.req.Method == http.MethodHead {
		return nil
	}
	return a.s.send(wait, false)
}

// WriteAll writes parts one after the other, as Write and Flush would, in one go.
// It is for answers that have no end.
func (a *answer) WriteAll(flush bool, parts ...[]byte) (n int, err error) {
	if !a.begun || a.length >= 0 || a.s.req.Method == http.MethodHead {
		for _, p := range parts {
			if _, err := a.Write(p); err != nil {
				return n, err
			}
			n += len(p)
		}
		if flush {
			err = a.FlushError()
		}
		return n, err
	}
	c := a.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts {
		if err := a.s.put(p, false); err != nil {
			return n, err
		}
		n += len(p)
	}
	a.wrote += int64(n)
	if flush {
		c.flush()
	}
	return n, nil
}

// Flush sends what was written.
func (a *answer) Flush() { _ = a.FlushError() }

// FlushError sends what was written. It is for http.ResponseController.
func (a *answer) FlushError() error {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if !a.begun {
		if err := a.release(nil); err != nil {
			return err
		}
	}
	c := a.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.s.err != nil {
		return a.s.err
	}
	c.flush()
	return nil
}

// SetReadDeadline is for the body. It is for http.ResponseController.
func (a *answer) SetReadDeadline(t time.Time) error {
	s := a.s
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.limit(&s.readBy, t, s.moved.Broadcast)
	return nil
}

// SetWriteDeadline is for the answer, which is reset when the time is over. It is
// for http.ResponseController.
func (a *answer) SetWriteDeadline(t time.Time) error {
	s := a.s
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.limit(&s.writeBy, t, func() { s.c.abort(s, http2.ErrCodeInternal, timeout{}) })
	return nil
}

// EnableFullDuplex has nothing to do: HTTP/2 is.
func (a *answer) EnableFullDuplex() error { return nil }

var errShort = errors.New("h2: the body is shorter than its Content-Length")

// end sends what is left when the handler has returned.
func (a *answer) end() error {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	head := a.s.req.Method == http.MethodHead
	if a.length > a.wrote && !(head && a.wrote == 0) {
		return errShort
	}
	trailer := a.trailer()
	if !a.begun {
		length := int64(-1)
		if a.length < 0 && bodyAllowed(a.code) && (!head || a.wrote > 0) {
			length = a.wrote
		}
		wait := a.wait
		if head {
			wait = nil
		}
		a.begin(length, len(wait) == 0 && trailer == nil)
		if a.wait = nil; len(wait) > 0 {
			if err := a.s.send(wait, trailer == nil); err != nil {
				return err
			}
		}
	}
	s := a.s
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.said:
	case s.err != nil:
		return s.err
	case trailer != nil:
		c.fields = c.fields[:0]
		c.encodeHeader(trailer)
		c.appendFields(s.id, true)
		c.saidAll(s)
	default:
		c.appendData(s, nil, true)
		c.saidAll(s)
	}
	return nil // finish sends it
}

// trailer is what the handler has set of the header since, to be sent after the
// body; nil if that is nothing.
func (a *answer) trailer() http.Header {
	var out http.Header
	add := func(name string, v []string) {
		if len(v) > 0 && httpguts.ValidTrailerHeader(name) {
			if out == nil {
				out = http.Header{}
			}
			out[name] = v
		}
	}
	for _, v := range a.header["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			add(name, a.header[name])
		}
	}
	for name, v := range a.header {
		if name, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			add(name, v)
		}
	}
	return out
}

// send puts p into the connection's buffer. It returns when all of it is there.
func (s *stream) send(p []byte, end bool) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.put(p, end)
}

// put is send. The lock is held, but not while it waits or sends.
func (s *stream) put(p []byte, end bool) error {
	c := s.c
	for {
		if s.err != nil {
			c.next() // if it had been its turn
			return s.err
		}
		n := c.room(s, len(p))
		last := n == len(p)
		if n > 0 || last {
			c.appendData(s, p[:n], end && last)
			p = p[n:]
			if end && last {
				c.saidAll(s)
			}
			if len(c.out) >= outSoon && !c.sending {
				c.sendOnce()
				c.flush()
			}
			if last {
				c.next()
				return nil
			}
			continue
		}
		if c.flush(); s.window <= 0 {
			c.next()
		} else if !s.queued {
			c.queue = append(c.queue, s)
			s.queued = true
		}
		s.moved.Wait()
	}
}
