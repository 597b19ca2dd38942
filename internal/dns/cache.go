package dns

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// cache keeps the answers of others for a short time.
type cache struct {
	mu      sync.Mutex
	entries map[string]*cached
}

const (
	maxCached    = 10_000
	maxCachedTTL = 30 // seconds
)

type cached struct {
	packet []byte
	ttls   []int // where the TTLs are
	at     time.Time
	life   time.Duration
}

// cacheKey is everything that an answer depends on.
func cacheKey(q *query) string {
	b := make([]byte, 0, q.length+8)
	b = append(b, q.name()...)
	b = binary.BigEndian.AppendUint16(b, q.typ)
	b = binary.BigEndian.AppendUint16(b, q.class)
	var edns, do byte
	if q.edns {
		edns = 1
	}
	if q.do {
		do = 1
	}
	return string(append(b, edns, do, q.packet[2]&bitRD, q.packet[3]&bitCD))
}

func (c *cache) clear() {
	c.mu.Lock()
	clear(c.entries)
	c.mu.Unlock()
}

// get returns an answer to q, with what is left of its TTLs, nil if there is none.
func (c *cache) get(key string, q *query) []byte {
	c.mu.Lock()
	e := c.entries[key]
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	age := time.Since(e.at)
	if age >= e.life {
		c.mu.Lock()
		if c.entries[key] == e {
			delete(c.entries, key)
		}
		c.mu.Unlock()
		return nil
	}
	if len(e.packet) > q.size {
		return nil
	}
	out := append([]byte(nil), e.packet...)
	copy(out, q.packet[:2])
	copy(out[headerLen:q.end], q.packet[headerLen:q.end]) // as the client wrote it
	for _, at := range e.ttls {
		left := binary.BigEndian.Uint32(out[at:])
		left -= min(left, uint32(age/time.Second))
		binary.BigEndian.PutUint32(out[at:], left)
	}
	return out
}

// put keeps an answer as long as its shortest TTL says, denials as long as the
// SOA says, and failures not at all.
func (c *cache) put(key string, q *query, packet []byte) {
	rcode := int(packet[3] & 15)
	if packet[2]&bitTC != 0 || rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError || len(packet) < q.end || binary.BigEndian.Uint16(packet[4:]) != 1 {
		return
	}
	ttls, life, ok := lifetimes(packet, q.end)
	if !ok || life == 0 {
		return
	}
	e := &cached{packet: packet, ttls: ttls, at: time.Now(), life: time.Duration(life) * time.Second}
	c.mu.Lock()
	defer c.mu.Unlock()
	for victim := range c.entries { // any: maps are walked in random order
		if len(c.entries) < maxCached {
			break
		}
		delete(c.entries, victim)
	}
	c.entries[key] = e
}

// lifetimes finds the TTLs of a message and how long it may be kept.
func lifetimes(b []byte, at int) (ttls []int, life uint32, ok bool) {
	answers := int(binary.BigEndian.Uint16(b[6:]))
	all := answers + int(binary.BigEndian.Uint16(b[8:])) + int(binary.BigEndian.Uint16(b[10:]))
	life = maxCachedTTL
	denied := answers == 0
	for i := range all {
		at, ok = skipName(b, at)
		if !ok || at+10 > len(b) {
			return nil, 0, false
		}
		typ, ttl := binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint32(b[at+4:])
		size := int(binary.BigEndian.Uint16(b[at+8:]))
		if at+10+size > len(b) {
			return nil, 0, false
		}
		if typ != dns.TypeOPT {
			ttls = append(ttls, at+4)
			life = min(life, ttl)
		}
		if typ == dns.TypeSOA && denied && i >= answers && size >= 4 {
			life = min(life, binary.BigEndian.Uint32(b[at+10+size-4:]))
			denied = false
		}
		at += 10 + size
	}
	return ttls, life, !denied // a denial without a SOA is not kept
}

func skipName(b []byte, at int) (int, bool) {
	for at < len(b) {
		switch l := int(b[at]); {
		case l == 0:
			return at + 1, true
		case l >= 0xc0:
			return at + 2, at+2 <= len(b)
		default:
			at += 1 + l
		}
	}
	return 0, false
}
