package httpapi

import (
	"net"
	"runtime"
	"sync"
	"time"
)

// Gather returns l with connections that put what is written to them shortly
// after one another into one packet. An answer over HTTP/2 is two or three
// frames, each of which net/http hands to TLS, and TLS to the connection, by
// itself: that is three system calls, and wakes the other side three times. So
// is an event for each of the many watches of one client.
//
// Nothing waits for a timer: what was written is sent as soon as the goroutines
// that are ready to run have had their turn. An error of the connection is told
// to the next Write. At most gatherMost bytes wait; then Write does.
func Gather(l net.Listener) net.Listener { return gathering{l} }

type gathering struct{ net.Listener }

func (l gathering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &gathered{Conn: c}
	g.idle.L = &g.mu
	return g, nil
}

const (
	gatherMost = 256 << 10
	gatherKeep = 32 << 10        // a larger buffer is not kept for later
	lastWords  = 1 * time.Second // for what waits when the connection is closed
)

type gathered struct {
	net.Conn
	mu      sync.Mutex
	idle    sync.Cond // signalled when sending ends, and when there is room
	waits   []byte
	spare   []byte
	sending bool
	err     error
}

func (g *gathered) Write(p []byte) (int, error) {
	g.mu.Lock()
	for len(g.waits)+len(p) > gatherMost && g.sending && g.err == nil {
		g.idle.Wait()
	}
	if g.err != nil {
		g.mu.Unlock()
		return 0, g.err
	}
	g.waits = append(g.waits, p...)
	start := !g.sending
	g.sending = true
	g.mu.Unlock()
	if start {
		go g.send()
	}
	return len(p), nil
}

// send writes until nothing waits.
func (g *gathered) send() {
	runtime.Gosched()
	g.mu.Lock()
	for len(g.waits) > 0 && g.err == nil {
		b := g.waits
		g.waits, g.spare = g.spare[:0], nil
		g.idle.Broadcast() // there is room
		g.mu.Unlock()
		_, err := g.Conn.Write(b)
		g.mu.Lock()
		g.err = err
		if cap(b) <= gatherKeep {
			g.spare = b[:0]
		}
	}
	g.sending = false
	if cap(g.waits) > gatherKeep {
		g.waits = nil
	}
	g.idle.Broadcast()
	g.mu.Unlock()
}

// Close sends what waits, if the other side takes it.
func (g *gathered) Close() error {
	g.mu.Lock()
	if g.sending {
		_ = g.Conn.SetWriteDeadline(time.Now().Add(lastWords))
	}
	for g.sending {
		g.idle.Wait()
	}
	if g.err == nil {
		g.err = net.ErrClosed
	}
	g.mu.Unlock()
	return g.Conn.Close()
}
