package dns

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"
)

// A query is what matters of a request.
type query struct {
	packet []byte
	lower  [255]byte // the name in wire form, lower case
	length int       // of the name
	end    int       // of the question in the packet
	typ    uint16
	class  uint16
	edns   bool
	do     bool
	size   int // of the answer that the client takes
}

func (q *query) name() []byte { return q.lower[:q.length] }

const (
	headerLen = 12
	optLen    = 11
	ownSize   = 1232 // what we tell clients to send over UDP at most
	maxUDP    = 4096 // what we send at most, whatever a client asks for
)

// Header bits, in bytes 2 and 3.
const (
	bitQR, bitAA, bitTC, bitRD = 0x80, 0x04, 0x02, 0x01
	bitRA, bitCD               = 0x80, 0x10
)

// parse reads a request. It reports the response code to answer with, and
// false if nothing is to be answered at all.
func (q *query) parse(packet []byte, tcp bool) (rcode int, ok bool) {
	if len(packet) < headerLen || packet[2]&bitQR != 0 {
		return 0, false
	}
	q.packet, q.end, q.length, q.edns, q.do, q.size = packet, headerLen, 0, false, false, dns.MinMsgSize
	if tcp {
		q.size = dns.MaxMsgSize
	}
	count := func(i int) uint16 { return binary.BigEndian.Uint16(packet[i:]) }
	if packet[2]>>3&15 != dns.OpcodeQuery {
		return dns.RcodeNotImplemented, true
	}
	if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 1 || !q.question() {
		q.end = headerLen
		return dns.RcodeFormatError, true
	}
	if count(10) == 1 && !q.opt(tcp) {
		return dns.RcodeFormatError, true
	}
	return dns.RcodeSuccess, true
}

// question reads the name, type and class.
func (q *query) question() bool {
	at := headerLen
	for {
		if at >= len(q.packet) {
			return false
		}
		l := int(q.packet[at])
		if l > 63 || at+1+l > len(q.packet) || q.length+1+l > len(q.lower) {
			return false
		}
		q.lower[q.length] = byte(l)
		for i := 1; i <= l; i++ {
			c := q.packet[at+i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.lower[q.length+i] = c
		}
		q.length += 1 + l
		at += 1 + l
		if l == 0 {
			break
		}
	}
	if at+4 > len(q.packet) {
		return false
	}
	q.typ, q.class, q.end = binary.BigEndian.Uint16(q.packet[at:]), binary.BigEndian.Uint16(q.packet[at+2:]), at+4
	return true
}

// opt reads the one additional record, which may be EDNS0 (RFC 6891) or a
// signature, which is ignored.
func (q *query) opt(tcp bool) bool {
	b := q.packet[q.end:]
	if len(b) < optLen || b[0] != 0 {
		return len(b) >= optLen
	}
	if binary.BigEndian.Uint16(b[1:]) != dns.TypeOPT {
		return true
	}
	q.edns = true
	q.do = b[7]&0x80 != 0
	if !tcp {
		q.size = min(max(int(binary.BigEndian.Uint16(b[3:])), dns.MinMsgSize), maxUDP)
	}
	if b[6] != 0 {
		q.typ = badVersion
	}
	return true
}

// badVersion stands in for the type of a query of an EDNS version that we do not know.
const badVersion = 0xffff

// start begins a response with the request's question.
func (q *query) start(out []byte, rcode int, authoritative bool) []byte {
	out = append(out[:0], q.packet[:q.end]...)
	out[2] = bitQR | out[2]&(0x78|bitRD)
	if authoritative {
		out[2] |= bitAA
	}
	out[3] = bitRA | out[3]&bitCD | byte(rcode&15)
	clear(out[6:headerLen])
	if q.end == headerLen {
		clear(out[4:6])
	}
	return out
}

// finish adds the OPT record, and cuts what a client cannot take.
func (q *query) finish(out []byte, rcode int) []byte {
	room := q.size
	if q.edns {
		room -= optLen
	}
	if len(out) > room {
		out = out[:q.end]
		out[2] |= bitTC
		clear(out[6:headerLen])
	}
	if q.edns {
		var flags byte
		if q.do {
			flags = 0x80
		}
		out = append(out, 0, 0, byte(dns.TypeOPT), ownSize>>8, ownSize&0xff, byte(rcode>>4), 0, flags, 0, 0, 0)
		bump(out, 10, 1)
	}
	return out
}

// bump adds to a section's count.
func bump(out []byte, section int, n uint16) {
	binary.BigEndian.PutUint16(out[section:], binary.BigEndian.Uint16(out[section:])+n)
}

// fail is a response without records.
func (q *query) fail(out []byte, rcode int) []byte {
	return q.finish(q.start(out, rcode, false), rcode)
}

// addrs answers with addresses, beginning anywhere in the list, so that
// clients who take the first spread over all.
func (q *query) addrs(out []byte, list []netip.Addr) []byte {
	out = q.start(out, dns.RcodeSuccess, true)
	first := 0
	if len(list) > 1 {
		first = rand.IntN(len(list))
	}
	for i := range list {
		ip := list[(first+i)%len(list)]
		out = append(out, 0xc0, headerLen)
		out = binary.BigEndian.AppendUint16(out, q.typ)
		out = append(out, 0, byte(dns.ClassINET), 0, 0, 0, ttl)
		if q.typ == dns.TypeA {
			a := ip.As4()
			out = append(append(out, 0, 4), a[:]...)
		} else {
			a := ip.As16()
			out = append(append(out, 0, 16), a[:]...)
		}
	}
	bump(out, 6, uint16(len(list)))
	return q.finish(out, dns.RcodeSuccess)
}

// denial says that a name, or a type of it, does not exist, and for how long
// to believe it (RFC 2308).
func (q *query) denial(out []byte, z *zone, rcode int) []byte {
	out = q.start(out, rcode, true)
	out = q.soa(out, z)
	bump(out, 8, 1)
	return q.finish(out, rcode)
}

// soa appends the zone's SOA record. The question ends in the zone's name.
func (q *query) soa(out []byte, z *zone) []byte {
	apex := uint16(0xc000 | headerLen + q.length - len(z.wire))
	out = binary.BigEndian.AppendUint16(out, apex)
	out = append(out, 0, byte(dns.TypeSOA), 0, byte(dns.ClassINET), 0, 0, 0, ttl, 0, 0)
	data := len(out)
	out = append(out, "\x02ns\x03dns"...)
	out = binary.BigEndian.AppendUint16(out, apex)
	out = append(out, "\x0ahostmaster"...)
	out = binary.BigEndian.AppendUint16(out, apex)
	for _, v := range [5]uint32{z.serial, 7200, 1800, 86400, ttl} {
		out = binary.BigEndian.AppendUint32(out, v)
	}
	binary.BigEndian.PutUint16(out[data-2:], uint16(len(out)-data))
	return out
}
