// Package load drives contestants: clients that take little of the processor
// that they share with what they measure, closed and open loops, and seeding of
// stores that would take too long to fill through their servers.
package load

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"net/url"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"proa/test/bench/measure"
)

// A Conn is one connection with HTTP/2 and TLS 1.3, for one goroutine. It does
// what a client must and nothing else.
type Conn struct {
	tls       *tls.Conn
	out       *bufio.Writer
	frames    *http2.Framer
	block     bytes.Buffer
	encode    *hpack.Encoder
	authority string
	next      uint32
	unread    uint32 // bytes taken since the window was last opened
}

const (
	streamWindow = 1 << 30
	frameSize    = 16 << 10
	patience     = 5 * time.Minute // for one answer
)

// Dial connects.
func Dial(t measure.Target) (*Conn, error) {
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, err
	}
	config := t.TLS.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", u.Host, config)
	if err != nil {
		return nil, err
	}
	c := &Conn{tls: conn, out: bufio.NewWriterSize(conn, 32<<10), authority: u.Host, next: 1}
	c.frames = http2.NewFramer(c.out, bufio.NewReaderSize(conn, 64<<10))
	c.frames.SetReuseFrames()
	c.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encode = hpack.NewEncoder(&c.block)
	if _, err := c.out.WriteString(http2.ClientPreface); err != nil {
		return nil, err
	}
	if err := c.frames.WriteSettings(http2.Setting{ID: http2.SettingEnablePush}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 1 << 20}); err != nil {
		return nil, err
	}
	if err := c.frames.WriteWindowUpdate(0, streamWindow); err != nil {
		return nil, err
	}
	return c, c.out.Flush()
}

// Close ends the connection.
func (c *Conn) Close() { c.tls.Close() }

// A Request is what is asked.
type Request struct {
	Method, Path string
	Type         string // of Body
	Accept       string
	Body         []byte
}

// Start sends a request and returns the number of its stream.
func (c *Conn) Start(r *Request) (uint32, error) {
	c.block.Reset()
	field := func(name, value string) { _ = c.encode.WriteField(hpack.HeaderField{Name: name, Value: value}) } // into memory
	field(":authority", c.authority)
	field(":method", r.Method)
	field(":path", r.Path)
	field(":scheme", "https")
	if r.Accept != "" {
		field("accept", r.Accept)
	}
	if r.Type != "" {
		field("content-type", r.Type)
	}
	field("user-agent", "bench")
	id := c.next
	c.next += 2
	err := c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndStream: len(r.Body) == 0, EndHeaders: true})
	for rest := r.Body; err == nil && len(rest) > 0; {
		n := min(len(rest), frameSize)
		err = c.frames.WriteData(id, n == len(rest), rest[:n])
		rest = rest[n:]
	}
	if err != nil {
		return id, err
	}
	return id, c.out.Flush()
}

// A Part is a piece of an answer. Data is valid until the next is read.
type Part struct {
	Stream uint32
	Status string // of headers
	Data   []byte
	End    bool
}

// Read returns the next piece of any answer.
func (c *Conn) Read() (Part, error) {
	for {
		f, err := c.frames.ReadFrame()
		if err != nil {
			return Part{}, err
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return Part{Stream: f.StreamID, Status: f.PseudoValue("status"), End: f.StreamEnded()}, nil
		case *http2.DataFrame:
			if c.unread += f.Length; c.unread > streamWindow/2 {
				if err := c.frames.WriteWindowUpdate(0, c.unread); err != nil {
					return Part{}, err
				}
				c.unread = 0
				if err := c.out.Flush(); err != nil {
					return Part{}, err
				}
			}
			return Part{Stream: f.StreamID, Data: f.Data(), End: f.StreamEnded()}, nil
		default:
			if err := c.control(f); err != nil {
				return Part{}, err
			}
		}
	}
}

func (c *Conn) control(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if err := c.frames.WriteSettingsAck(); err != nil {
			return err
		}
		return c.out.Flush()
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		if err := c.frames.WritePing(true, f.Data); err != nil {
			return err
		}
		return c.out.Flush()
	case *http2.RSTStreamFrame:
		return fmt.Errorf("the server ended stream %d: %v", f.StreamID, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server closes the connection: %v %s", f.ErrCode, f.DebugData())
	}
	return nil
}

// Do sends a request and reads its whole answer, whose parts take may look at if
// it is not nil. A status other than 2xx is an error. Returns the body's length.
func (c *Conn) Do(r *Request, take func([]byte)) (size int64, err error) {
	if err := c.tls.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	id, err := c.Start(r)
	if err != nil {
		return 0, err
	}
	bad := ""
	var text []byte
	for {
		p, err := c.Read()
		if err != nil {
			return size, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
		}
		if p.Stream != id {
			continue
		}
		if p.Status != "" && p.Status[0] != '2' {
			bad = p.Status
		}
		size += int64(len(p.Data))
		if take != nil {
			take(p.Data)
		}
		if bad != "" && len(text) < 300 {
			text = append(text, p.Data...)
		}
		if p.End {
			if bad != "" {
				return size, fmt.Errorf("%s %s: %s: %.300s", r.Method, r.Path, bad, text)
			}
			return size, nil
		}
	}
}

// Body is Do with the answer as one piece.
func (c *Conn) Body(r *Request) ([]byte, error) {
	var b []byte
	_, err := c.Do(r, func(p []byte) { b = append(b, p...) })
	return b, err
}
