package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// serve answers on all addresses until ctx ends.
func (s *Server) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	failed := make(chan error, 1)
	for _, addr := range s.c.Listen {
		l, err := listenTCP.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return fmt.Errorf("dns: %w", err)
		}
		context.AfterFunc(ctx, func() { l.Close() })
		all.Go(func() { s.serveTCP(ctx, l.(*net.TCPListener), failed) })
		for range runtime.GOMAXPROCS(0) {
			p, err := listenUDP.ListenPacket(ctx, "udp", addr.String())
			if err != nil {
				return fmt.Errorf("dns: %w", err)
			}
			conn := p.(*net.UDPConn)
			_ = conn.SetReadBuffer(4 << 20)
			context.AfterFunc(ctx, func() { conn.Close() })
			all.Go(func() { s.serveUDP(ctx, conn, failed) })
		}
	}
	s.have(haveSockets)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("dns: %w", err)
	}
}

// The address may not be there yet when we listen on it. Several UDP sockets
// share it, one for each core; the TCP socket, which comes first, does not, so
// that a second server on the same address is noticed.
var (
	listenTCP = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return setOptions(c, option{unix.SOL_IP, unix.IP_FREEBIND})
	}}
	listenUDP = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return setOptions(c, option{unix.SOL_IP, unix.IP_FREEBIND}, option{unix.SOL_SOCKET, unix.SO_REUSEPORT})
	}}
)

type option struct{ level, name int }

func setOptions(c syscall.RawConn, opts ...option) error {
	var errs []error
	err := c.Control(func(fd uintptr) {
		for _, o := range opts {
			errs = append(errs, os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), o.level, o.name, 1)))
		}
	})
	return errors.Join(append(errs, err)...)
}

func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn, failed chan<- error) {
	in, out := make([]byte, 4096), make([]byte, 0, maxUDP)
	var q query
	for {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EINTR) {
				continue
			}
			report(failed, err)
			return
		}
		answer, ok := s.here(&q, in[:n], out, false)
		if ok {
			if answer != nil {
				_, _ = conn.WriteToUDPAddrPort(answer, from)
			}
			continue
		}
		packet := append([]byte(nil), in[:n]...)
		go func() {
			_, _ = conn.WriteToUDPAddrPort(s.outside(ctx, packet, false), from)
		}()
	}
}

func report(failed chan<- error, err error) {
	select {
	case failed <- err:
	default:
	}
}

// here answers a packet if that takes no asking. It reports false if others must
// be asked, and nil if there is nothing to be answered.
func (s *Server) here(q *query, packet, out []byte, tcp bool) ([]byte, bool) {
	rcode, ok := q.parse(packet, tcp)
	if !ok {
		return nil, true
	}
	if rcode != dns.RcodeSuccess {
		return q.fail(out, rcode), true
	}
	return s.local(q, out)
}

// outside answers a packet that was parsed well before by asking others.
func (s *Server) outside(ctx context.Context, packet []byte, tcp bool) []byte {
	var q query
	q.parse(packet, tcp)
	if below(q.name(), s.zone.wire) {
		return s.aliasOutside(ctx, &q)
	}
	b, err := s.fwd.ask(ctx, &q, tcp)
	if err != nil {
		s.log.Debug("A name was not resolved", "name", q.text(), "err", err)
		return q.fail(nil, dns.RcodeServerFailure)
	}
	if len(b) > q.size {
		b = q.start(b, int(b[3]&15), false)
		b[2] |= bitTC
	}
	return b
}

// aliasOutside answers for an ExternalName service that leads out of the
// cluster: the alias, and what others say of its target.
func (s *Server) aliasOutside(ctx context.Context, q *query) []byte {
	var answer []dns.RR
	w, owner := q.name(), q.text()
	for range 8 {
		n, f := s.zone.lookup(w)
		if f != exists || n.cname == "" {
			break
		}
		answer = append(answer, &dns.CNAME{Hdr: header(owner, dns.TypeCNAME), Target: n.cname})
		next, ok := wireName(n.cname)
		if !ok {
			break
		}
		w, owner = []byte(next), n.cname
	}
	m := new(dns.Msg)
	m.SetQuestion(owner, q.typ)
	if packet, err := m.Pack(); err == nil {
		var sub query
		sub.parse(packet, true)
		if b, err := s.fwd.ask(ctx, &sub, true); err == nil && m.Unpack(b) == nil {
			answer = append(answer, m.Answer...)
		}
	}
	return q.pack(nil, answer, nil, true)
}

const (
	tcpIdle  = 10 * time.Second
	maxConns = 1000
)

func (s *Server) serveTCP(ctx context.Context, l *net.TCPListener, failed chan<- error) {
	var conns sync.WaitGroup
	defer conns.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EMFILE) {
				select { // nobody tells when a descriptor is free again
				case <-ctx.Done():
					return
				case <-time.After(10 * time.Millisecond):
				}
				continue
			}
			report(failed, err)
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			s.serveConn(ctx, conn)
		})
	}
}

func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf, out := make([]byte, 2+dns.MaxMsgSize), make([]byte, 0, dns.MaxMsgSize)
	var q query
	for {
		_ = conn.SetDeadline(time.Now().Add(tcpIdle))
		if _, err := io.ReadFull(conn, buf[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf))
		if _, err := io.ReadFull(conn, buf[2:2+n]); err != nil {
			return
		}
		answer, ok := s.here(&q, buf[2:2+n], out, true)
		if !ok {
			answer = s.outside(ctx, buf[2:2+n], true)
		}
		if answer == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}
