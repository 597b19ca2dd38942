package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// timeout bounds one command, connecting included.
const timeout = 2 * time.Second

// A pool talks to one Redis server in its own protocol (RESP2) over a few
// connections.
type pool struct {
	addr, password string
	idle           chan *conn
}

type conn struct {
	net.Conn
	r *bufio.Reader
}

// redisError is what the server complained of; the connection is still good.
type redisError string

func (e redisError) Error() string { return "redis: " + string(e) }

func newPool(addr, password string) *pool {
	return &pool{addr: addr, password: password, idle: make(chan *conn, 8)}
}

// do runs one command, as run does.
func (p *pool) do(ctx context.Context, again bool, args ...string) (out value, err error) {
	err = p.run(ctx, again, func(ctx context.Context, c *conn) error {
		out, err = c.do(ctx, args...)
		return err
	})
	return out, err
}

// run lends a connection. An idle connection may have died with its server:
// what may be done again is then tried once more on a new one. A write may
// not, for the server may have done it.
func (p *pool) run(ctx context.Context, again bool, use func(context.Context, *conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		c, fresh, err := p.get(ctx)
		if err != nil {
			return err
		}
		err = use(ctx, c)
		var said redisError
		if err == nil || errors.As(err, &said) {
			p.put(c)
			return err
		}
		c.Close()
		if fresh || !again || ctx.Err() != nil {
			return err
		}
	}
}

// check makes sure that an idle connection still works, before a write is
// sent over it: servers say nothing, so anything to read is its end.
func (c *conn) check() bool {
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Microsecond)); err != nil {
		return false
	}
	_, err := c.r.Peek(1)
	var slow net.Error
	return errors.As(err, &slow) && slow.Timeout()
}

func (p *pool) get(ctx context.Context) (c *conn, fresh bool, err error) {
	for {
		select {
		case c = <-p.idle:
			if c.check() {
				return c, false, nil
			}
			c.Close()
			continue
		default:
		}
		break
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return nil, false, err
	}
	c = &conn{raw, bufio.NewReader(raw)}
	if p.password != "" {
		if _, err := c.do(ctx, "AUTH", p.password); err != nil {
			c.Close()
			return nil, false, err
		}
	}
	return c, true, nil
}

func (p *pool) put(c *conn) {
	select {
	case p.idle <- c:
	default:
		c.Close()
	}
}

func (c *conn) do(ctx context.Context, args ...string) (value, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return value{}, err
		}
	}
	out := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		out = fmt.Appendf(out, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := c.Write(out); err != nil {
		return value{}, err
	}
	return read(c.r)
}

// A value is one reply of the protocol: a string, a number (as its digits) or
// a list.
type value struct {
	text string
	null bool
	list []value
}

const maxBulk = 1 << 20

func read(r *bufio.Reader) (value, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return value{}, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return value{}, fmt.Errorf("redis: malformed line %q", line)
	}
	kind, line := line[0], line[1:len(line)-2]
	switch kind {
	case '+', ':':
		return value{text: line}, nil
	case '-':
		return value{}, redisError(line)
	case '$', '*':
	default:
		return value{}, fmt.Errorf("redis: unknown kind of reply %q", kind)
	}
	n, err := strconv.Atoi(line)
	if err != nil || n > maxBulk {
		return value{}, fmt.Errorf("redis: malformed length %q", line)
	}
	if n < 0 {
		return value{null: true}, nil
	}
	if kind == '$' {
		body := make([]byte, n+2)
		_, err := io.ReadFull(r, body)
		return value{text: string(body[:n])}, err
	}
	list := value{}
	for range n {
		item, err := read(r)
		if err != nil {
			return value{}, err
		}
		list.list = append(list.list, item)
	}
	return list, nil
}
