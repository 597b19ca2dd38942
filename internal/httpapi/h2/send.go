package h2

import (
	"encoding/binary"
	"runtime"

	"golang.org/x/net/http2"

	"proa/internal/httpapi/outbuf"
)

const headSize = 9 // of a frame

func appendUint32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// appendHead begins a frame with n bytes of payload, which follow. The lock is held.
func (c *conn) appendHead(typ http2.FrameType, flags http2.Flags, id uint32, n int) {
	c.out = outbuf.Fit(c.out, headSize+n)
	c.tail, c.tailOf = len(c.out), nil
	c.out = append(c.out, byte(n>>16), byte(n>>8), byte(n), byte(typ), byte(flags),
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// appendUint32 appends a frame that consists of one number. The lock is held.
func (c *conn) appendUint32(typ http2.FrameType, id, v uint32) {
	c.appendHead(typ, 0, id, 4)
	c.out = appendUint32(c.out, v)
}

func (c *conn) appendSettings(all ...http2.Setting) {
	c.appendHead(http2.FrameSettings, 0, 0, 6*len(all))
	for _, s := range all {
		c.out = appendUint32(binary.BigEndian.AppendUint16(c.out, uint16(s.ID)), s.Val)
	}
}

// appendFields appends the header that is in c.fields. The lock is held.
func (c *conn) appendFields(id uint32, end bool) {
	var flags http2.Flags
	if end {
		flags = http2.FlagHeadersEndStream
	}
	typ, b := http2.FrameHeaders, c.fields
	for {
		part := b[:min(len(b), c.frameMost)]
		if b = b[len(part):]; len(b) == 0 {
			flags |= http2.FlagHeadersEndHeaders
		}
		c.appendHead(typ, flags, id, len(part))
		c.out = append(c.out, part...)
		if len(b) == 0 {
			return
		}
		typ, flags = http2.FrameContinuation, 0
	}
}

// appendData appends data of a stream, to its last frame if nothing came between.
// There is room and window for it. The lock is held.
func (c *conn) appendData(s *stream, p []byte, end bool) {
	c.window -= int64(len(p))
	s.window -= int64(len(p))
	if c.tailOf == s && len(p) > 0 {
		n := len(c.out) - c.tail - headSize
		part := p[:min(len(p), c.frameMost-n)]
		c.out = outbuf.Fit(c.out, len(p)+headSize)
		c.out = append(c.out, part...)
		n, p = n+len(part), p[len(part):]
		h := c.out[c.tail:]
		h[0], h[1], h[2] = byte(n>>16), byte(n>>8), byte(n)
		if len(p) == 0 {
			if end {
				h[4] |= byte(http2.FlagDataEndStream)
				c.tailOf = nil
			}
			return
		}
	}
	for {
		part := p[:min(len(p), c.frameMost)]
		p = p[len(part):]
		var flags http2.Flags
		if end && len(p) == 0 {
			flags = http2.FlagDataEndStream
		}
		c.appendHead(http2.FrameData, flags, s.id, len(part))
		c.out = append(c.out, part...)
		if len(p) == 0 {
			if !end {
				c.tailOf = s
			}
			return
		}
	}
}

// room is how much of n bytes of a stream may be appended now.
func (c *conn) room(s *stream, n int) int {
	free := int64(outMost - len(c.out))
	return int(max(0, min(int64(n), free, c.window, s.window)))
}

// next wakes the stream that has waited longest, if it can go on. Whoever was woken
// calls it when there may be something left. The lock is held.
func (c *conn) next() {
	for len(c.queue) > 0 && len(c.out) < outMost && c.window > 0 {
		s := c.queue[0]
		c.queue = c.queue[1:]
		s.queued = false
		s.moved.Broadcast()
		if s.err == nil {
			return
		}
	}
}

// flush sees to it that out is sent, when all who have something to say have
// had a turn. The lock is held.
func (c *conn) flush() {
	if !c.sending && !c.due && len(c.out) > 0 {
		c.due = true
		go func() {
			c.mu.Lock()
			c.sendLast()
			c.mu.Unlock()
		}()
	}
}

// sendLast sends what is there when the others have had a turn. The lock is held,
// but not while others have theirs or it sends.
func (c *conn) sendLast() {
	c.due = true
	c.mu.Unlock()
	runtime.Gosched()
	c.mu.Lock()
	c.due = false
	if !c.sending {
		c.sendAll()
	}
	c.quiet.Broadcast()
}

// sendAll sends until nothing is left. The lock is held, but not while it sends.
func (c *conn) sendAll() {
	for len(c.out) > 0 && c.sendOnce() {
	}
}

// sendOnce sends what is there now. False: the connection is broken. The lock is
// held, but not while it sends.
func (c *conn) sendOnce() bool {
	b := c.out
	c.out, c.tailOf = nil, nil
	c.sending = true
	c.next()
	c.mu.Unlock()
	err := c.write(b)
	outbuf.Free(b)
	c.mu.Lock()
	c.sending = false
	c.quiet.Broadcast()
	if err != nil {
		c.out = nil
		c.fail(errGone)
		_ = c.tls.NetConn().Close() // the reader ends
	}
	return err == nil
}

func (c *conn) write(b []byte) error {
	if c.cork == nil {
		_, err := c.tls.Write(b)
		return err
	}
	c.cork.Cork()
	_, err := c.tls.Write(b)
	if e := c.cork.Uncork(); err == nil {
		err = e
	}
	return err
}

// scratch is where the encoder of headers writes.
type scratch []byte

func (s *scratch) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}
