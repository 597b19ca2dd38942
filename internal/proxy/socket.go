package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// socket sends transactions of element changes. The library's encoder makes
// a dozen allocations for each element; with hundreds of thousands of them this
// one is what makes a full sync fast.
type socket struct {
	fd   int
	port uint32
	seq  uint32
	buf  []byte
}

func openSocket() (*socket, error) {
	s := &socket{fd: -1}
	return s, s.open()
}

func (s *socket) open() error {
	s.close()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	s.fd = fd
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// A transaction is one message: room for the largest.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 64<<20)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		return err
	}
	// Errors without a copy of the message that caused them.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	name, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	if nl, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = nl.Pid
	}
	return nil
}

func (s *socket) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// maxList bounds the elements of one message, in bytes: an attribute's length has 16 bits.
const maxList = 60_000

// change makes all the changes, in order, or none.
func (s *socket) change(f family, table string, ops []op) error {
	if s.fd < 0 {
		if err := s.open(); err != nil {
			return err
		}
	}
	s.buf = s.buf[:0]
	s.header(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES)
	s.end(0)
	var last uint32
	for len(ops) > 0 {
		start := len(s.buf)
		typ, flags := uint16(unix.NFT_MSG_NEWSETELEM), uint16(unix.NLM_F_REQUEST|unix.NLM_F_CREATE)
		if ops[0].del {
			typ, flags = unix.NFT_MSG_DELSETELEM, unix.NLM_F_REQUEST
		}
		flagsAt := start + 6
		last = s.header(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, uint8(f.table), 0)
		s.text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		s.text(unix.NFTA_SET_ELEM_LIST_SET, mapNames[ops[0].m])
		list := s.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		n := 0
		for n < len(ops) && ops[n].m == ops[0].m && ops[n].del == ops[0].del && len(s.buf)-list < maxList {
			s.element(&ops[n])
			n++
		}
		s.close16(list)
		ops = ops[n:]
		if len(ops) == 0 {
			binary.NativeEndian.PutUint16(s.buf[flagsAt:], flags|unix.NLM_F_ACK)
		}
		s.end(start)
	}
	start := len(s.buf)
	s.header(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES)
	s.end(start)
	err := s.exchange(last)
	if err != nil {
		s.close() // whatever is left to be read goes with it
	}
	if cap(s.buf) > 4<<20 {
		s.buf = nil
	}
	return err
}

func (s *socket) element(o *op) {
	elem := s.nest(unix.NFTA_LIST_ELEM)
	key := s.nest(unix.NFTA_SET_ELEM_KEY)
	s.text0(unix.NFTA_DATA_VALUE, o.key)
	s.close16(key)
	if !o.del && o.value != "" {
		val := s.nest(unix.NFTA_SET_ELEM_DATA)
		s.text0(unix.NFTA_DATA_VALUE, o.value)
		s.close16(val)
	}
	s.close16(elem)
}

// exchange sends the buffer and reads until the answer to the message numbered
// last. The kernel has worked it off when the send returns.
func (s *socket) exchange(last uint32) error {
	if err := unix.Sendto(s.fd, s.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	var in [16 << 10]byte
	for {
		n, _, err := unix.Recvfrom(s.fd, in[:], 0)
		if err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return fmt.Errorf("receive: %w", err)
		}
		for b := in[:n]; len(b) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				break
			}
			if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
				if code := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); code != 0 {
					return unix.Errno(-code)
				}
				if binary.NativeEndian.Uint32(b[8:]) == last {
					return nil
				}
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

// header begins a message; end writes its length.
func (s *socket) header(typ, flags uint16, family uint8, resource uint16) uint32 {
	s.seq++
	b := s.buf
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, s.port)
	b = append(b, family, unix.NFNETLINK_V0)
	s.buf = binary.BigEndian.AppendUint16(b, resource)
	return s.seq
}

func (s *socket) end(start int) {
	binary.NativeEndian.PutUint32(s.buf[start:], uint32(len(s.buf)-start))
}

// nest begins a nested attribute; close16 writes its length.
func (s *socket) nest(typ uint16) int {
	at := len(s.buf)
	s.buf = binary.NativeEndian.AppendUint16(s.buf, 0)
	s.buf = binary.NativeEndian.AppendUint16(s.buf, typ|unix.NLA_F_NESTED)
	return at
}

func (s *socket) close16(at int) {
	binary.NativeEndian.PutUint16(s.buf[at:], uint16(len(s.buf)-at))
}

// text0 writes an attribute; text one that ends in a zero byte.
func (s *socket) text0(typ uint16, v string) {
	s.buf = binary.NativeEndian.AppendUint16(s.buf, uint16(4+len(v)))
	s.buf = binary.NativeEndian.AppendUint16(s.buf, typ)
	s.buf = append(s.buf, v...)
	for len(s.buf)&3 != 0 {
		s.buf = append(s.buf, 0)
	}
}

func (s *socket) text(typ uint16, v string) { s.text0(typ, v+"\x00") }
