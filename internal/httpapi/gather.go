package httpapi

import (
	"net"
	"runtime"
	"sync"
	"time"

	"proa/internal/httpapi/outbuf"
)

// Gather returns a listener whose connections send what is written to them in
// few large pieces. Go's servers write the head and the body of an answer one
// after the other, and a long body in pieces of 4 KB, each a record of TLS: every one is
// a system call, and a system call is most of what an answer costs. A connection
// of Gather sends as soon as everybody else who can run has run once, which is at
// once on an idle machine, and then all that has come together in the meantime.
// Who knows when a piece is whole says so, as package h2 does (see [h2.Corker]).
//
// A write may return before its bytes have been sent, at most gatherMost of
// them; what goes wrong with them is told by the next. Close, and a write
// deadline that is over, let them go first.
func Gather(l net.Listener) net.Listener { return gatherer{l} }

type gatherer struct{ net.Listener }

func (g gatherer) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	out := &gathered{Conn: c}
	out.room.L = &out.mu
	return out, nil
}

// gatherMost is how many bytes may wait in a connection while others are on
// their way.
const gatherMost = outbuf.Much

// closing is how long a Close waits for a client that does not read.
const closing = 5 * time.Second

type gathered struct {
	net.Conn

	mu      sync.Mutex
	room    sync.Cond // when sending has got on
	waiting []byte    // a buffer of outbuf; nil: nothing
	sending bool      // somebody is there that will send what waits
	corked  bool      // it is whoever called Cork
	blocked int       // writers that wait for room
	over    bool      // the write deadline is in the past
	err     error     // of a write that had returned
}

func (c *gathered) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil {
		c.waiting = outbuf.Fit(c.waiting, len(p))
		part := min(len(p), gatherMost-len(c.waiting))
		c.waiting = append(c.waiting, p[:part]...)
		n, p = n+part, p[part:]
		if c.corked && len(p) > 0 {
			c.sendNow()
			continue
		}
		if !c.sending && len(c.waiting) > 0 {
			c.sending = true
			go c.send()
		}
		if len(p) == 0 {
			return n, nil
		}
		c.blocked++
		c.room.Wait()
		c.blocked--
	}
	return n, c.err
}

// Cork says that the caller writes several times, and will say when that was all.
// Nobody else writes meanwhile.
func (c *gathered) Cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle()
	c.corked, c.sending = true, true
}

// Uncork sends what was written since Cork.
func (c *gathered) Uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocked++ // Close does not wait for it
	c.sendNow()
	c.blocked--
	c.corked, c.sending = false, false
	c.room.Broadcast()
	return c.err
}

// send sends until nothing is left.
func (c *gathered) send() {
	runtime.Gosched()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendNow()
	c.sending = false
	c.room.Broadcast()
}

// sendNow sends until nothing is left. The lock is held, but not while it sends.
func (c *gathered) sendNow() {
	for c.waiting != nil && c.err == nil {
		b := c.waiting
		c.waiting = nil
		c.mu.Unlock()
		_, err := c.Conn.Write(b)
		outbuf.Free(b)
		c.mu.Lock()
		c.err = err
		c.room.Broadcast()
	}
}

// idle waits until nothing is left to send, or nothing can be sent.
func (c *gathered) idle() {
	for c.sending && c.err == nil {
		c.room.Wait()
	}
}

// SetWriteDeadline is for what waits too: with a time that is over it returns
// when that has been sent, or could not be by the deadline before.
func (c *gathered) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over = !t.IsZero() && !t.After(time.Now()); c.over {
		c.idle()
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline is SetWriteDeadline, and for reads.
func (c *gathered) SetDeadline(t time.Time) error {
	if err := c.Conn.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// Close sends what waits, unless somebody is stuck in a Write, and closes.
func (c *gathered) Close() error {
	c.mu.Lock()
	if c.sending && c.err == nil && c.blocked == 0 && !c.over {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(closing)); err == nil {
			c.idle()
		}
	}
	c.mu.Unlock()
	return c.Conn.Close()
}
