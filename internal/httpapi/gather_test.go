package httpapi

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// counted counts the writes to a connection.
type counted struct {
	net.Conn
	writes int
	hold   chan struct{} // each write takes one, if there is a channel
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes++
	if c.hold != nil {
		<-c.hold
	}
	return c.Conn.Write(p)
}

func pair(t *testing.T, hold chan struct{}) (*gathered, *counted, net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	c := &counted{Conn: a, hold: hold}
	g := &gathered{Conn: c}
	g.idle.L = &g.mu
	t.Cleanup(func() { b.Close(); g.Close() })
	return g, c, b
}

func TestGather(t *testing.T) {
	hold := make(chan struct{})
	g, c, far := pair(t, hold)
	var want []byte
	write := func(n int) {
		p := bytes.Repeat([]byte{byte(n)}, n)
		want = append(want, p...)
		if k, err := g.Write(p); k != n || err != nil {
			t.Fatal(k, err)
		}
	}
	for n := 1; n < 100; n++ {
		write(n)
	}
	got := make([]byte, len(want))
	read := make(chan error, 1)
	go func() { _, err := io.ReadFull(far, got); read <- err }()
	close(hold)
	if err := <-read; err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v, %d bytes", err, len(got))
	}
	if c.writes > 2 {
		t.Errorf("%d writes of the connection for what was ready before the first went out", c.writes)
	}
}

// TestGatherBound: a reader who does not read makes the writer wait.
func TestGatherBound(t *testing.T) {
	g, _, far := pair(t, nil)
	done := make(chan int, 1)
	go func() {
		n := 0
		for range 100 {
			if _, err := g.Write(make([]byte, 16<<10)); err != nil {
				break
			}
			n++
		}
		done <- n
	}()
	g.mu.Lock()
	for len(g.waits)+16<<10 <= gatherMost {
		g.mu.Unlock()
		time.Sleep(time.Millisecond)
		g.mu.Lock()
	}
	if len(g.waits) > gatherMost {
		t.Errorf("%d bytes wait", len(g.waits))
	}
	g.mu.Unlock()
	if n, err := io.CopyN(io.Discard, far, 100*16<<10); err != nil || <-done != 100 {
		t.Fatal(n, err)
	}
}

func TestGatherErrorAndClose(t *testing.T) {
	g, _, far := pair(t, nil)
	far.Close()
	if _, err := g.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := g.Write([]byte("x")); err != nil {
			break // the first one's
		}
	}
	g, _, far = pair(t, nil)
	go func() {
		g.Write([]byte("last"))
		g.Close()
	}()
	if b, err := io.ReadAll(far); string(b) != "last" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	if _, err := g.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	g, _, _ = pair(t, nil)
	g.Write([]byte("nobody reads this"))
	start := time.Now()
	g.Close()
	if time.Since(start) < lastWords/2 {
		t.Error("the last words had no time")
	}
}
