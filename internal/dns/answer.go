package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// local answers what the server knows itself, appending to out. It reports
// false if others must be asked.
func (s *Server) local(q *query, out []byte) ([]byte, bool) {
	switch {
	case q.typ == badVersion:
		return q.fail(out, dns.RcodeBadVers), true
	case q.class != dns.ClassINET && q.class != dns.ClassANY, q.typ == dns.TypeAXFR, q.typ == dns.TypeIXFR:
		return q.fail(out, dns.RcodeRefused), true
	}
	n, f := s.zone.lookup(q.name())
	switch f {
	case foreign:
		if q.typ == dns.TypePTR {
			return s.pointer(q, out)
		}
		return nil, false
	case unknown:
		return q.fail(out, dns.RcodeServerFailure), true
	case missing:
		s.fwd.probed(q.name())
		return q.denial(out, s.zone, dns.RcodeNameError), true
	}
	if n.cname != "" {
		return s.alias(q, n, out)
	}
	switch {
	case q.typ == dns.TypeA && len(n.a) > 0:
		return q.addrs(out, n.a), true
	case q.typ == dns.TypeAAAA && len(n.aaaa) > 0:
		return q.addrs(out, n.aaaa), true
	case q.typ == dns.TypeA || q.typ == dns.TypeAAAA:
		return q.denial(out, s.zone, dns.RcodeSuccess), true
	}
	return s.records(q, n, out), true
}

// records answers the rarer types.
func (s *Server) records(q *query, n *name, out []byte) []byte {
	owner := q.text()
	var answer, extra []dns.RR
	is := func(t uint16) bool { return q.typ == t || q.typ == dns.TypeANY }
	if is(dns.TypeA) || is(dns.TypeAAAA) {
		answer = append(answer, addresses(owner, n)...)
	}
	if is(dns.TypeSRV) {
		seen := map[string]bool{}
		for _, r := range n.srv {
			answer = append(answer, &dns.SRV{Hdr: header(owner, dns.TypeSRV), Weight: 100, Port: r.port, Target: r.target})
			if w, ok := wireName(r.target); ok && !seen[r.target] {
				seen[r.target] = true
				if t, f := s.zone.lookup([]byte(w)); f == exists {
					extra = append(extra, addresses(r.target, t)...)
				}
			}
		}
	}
	if is(dns.TypeTXT) && n.txt != "" {
		answer = append(answer, &dns.TXT{Hdr: header(owner, dns.TypeTXT), Txt: []string{n.txt}})
	}
	if q.length == len(s.zone.wire) {
		if is(dns.TypeNS) {
			answer = append(answer, &dns.NS{Hdr: header(owner, dns.TypeNS), Ns: "ns.dns." + s.zone.domain + "."})
		}
		if is(dns.TypeSOA) {
			out = q.soa(q.start(out, dns.RcodeSuccess, true), s.zone)
			bump(out, 6, 1)
			return q.finish(out, dns.RcodeSuccess)
		}
	}
	if len(answer) == 0 {
		return q.denial(out, s.zone, dns.RcodeSuccess)
	}
	return q.pack(out, answer, extra, true)
}

func header(owner string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

func addresses(owner string, n *name) (out []dns.RR) {
	for _, ip := range n.a {
		out = append(out, &dns.A{Hdr: header(owner, dns.TypeA), A: ip.AsSlice()})
	}
	for _, ip := range n.aaaa {
		out = append(out, &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: ip.AsSlice()})
	}
	return out
}

// text is the name as the client wrote it.
func (q *query) text() string {
	s, _, err := dns.UnpackDomainName(q.packet, headerLen)
	if err != nil {
		return "."
	}
	return s
}

// pack writes records with the library, and leaves out what does not fit.
func (q *query) pack(out []byte, answer, extra []dns.RR, authoritative bool) []byte {
	m := new(dns.Msg)
	m.Id = uint16(q.packet[0])<<8 | uint16(q.packet[1])
	m.Response, m.RecursionAvailable, m.Authoritative = true, true, authoritative
	m.RecursionDesired, m.CheckingDisabled = q.packet[2]&bitRD != 0, q.packet[3]&bitCD != 0
	m.Question = []dns.Question{{Name: q.text(), Qtype: q.typ, Qclass: q.class}}
	m.Answer, m.Extra = answer, extra
	m.Compress = true
	if q.edns {
		m.SetEdns0(ownSize, q.do)
	}
	m.Truncate(q.size)
	b, err := m.PackBuffer(out[:cap(out)])
	if err != nil {
		return q.fail(out, dns.RcodeServerFailure)
	}
	return b
}

// pointer answers for an address of the cluster; others may know the rest.
func (s *Server) pointer(q *query, out []byte) ([]byte, bool) {
	ip, ok := reverseAddr(q.name())
	if !ok {
		return nil, false
	}
	targets := s.zone.pointers(ip)
	if len(targets) == 0 {
		return nil, false
	}
	var answer []dns.RR
	for _, t := range targets {
		answer = append(answer, &dns.PTR{Hdr: header(q.text(), dns.TypePTR), Ptr: t})
	}
	return q.pack(out, answer, nil, true), true
}

const inAddr, ip6 = "\x07in-addr\x04arpa\x00", "\x03ip6\x04arpa\x00"

// reverseAddr reads the address out of a name such as 7.0.42.10.in-addr.arpa.
func reverseAddr(w []byte) (netip.Addr, bool) {
	var labels []string
	rest := w
	for len(rest) > 1 && string(rest) != inAddr && string(rest) != ip6 {
		l := int(rest[0])
		labels = append(labels, string(rest[1:1+l]))
		rest = rest[1+l:]
	}
	var text strings.Builder
	for i := len(labels) - 1; i >= 0; i-- {
		text.WriteString(labels[i])
		switch {
		case i == 0:
		case string(rest) == inAddr:
			text.WriteByte('.')
		case (len(labels)-i)%4 == 0:
			text.WriteByte(':')
		}
	}
	ip, err := netip.ParseAddr(text.String())
	if err != nil || ip.Is4() != (string(rest) == inAddr) {
		return netip.Addr{}, false
	}
	return ip, true
}

// alias answers for an ExternalName service: the alias, and what it leads to
// if that is in the zone. Otherwise it reports false: see [Server.aliasOutside].
func (s *Server) alias(q *query, n *name, out []byte) ([]byte, bool) {
	answer := []dns.RR{&dns.CNAME{Hdr: header(q.text(), dns.TypeCNAME), Target: n.cname}}
	if q.typ == dns.TypeCNAME || q.typ == dns.TypeANY {
		return q.pack(out, answer, nil, true), true
	}
	w, ok := wireName(n.cname)
	if !ok {
		return q.pack(out, answer, nil, true), true
	}
	for range 8 { // aliases of aliases
		t, f := s.zone.lookup([]byte(w))
		if f == foreign {
			return nil, false
		}
		if f != exists {
			break
		}
		target, _, _ := dns.UnpackDomainName([]byte(w), 0)
		if t.cname == "" {
			for _, rr := range addresses(target, t) {
				if rr.Header().Rrtype == q.typ {
					answer = append(answer, rr)
				}
			}
			break
		}
		answer = append(answer, &dns.CNAME{Hdr: header(target, dns.TypeCNAME), Target: t.cname})
		if w, ok = wireName(t.cname); !ok {
			break
		}
	}
	return q.pack(out, answer, nil, true), true
}
