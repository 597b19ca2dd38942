package admit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
)

// A pool is a numbered set of things of which each may be had once.
type pool[T comparable] struct {
	size  int64
	fixed int64 // the first so many are given away only when asked for by name, or when the rest is used up
	at    func(int64) T
	of    func(T) (int64, bool)
	out   func(T) string // why a thing is not in the pool
	what  string
	v6    bool
	// chance is Settings.Chance.
	chance func(int64) int64
	mu     sync.Mutex
	used   map[T]int // by objects
	held   map[T]bool
}

// newAddresses is the pool of a range, without its first address and, for IPv4, its last.
func newAddresses(p netip.Prefix, chance func(int64) int64) *pool[netip.Addr] {
	p = p.Masked()
	bits := min(p.Addr().BitLen()-p.Bits(), 20) // a million addresses are enough
	size := int64(1)<<bits - 1
	if p.Addr().Is4() && size > 1 {
		size--
	}
	first := p.Addr().Next()
	return &pool[netip.Addr]{
		size: size, fixed: min(max(16, size/16), 256), v6: p.Addr().Is6(),
		at: func(n int64) netip.Addr { return plus(first, n) },
		of: func(a netip.Addr) (int64, bool) { n := minus(a, first); return n, p.Contains(a) && n >= 0 && n < size },
		out: func(a netip.Addr) string {
			return fmt.Sprintf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", a, p)
		},
		what: "IP", chance: chance, used: map[netip.Addr]int{}, held: map[netip.Addr]bool{},
	}
}

func newPorts(r [2]int32, chance func(int64) int64) *pool[int32] {
	size := int64(r[1] - r[0] + 1)
	return &pool[int32]{
		size: size, fixed: min(max(16, size/32), 128),
		at: func(n int64) int32 { return r[0] + int32(n) },
		of: func(p int32) (int64, bool) { return int64(p - r[0]), p >= r[0] && p <= r[1] },
		out: func(int32) string {
			return fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", r[0], r[1])
		},
		what: "port", chance: chance, used: map[int32]int{}, held: map[int32]bool{},
	}
}

func plus(a netip.Addr, n int64) netip.Addr {
	b := a.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+uint64(n))
	out := netip.AddrFrom16(b)
	if a.Is4() {
		out = out.Unmap()
	}
	return out
}

func minus(a, first netip.Addr) int64 {
	x, y := a.As16(), first.As16()
	return int64(binary.BigEndian.Uint64(x[8:]) - binary.BigEndian.Uint64(y[8:]))
}

// took and put follow what the objects in the state have.
func (p *pool[T]) took(list []T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range list {
		p.used[v]++
	}
}

func (p *pool[T]) put(list []T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range list {
		if p.used[v]--; p.used[v] <= 0 {
			delete(p.used, v)
		}
	}
}

// take holds a thing until it is released.
func (p *pool[T]) take(v T) error {
	if _, ok := p.of(v); !ok {
		return errors.New(p.out(v))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.free(v) {
		return fmt.Errorf("provided %s is already allocated", p.what)
	}
	p.held[v] = true
	return nil
}

func (p *pool[T]) free(v T) bool { return p.used[v] == 0 && !p.held[v] }

// any holds a thing that nobody has, from the part that is not for those who
// ask by name while there is one.
func (p *pool[T]) any() (T, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size > p.fixed {
		if v, ok := p.search(p.fixed, p.size); ok {
			return v, nil
		}
	}
	if v, ok := p.search(0, min(p.fixed, p.size)); ok {
		return v, nil
	}
	var none T
	return none, errors.New("range is full")
}

// search looks from a random place on, all around.
func (p *pool[T]) search(from, to int64) (T, bool) {
	start := p.chance(to - from)
	for i := range to - from {
		v := p.at(from + (start+i)%(to-from))
		if p.free(v) {
			p.held[v] = true
			return v, true
		}
	}
	var none T
	return none, false
}

func (p *pool[T]) release(list []T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range list {
		delete(p.held, v)
	}
}
