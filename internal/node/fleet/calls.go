package fleet

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
)

// calls are those that a machine is answering, so that they can break with it. The
// zero value has none.
type calls struct {
	mu   sync.Mutex
	open map[*call]bool
}

// begin returns the writer and the request to answer a call with.
func (s *calls) begin(w http.ResponseWriter, r *http.Request) (*call, *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	c := &call{ResponseWriter: w, cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*call]bool{}
	}
	s.open[c] = true
	return c, r.WithContext(ctx)
}

// end is deferred by who answers. An answer that broke off does not look whole: it
// ends as when the server of another machine is lost.
func (s *calls) end(c *call) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	c.cancel()
	c.mu.Lock()
	abort := c.broken && c.conn == nil
	c.mu.Unlock()
	if abort {
		panic(http.ErrAbortHandler)
	}
}

// breakOff breaks all that are open: nothing more of their answers gets through.
func (s *calls) breakOff() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		c.breakOff()
	}
}

var errBroken = errors.New("the node does not answer any more")

// A call is the writer of one answer.
type call struct {
	http.ResponseWriter
	cancel context.CancelFunc

	mu     sync.Mutex
	broken bool
	conn   net.Conn // once it was taken over
}

func (c *call) breakOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	if c.conn != nil {
		c.conn.Close() // first: what the agent says at the end of the context stays here
	}
	c.cancel()
}

// Unwrap lets a ResponseController reach the connection.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *call) WriteHeader(code int) {
	if !c.isBroken() {
		c.ResponseWriter.WriteHeader(code)
	}
}

func (c *call) Write(b []byte) (int, error) {
	if c.isBroken() {
		return 0, errBroken
	}
	return c.ResponseWriter.Write(b)
}

func (c *call) isBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// Hijack implements http.Hijacker, for those who speak another protocol.
func (c *call) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(c.ResponseWriter).Hijack()
	if err != nil {
		return conn, rw, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn = conn; c.broken {
		conn.Close()
	}
	return conn, rw, nil
}
