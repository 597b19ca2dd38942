package etcd_test

import (
	"net"
	"sync"
	"testing"
)

// A proxy stands between an engine and its etcd and can hold back what one says
// to the other.
type proxy struct {
	t        testing.TB
	endpoint string
	to       string
	l        net.Listener

	mu    sync.Mutex
	pairs []*pair
	mute  bool // nothing comes back
	deaf  bool // nothing gets there
}

// A pair is one connection: the engine's end, and etcd's.
type pair struct {
	engine, etcd net.Conn
	held         []byte // what has not got there
	cut          bool   // the engine's end is closed
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, endpoint: l.Addr().String(), to: to, l: l}
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, x := range p.pairs {
			x.etcd.Close()
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.connect(c)
		}
	}()
	return p
}

func (p *proxy) connect(c net.Conn) {
	s, err := net.Dial("tcp", p.to)
	if err != nil {
		c.Close()
		return
	}
	x := &pair{engine: c, etcd: s}
	p.mu.Lock()
	p.pairs = append(p.pairs, x)
	p.mu.Unlock()
	go p.forward(x)
	go p.back(x)
}

func (p *proxy) forward(x *pair) {
	buf := make([]byte, 64<<10)
	for {
		n, err := x.engine.Read(buf)
		p.mu.Lock()
		if p.deaf || len(x.held) > 0 {
			x.held = append(x.held, buf[:n]...)
		} else if _, e := x.etcd.Write(buf[:n]); e != nil && err == nil {
			err = e
		}
		keep := x.cut && len(x.held) > 0 // etcd does not notice
		p.mu.Unlock()
		if err != nil {
			if !keep {
				x.etcd.Close()
			}
			return
		}
	}
}

func (p *proxy) back(x *pair) {
	buf := make([]byte, 64<<10)
	for {
		n, err := x.etcd.Read(buf)
		p.mu.Lock()
		if !p.mute && !x.cut {
			_, _ = x.engine.Write(buf[:n]) // a closed end is noticed by forward
		}
		p.mu.Unlock()
		if err != nil {
			x.engine.Close()
			return
		}
	}
}

// set makes etcd mute, so that its answers do not come back, or deaf, so that
// what it is told waits.
func (p *proxy) set(mute, deaf bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute, p.deaf = mute, deaf
}

// cut closes the engine's connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.pairs {
		x.cut = true
		x.engine.Close()
	}
}

// release lets etcd hear what was held back on connections that were cut.
func (p *proxy) release() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, x := range p.pairs {
		if x.cut && len(x.held) > 0 {
			n += len(x.held)
			_, _ = x.etcd.Write(x.held)
			x.held = nil
		}
	}
	return n
}

// holds says how many bytes wait.
func (p *proxy) holds() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, x := range p.pairs {
		n += len(x.held)
	}
	return n
}
