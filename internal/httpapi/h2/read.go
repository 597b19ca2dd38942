package h2

import (
	"errors"
	"math"

	"golang.org/x/net/http2"
)

// What a client may not do ends the stream or the connection, as RFC 9113 has it.

func connError(code http2.ErrCode) error { return http2.ConnectionError(code) }

func streamError(id uint32, code http2.ErrCode) error {
	return http2.StreamError{StreamID: id, Code: code}
}

// read handles frames until the connection has ended, or must.
func (c *conn) read() error {
	for {
		f, err := c.frames.ReadFrame()
		c.heard.Add(1)
		if err == nil {
			err = c.on(f)
		} else if errors.Is(err, http2.ErrFrameTooLarge) {
			err = connError(http2.ErrCodeFrameSize)
		}
		var wrong http2.StreamError
		switch {
		case errors.As(err, &wrong):
			if err = c.reset(wrong.StreamID, wrong.Code); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
}

// reset gives up a stream.
func (c *conn) reset(id uint32, code http2.ErrCode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id > c.last && id%2 == 1 {
		c.last = id // its header was wrong, so that it was never begun
	}
	s := c.streams[id]
	if s == nil {
		c.appendReset(id, code)
		return c.calm()
	}
	c.abort(s, code, errReset)
	return c.calm()
}

// appendReset appends RST_STREAM. The lock is held.
func (c *conn) appendReset(id uint32, code http2.ErrCode) {
	c.gone[c.goneAt%len(c.gone)] = id
	c.goneAt++
	c.appendUint32(http2.FrameRSTStream, id, uint32(code))
	c.flush()
}

// abort resets a stream, whose reads and writes fail with err. The lock is held.
func (c *conn) abort(s *stream, code http2.ErrCode, err error) {
	if c.streams[s.id] == s {
		c.appendReset(s.id, code)
		c.forget(s)
	}
	s.stop(err)
}

// forget takes a stream off the list of those that are open. The lock is held.
func (c *conn) forget(s *stream) {
	delete(c.streams, s.id)
	c.endIfAway()
}

// calm refuses to go on with a client that lets answers to its control frames pile
// up. The lock is held.
func (c *conn) calm() error {
	if len(c.out) > outFlood || c.refused > 10_000 {
		return connError(http2.ErrCodeEnhanceYourCalm)
	}
	return nil
}

func (c *conn) on(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.onHeaders(f)
	case *http2.DataFrame:
		return c.onData(f)
	case *http2.WindowUpdateFrame:
		return c.onWindow(f)
	case *http2.RSTStreamFrame:
		c.mu.Lock()
		defer c.mu.Unlock()
		if f.StreamID > c.last || f.StreamID%2 == 0 {
			return connError(http2.ErrCodeProtocol)
		}
		if s := c.streams[f.StreamID]; s != nil {
			c.forget(s)
			s.stop(errReset)
		}
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		return c.onSettings(f)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.appendHead(http2.FramePing, http2.FlagPingAck, 0, len(f.Data))
		c.out = append(c.out, f.Data[:]...)
		c.flush()
		return c.calm()
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return connError(http2.ErrCodeProtocol)
		}
	case *http2.PushPromiseFrame:
		return connError(http2.ErrCodeProtocol)
	}
	return nil // GOAWAY of a client, and frames that others invented
}

func (c *conn) onSettings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingHeaderTableSize:
			c.enc.SetMaxDynamicTableSizeLimit(min(s.Val, tableSize))
			c.enc.SetMaxDynamicTableSize(min(s.Val, tableSize))
		case http2.SettingMaxFrameSize:
			c.frameMost = int(min(s.Val, outMost))
		case http2.SettingInitialWindowSize:
			more := int64(s.Val) - c.streamWindow
			c.streamWindow = int64(s.Val)
			for _, st := range c.streams {
				if st.window += more; st.window > math.MaxInt32 {
					return connError(http2.ErrCodeFlowControl)
				}
				st.moved.Broadcast()
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.appendHead(http2.FrameSettings, http2.FlagSettingsAck, 0, 0)
	c.flush()
	return c.calm()
}

func (c *conn) onWindow(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		if c.window += int64(f.Increment); c.window > math.MaxInt32 {
			return connError(http2.ErrCodeFlowControl)
		}
		c.next()
		return nil
	}
	if f.StreamID > c.last || f.StreamID%2 == 0 {
		return connError(http2.ErrCodeProtocol)
	}
	if s := c.streams[f.StreamID]; s != nil {
		if s.window += int64(f.Increment); s.window > math.MaxInt32 {
			return streamError(f.StreamID, http2.ErrCodeFlowControl)
		}
		s.moved.Broadcast()
	}
	return nil
}

func (c *conn) onData(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID > c.last || f.StreamID%2 == 0 {
		return connError(http2.ErrCodeProtocol)
	}
	size, p := f.Length, f.Data()
	if uint32(connWindow) < c.taken+size {
		return connError(http2.ErrCodeFlowControl)
	}
	c.taken += size
	s := c.streams[f.StreamID]
	if s == nil || s.heard {
		c.took(nil, size)
		if s == nil && c.wasReset(f.StreamID) {
			return nil // on its way when it was reset
		}
		return streamError(f.StreamID, http2.ErrCodeStreamClosed)
	}
	if uint32(streamWindow) < s.taken+size {
		c.took(nil, size)
		return streamError(f.StreamID, http2.ErrCodeFlowControl)
	}
	s.taken += size
	if pad := size - uint32(len(p)); pad > 0 {
		c.took(s, pad)
	}
	s.got += int64(len(p))
	if s.declared >= 0 && (s.got > s.declared || f.StreamEnded() && s.got < s.declared) {
		c.took(nil, uint32(len(p)))
		return streamError(f.StreamID, http2.ErrCodeProtocol)
	}
	if s.over { // nobody will read it
		c.took(s, uint32(len(p)))
	} else if len(p) > 0 {
		s.in = append(s.in, p...)
	}
	if f.StreamEnded() {
		c.heardAll(s)
	}
	s.moved.Broadcast()
	return nil
}

// wasReset says whether a stream was reset here a short while ago. The lock is held.
func (c *conn) wasReset(id uint32) bool {
	for _, g := range c.gone {
		if g == id {
			return true
		}
	}
	return false
}

// heardAll is called when the client has nothing more to say on a stream. The lock
// is held.
func (c *conn) heardAll(s *stream) {
	if s.heard = true; s.said {
		c.forget(s)
	}
}

// saidAll is called when all of the answer is in the buffer, which is sent when the
// handler has returned. The lock is held.
func (c *conn) saidAll(s *stream) {
	if s.said = true; s.heard {
		c.forget(s)
	}
}

// took lets the client send n bytes more, on the stream too if it is not nil. It
// hears of that when it is worth a frame. The lock is held.
func (c *conn) took(s *stream, n uint32) {
	if c.credit += n; c.credit >= connWindow/4 {
		c.appendUint32(http2.FrameWindowUpdate, 0, c.credit)
		c.taken -= c.credit
		c.credit = 0
		c.flush()
	}
	if s == nil || s.heard || c.streams[s.id] != s {
		return
	}
	if s.credit += n; s.credit >= streamWindow/4 {
		c.appendUint32(http2.FrameWindowUpdate, s.id, s.credit)
		s.taken -= s.credit
		s.credit = 0
		c.flush()
	}
}
