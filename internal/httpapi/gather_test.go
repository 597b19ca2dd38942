package httpapi

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counting counts the writes that reach a connection, and fails them when told to.
type counting struct {
	net.Conn
	writes atomic.Int64
	fail   atomic.Bool
}

func (c *counting) Write(b []byte) (int, error) {
	c.writes.Add(1)
	if c.fail.Load() {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(b)
}

// one is a listener with one connection.
type one struct {
	net.Listener
	conn net.Conn
}

func (l one) Accept() (net.Conn, error) { return l.conn, nil }

func gatheredPipe(t *testing.T) (server net.Conn, inner *counting, client net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	inner = &counting{Conn: a}
	server, err := Gather(one{conn: inner}).Accept()
	if err != nil {
		t.Fatal(err)
	}
	return server, inner, b
}

func TestGatherSendsAllInOrder(t *testing.T) {
	server, inner, client := gatheredPipe(t)
	var want []byte
	const writes = 3000
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(client)
		got <- b
	}()
	for i := range writes {
		piece := bytes.Repeat([]byte{byte(i)}, 1+i%997)
		want = append(want, piece...)
		if n, err := server.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("wrote %d of %d: %v", n, len(piece), err)
		}
	}
	large := bytes.Repeat([]byte("x"), 5*gatherMost+1)
	want = append(want, large...)
	if n, err := server.Write(large); n != len(large) || err != nil {
		t.Fatalf("wrote %d of %d: %v", n, len(large), err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if b := <-got; !bytes.Equal(b, want) {
		t.Fatalf("%d bytes arrived, or in another order; %d were written", len(b), len(want))
	}
	if n := inner.writes.Load(); n > writes/2 {
		t.Errorf("%d writes were sent in %d pieces", writes, n)
	}
}

// What is written while nobody else can run goes in one piece.
func TestGatherOnePiece(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	server, inner, client := gatheredPipe(t)
	for range 10 {
		if _, err := server.Write([]byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 100)
	if _, err := io.ReadFull(client, b); err != nil {
		t.Fatal(err)
	}
	// The runtime may have let the sender run in between.
	if n := inner.writes.Load(); n > 3 {
		t.Errorf("ten writes were sent in %d pieces", n)
	}
	server.Close()
}

func TestGatherTellsErrors(t *testing.T) {
	server, inner, client := gatheredPipe(t)
	defer client.Close()
	inner.fail.Store(true)
	if _, err := server.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := server.Write([]byte("x")); err != nil {
			break // after at most what has room; the test's own time limit is for one that never tells
		}
		runtime.Gosched()
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
}

// A client that does not read keeps neither a writer nor a Close for good.
func TestGatherClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, _, client := gatheredPipe(t)
		defer client.Close()
		ended := make(chan error)
		go func() {
			_, err := server.Write(make([]byte, 4*gatherMost))
			ended <- err
		}()
		synctest.Wait()
		server.Close()
		if err := <-ended; err == nil {
			t.Error("a write to a closed connection that was never read went well")
		}

		server, _, client = gatheredPipe(t)
		defer client.Close()
		if _, err := server.Write([]byte("never read")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		server.Close()
		if took := time.Since(began); took != closing {
			t.Errorf("Close took %v", took)
		}
	})
}

// As crypto/tls closes: a last record under a deadline, then a deadline that is
// over, then the connection.
func TestGatherDeadlineLetsGo(t *testing.T) {
	server, _, client := gatheredPipe(t)
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(client)
		got <- b
	}()
	server.SetWriteDeadline(time.Now().Add(time.Minute))
	if _, err := server.Write([]byte("the last words")); err != nil {
		t.Fatal(err)
	}
	server.SetWriteDeadline(time.Now())
	if _, err := server.Write([]byte("too late")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if b := <-got; string(b) != "the last words" {
		t.Errorf("%q arrived", b)
	}
}
