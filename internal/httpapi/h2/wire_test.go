package h2

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A peer is a client that says what no client should.
type peer struct {
	*http2.Framer
	t    testing.TB
	conn net.Conn
	head bytes.Buffer
	enc  *hpack.Encoder
}

// dial begins a connection up to and with the settings.
func dial(t testing.TB, addr string) *peer {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, http2.ClientPreface)
	p := &peer{Framer: http2.NewFramer(c, c), t: t, conn: c}
	p.enc = hpack.NewEncoder(&p.head)
	p.WriteSettings()
	return p
}

// header encodes fields: "GET /" without any.
func (p *peer) header(more ...string) []byte {
	p.head.Reset()
	if len(more) == 0 || more[0][0] != ':' {
		more = append([]string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a"}, more...)
	}
	for i := 0; i < len(more); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: more[i], Value: more[i+1]})
	}
	return p.head.Bytes()
}

// request begins a stream.
func (p *peer) request(id uint32, end bool, more ...string) {
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.header(more...), EndStream: end, EndHeaders: true})
}

// until reads frames until one is wanted, and returns it; nil at the end of the
// connection.
func (p *peer) until(want func(http2.Frame) bool) http2.Frame {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			var wait net.Error
			if errors.As(err, &wait) && wait.Timeout() {
				p.t.Fatal("what was to come did not")
			}
			return nil
		}
		if want(f) {
			return f
		}
	}
}

// verdict is what the server says of what it was sent.
func (p *peer) verdict() string {
	p.t.Helper()
	p.WritePing(false, [8]byte{1})
	switch f := p.until(func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.GoAwayFrame, *http2.RSTStreamFrame:
			return true
		case *http2.PingFrame:
			return f.IsAck()
		}
		return false
	}).(type) {
	case *http2.GoAwayFrame:
		return "connection: " + f.ErrCode.String()
	case *http2.RSTStreamFrame:
		return "stream: " + f.ErrCode.String()
	case *http2.PingFrame:
		return "fine"
	}
	return "closed"
}

// Every fault ends what RFC 9113 says, and nothing else.
func TestFaults(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	s := start(t, true, Config{MaxStreams: 4, MaxHeader: 8 << 10, Linger: 50 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "HOLD" {
			select {
			case <-r.Context().Done():
			case <-hold:
			}
		}
		io.Copy(io.Discard, r.Body)
	}))
	held := []string{":method", "HOLD", ":scheme", "https", ":path", "/", ":authority", "a"}
	raw := func(p *peer, typ http2.FrameType, flags http2.Flags, id uint32, payload ...byte) {
		p.WriteRawFrame(typ, flags, id, payload)
	}
	for name, c := range map[string]struct {
		do   func(p *peer)
		want string
	}{
		"nothing wrong":          {func(p *peer) { p.request(1, true) }, "fine"},
		"an even stream":         {func(p *peer) { p.request(2, true) }, "connection: PROTOCOL_ERROR"},
		"a stream that was":      {func(p *peer) { p.request(3, true); p.verdict(); p.request(1, true) }, "connection: STREAM_CLOSED"},
		"data without a stream":  {func(p *peer) { p.WriteData(1, true, []byte("x")) }, "connection: PROTOCOL_ERROR"},
		"data on stream 0":       {func(p *peer) { raw(p, http2.FrameData, 0, 0, 'x') }, "connection: PROTOCOL_ERROR"},
		"data after the end":     {func(p *peer) { p.request(1, true, held...); p.WriteData(1, true, []byte("x")) }, "stream: STREAM_CLOSED"},
		"header after the end":   {func(p *peer) { p.request(1, true, held...); p.request(1, true, "a", "b") }, "stream: STREAM_CLOSED"},
		"trailer without an end": {func(p *peer) { p.request(1, false, held...); p.request(1, false, "a", "b") }, "stream: PROTOCOL_ERROR"},
		"reset of what was not":  {func(p *peer) { p.WriteRSTStream(1, 0) }, "connection: PROTOCOL_ERROR"},
		"window of what was not": {func(p *peer) { p.WriteWindowUpdate(1, 1) }, "connection: PROTOCOL_ERROR"},
		"window of nothing":      {func(p *peer) { raw(p, http2.FrameWindowUpdate, 0, 0, 0, 0, 0, 0) }, "connection: PROTOCOL_ERROR"},
		"window too large":       {func(p *peer) { p.WriteWindowUpdate(0, 1<<31-1) }, "connection: FLOW_CONTROL_ERROR"},
		"window of a stream too large": {func(p *peer) { p.request(1, true, held...); p.WriteWindowUpdate(1, 1<<31-1) },
			"stream: FLOW_CONTROL_ERROR"},
		"windows made too large": {func(p *peer) {
			p.request(1, true, held...)
			p.WriteWindowUpdate(1, 1<<30)
			p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		}, "connection: FLOW_CONTROL_ERROR"},
		"a setting that cannot be": {func(p *peer) { p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}) },
			"connection: PROTOCOL_ERROR"},
		"a push":            {func(p *peer) { p.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true}) }, "connection: PROTOCOL_ERROR"},
		"depends on itself": {func(p *peer) { p.WritePriority(1, http2.PriorityParam{StreamDep: 1}) }, "connection: PROTOCOL_ERROR"},
		"a frame too large": {func(p *peer) { raw(p, http2.FrameData, 0, 1, make([]byte, frameSize+1)...) }, "connection: FRAME_SIZE_ERROR"},
		"a ping too short":  {func(p *peer) { raw(p, http2.FramePing, 0, 0, 1) }, "connection: FRAME_SIZE_ERROR"},
		"an unknown frame":  {func(p *peer) { raw(p, 99, 0, 1, 1) }, "fine"},
		"not a header": {func(p *peer) {
			raw(p, http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, 0xff, 0xff, 0xff, 0xff, 0xff)
		}, "connection: COMPRESSION_ERROR"},
		"continuation of nothing":  {func(p *peer) { p.WriteContinuation(1, true, nil) }, "connection: PROTOCOL_ERROR"},
		"an upper case name":       {func(p *peer) { p.request(1, true, "A", "b") }, "stream: PROTOCOL_ERROR"},
		"a header of HTTP/1":       {func(p *peer) { p.request(1, true, "connection", "close") }, "stream: PROTOCOL_ERROR"},
		"te":                       {func(p *peer) { p.request(1, true, "te", "gzip") }, "stream: PROTOCOL_ERROR"},
		"an unknown pseudo header": {func(p *peer) { p.request(1, true, append(held, ":x", "y")...) }, "stream: PROTOCOL_ERROR"},
		"no path":                  {func(p *peer) { p.request(1, true, ":method", "GET", ":scheme", "https") }, "stream: PROTOCOL_ERROR"},
		"a path without a slash":   {func(p *peer) { p.request(1, true, ":method", "GET", ":scheme", "https", ":path", "x") }, "stream: PROTOCOL_ERROR"},
		"no method":                {func(p *peer) { p.request(1, true, ":path", "/", ":scheme", "https") }, "stream: PROTOCOL_ERROR"},
		"two methods":              {func(p *peer) { p.request(1, true, append(held, ":method", "GET")...) }, "stream: PROTOCOL_ERROR"},
		"a bad host": {func(p *peer) {
			p.request(1, true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a b")
		}, "stream: PROTOCOL_ERROR"},
		"a length that is none":   {func(p *peer) { p.request(1, false, "content-length", "-1") }, "stream: PROTOCOL_ERROR"},
		"two lengths":             {func(p *peer) { p.request(1, false, "content-length", "1", "content-length", "2") }, "stream: PROTOCOL_ERROR"},
		"a length without a body": {func(p *peer) { p.request(1, true, "content-length", "1") }, "stream: PROTOCOL_ERROR"},
		"more than the length":    {func(p *peer) { p.request(1, false, "content-length", "1"); p.WriteData(1, true, []byte("xx")) }, "stream: PROTOCOL_ERROR"},
		"less than the length":    {func(p *peer) { p.request(1, false, "content-length", "3"); p.WriteData(1, true, []byte("xx")) }, "stream: PROTOCOL_ERROR"},
		"a header too large":      {func(p *peer) { v := string(bytes.Repeat([]byte("x"), 6<<10)); p.request(1, true, "a", v, "b", v) }, "fine"}, // 431
		"a header far too large": {func(p *peer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.header()})
			for range 100 {
				p.WriteContinuation(1, false, p.header("b", string(bytes.Repeat([]byte("x"), 6<<10))))
			}
		}, "connection: PROTOCOL_ERROR"},
		"too many streams": {func(p *peer) {
			for id := range uint32(5) {
				p.request(2*id+1, true, held...)
			}
		}, "stream: REFUSED_STREAM"},
	} {
		t.Run(name, func(t *testing.T) {
			p := dial(t, s.Listener.Addr().String())
			c.do(p)
			if got := p.verdict(); got != c.want {
				t.Errorf("%s instead of %s", got, c.want)
			}
		})
	}
}

// An answer ends once, whatever is written after its last byte.
func TestEndsOnce(t *testing.T) {
	s := start(t, true, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5")
		w.Header().Set("Content-Type", "x/y")
		io.WriteString(w, "01234")
		w.Write(nil)
		w.(http.Flusher).Flush()
		w.Write(nil)
	}))
	p := dial(t, s.Listener.Addr().String())
	p.request(1, true)
	p.request(3, true)
	ends := map[uint32]int{}
	p.until(func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
			if ends[d.StreamID]++; len(ends) == 2 {
				p.WritePing(false, [8]byte{1})
			}
		}
		ping, ok := f.(*http2.PingFrame)
		return ok && ping.IsAck()
	})
	if ends[1] != 1 || ends[3] != 1 {
		t.Errorf("the answers ended %d and %d times", ends[1], ends[3])
	}
}

// Requests that are begun and given up at once do not get more handlers to run
// than requests that are not (CVE-2023-44487), and end with the connection.
func TestRapidReset(t *testing.T) {
	running := make(chan struct{}, 1000)
	goOn := make(chan struct{})
	s := start(t, true, Config{MaxStreams: 8}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running <- struct{}{}
		<-goOn
	}))
	p := dial(t, s.Listener.Addr().String())
	read := make(chan string)
	go func() {
		f := p.until(func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok })
		if f == nil {
			read <- "closed"
			return
		}
		read <- f.(*http2.GoAwayFrame).ErrCode.String()
	}()
	for id := range uint32(12_000) {
		p.request(2*id+1, true)
		p.WriteRSTStream(2*id+1, http2.ErrCodeCancel)
	}
	if got := <-read; got != "ENHANCE_YOUR_CALM" && got != "closed" {
		t.Errorf("the connection ended with %s", got)
	}
	if n := len(running); n > 10 {
		t.Errorf("%d handlers ran at a time, of at most 10", n)
	}
	close(goOn)
}

// A client that asks for signs of life and does not read them is not answered
// without an end.
func TestPingFlood(t *testing.T) {
	s := start(t, true, Config{Linger: 10 * time.Millisecond}, http.NotFoundHandler())
	p := dial(t, s.Listener.Addr().String())
	var err error
	for sent := 0; err == nil; sent++ {
		if sent > 10_000_000 {
			t.Fatal("10,000,000 were taken")
		}
		err = p.WritePing(false, [8]byte{})
	}
	var wait net.Error
	if errors.As(err, &wait) && wait.Timeout() {
		t.Error("the server neither reads nor closes")
	}
}

// Not a byte more is sent than the client has said that it takes.
func TestWindows(t *testing.T) {
	body := make([]byte, 300_000)
	for i := range body {
		body[i] = byte(i * 7)
	}
	s := start(t, true, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(body) }))
	p := dial(t, s.Listener.Addr().String())
	p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	p.request(1, true)
	p.request(3, true)
	got := map[uint32][]byte{}
	window := map[uint32]int{0: 65535, 1: 100, 3: 100}
	ended := 0
	p.until(func(f http2.Frame) bool {
		d, ok := f.(*http2.DataFrame)
		if !ok {
			return false
		}
		id, n := d.StreamID, len(d.Data())
		got[id] = append(got[id], d.Data()...)
		for _, w := range []uint32{0, id} {
			if window[w] -= n; window[w] < 0 {
				t.Fatalf("stream %d got %d bytes, %d more than it takes", id, n, -window[w])
			}
			if more := 1 + rand.IntN(20_000); window[w] < 1000 && n > 0 {
				window[w] += more
				p.WriteWindowUpdate(w, uint32(more))
			}
		}
		if d.StreamEnded() {
			ended++
		}
		return ended == 2
	})
	for _, id := range []uint32{1, 3} {
		if !bytes.Equal(got[id], body) {
			t.Errorf("stream %d: %d bytes, not those that were sent", id, len(got[id]))
		}
	}
}

// A silent client is asked for a sign of life, and given up without one. One that
// gives it stays while it has a request, and goes when it has none.
func TestSilence(t *testing.T) {
	ended := make(chan bool, 1)
	s := start(t, true, Config{Tick: 20 * time.Millisecond, Linger: time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		ended <- true
	}))
	p := dial(t, s.Listener.Addr().String())
	p.request(1, true)
	pings := 0
	p.until(func(f http2.Frame) bool {
		if f, ok := f.(*http2.PingFrame); ok && !f.IsAck() {
			p.WritePing(true, f.Data)
			pings++
		}
		return pings == 5
	})
	if len(ended) > 0 {
		t.Error("a client that answers was given up")
	}
	<-ended // now it does not

	p = dial(t, s.Listener.Addr().String())
	f := p.until(func(f http2.Frame) bool {
		if f, ok := f.(*http2.PingFrame); ok && !f.IsAck() {
			p.WritePing(true, f.Data)
		}
		_, ok := f.(*http2.GoAwayFrame)
		return ok
	})
	if f, ok := f.(*http2.GoAwayFrame); !ok || f.ErrCode != http2.ErrCodeNo {
		t.Errorf("an idle connection ended with %v", f)
	}
}

// Frames at random, right and wrong ones, end at worst their connection, and leave
// no handler behind.
func TestRandomFrames(t *testing.T) {
	s := start(t, true, Config{MaxStreams: 8, Linger: time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 100*n))
	}))
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		p := dial(t, s.Listener.Addr().String())
		p.AllowIllegalWrites = true
		go io.Copy(io.Discard, p.conn)
		for range 200 {
			id := uint32(r.IntN(20))
			payload := make([]byte, r.IntN(50))
			for i := range payload {
				payload[i] = byte(r.Uint32())
			}
			switch r.IntN(8) {
			case 0, 1:
				p.request(id|1, r.IntN(2) == 0)
			case 2, 3:
				p.WriteData(id|1, r.IntN(3) == 0, payload)
			case 4:
				p.WriteRSTStream(id|1, http2.ErrCodeCancel)
			case 5:
				p.WriteWindowUpdate(id&^1, uint32(r.IntN(1000)))
			case 6:
				p.WriteSettings(http2.Setting{ID: http2.SettingID(r.IntN(7)), Val: r.Uint32() >> r.IntN(32)})
			case 7:
				if r.IntN(20) == 0 {
					p.WriteRawFrame(http2.FrameType(r.IntN(11)), http2.Flags(r.Uint32()), id, payload)
				}
			}
		}
		p.conn.Close()
	}
	resp, err := s.Client().Post(s.URL, "x/y", bytes.NewReader(make([]byte, 1000)))
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != 100_000 || err != nil {
		t.Errorf("seed %d: %d bytes, %v", seed, n, err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Config.Shutdown(t.Context()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("seed %d: something runs that nobody waits for", seed)
	}
}

// BenchmarkGet is one small answer after another on a connection, here and with
// net/http, at 1 and 16 at a time.
func BenchmarkGet(b *testing.B) {
	for _, server := range []string{"h2", "net-http"} {
		for _, n := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/%d", server, n), func(b *testing.B) {
				body := make([]byte, 2300)
				s := start(b, server == "h2", Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", "2300")
					w.Header().Set("Content-Type", "application/json")
					w.Write(body)
				}))
				p := dial(b, s.Listener.Addr().String())
				id, open := uint32(1), 0
				b.ReportAllocs()
				for range b.N {
					p.request(id, true)
					id += 2
					if open++; open < n {
						continue
					}
					p.until(func(f http2.Frame) bool {
						d, ok := f.(*http2.DataFrame)
						if !ok {
							return false
						}
						if len(d.Data()) > 0 {
							p.WriteWindowUpdate(0, uint32(len(d.Data())))
						}
						return d.StreamEnded()
					})
					open--
				}
			})
		}
	}
}

// TestH2Spec has the program h2spec check the server against RFC 9113 and RFC 7541
// (make h2spec).
func TestH2Spec(t *testing.T) {
	program := os.Getenv("PROA_TEST_H2SPEC")
	if program == "" {
		t.Skip("PROA_TEST_H2SPEC does not name the program: make h2spec")
	}
	s := start(t, true, Config{Linger: 100 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 2000))
	}))
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "-h", host, "-p", port, "-t", "-k", "-o", "5").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(" 0 failed")) {
		t.Errorf("%v\n%s", err, out)
	}
	t.Log(string(out[max(0, len(out)-80):]))
}
