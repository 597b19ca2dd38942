package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A UDP client that keeps sending from one port keeps its conntrack entry
// alive, and with it the endpoint that it was given, even if that is gone. So
// when the endpoints of a UDP frontend change, the entries that lead elsewhere
// are deleted. TCP connections end by themselves.

// A staleFlow is a UDP frontend and the endpoints that its flows may lead to.
type staleFlow struct {
	key  Key
	ends []Endpoint
}

// staleFlows lists the UDP frontends whose endpoints differ between two parts.
func staleFlows(old, new *Part) (out []staleFlow) {
	was, is := udpEnds(old), udpEnds(new)
	for k, ends := range is {
		if before, ok := was[k]; !ok || !sameEnds(before, ends) {
			out = append(out, staleFlow{k, ends})
		}
		delete(was, k)
	}
	for k := range was {
		out = append(out, staleFlow{k, nil})
	}
	return out
}

// udpEnds returns the endpoints that each UDP frontend may lead to.
func udpEnds(p *Part) map[Key][]Endpoint {
	if p == nil {
		return nil
	}
	var out map[Key][]Endpoint
	for i := range p.Frontends {
		f := &p.Frontends[i]
		if f.Protocol != unix.IPPROTO_UDP {
			continue
		}
		if out == nil {
			out = map[Key][]Endpoint{}
		}
		ends := out[f.Key]
		for j := range p.Groups {
			if p.Groups[j].ID == f.Group {
				ends = append(ends, p.Groups[j].Slots...)
			}
		}
		out[f.Key] = ends
	}
	return out
}

func sameEnds(a, b []Endpoint) bool {
	if len(a) != len(b) {
		return false
	}
	have := make(map[Endpoint]bool, len(a))
	for _, e := range a {
		have[e] = true
	}
	for _, e := range b {
		if !have[e] {
			return false
		}
	}
	return true
}

// flowCleaner deletes stale flows beside the rules, because it reads the whole
// conntrack table each time. What is added meanwhile waits for the next time.
type flowCleaner struct {
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{}

	mu    sync.Mutex
	stale map[Key][]Endpoint
}

func newFlowCleaner(log *slog.Logger) *flowCleaner {
	ctx, cancel := context.WithCancel(context.Background())
	c := &flowCleaner{log: log, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1), stale: map[Key][]Endpoint{}}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		log.Warn("Stale UDP flows are not cleaned: no netlink", "err", err)
		close(c.done)
		return c
	}
	go func() {
		defer close(c.done)
		defer h.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
				c.clean(h)
			}
		}
	}()
	return c
}

func (c *flowCleaner) stop() {
	c.cancel()
	<-c.done
}

func (c *flowCleaner) add(stale []staleFlow) {
	if len(stale) == 0 {
		return
	}
	c.mu.Lock()
	for _, s := range stale {
		c.stale[s.key] = s.ends
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *flowCleaner) clean(h *netlink.Handle) {
	c.mu.Lock()
	f := flowFilter{stale: c.stale, local: map[netip.Addr]bool{}}
	c.stale = map[Key][]Endpoint{}
	c.mu.Unlock()
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				ip, _ := netip.AddrFromSlice(n.IP)
				f.local[ip.Unmap()] = true
			}
		}
	}
	n, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
	if err != nil {
		c.log.Warn("Stale UDP flows could not be cleaned", "err", err)
	}
	if n > 0 {
		c.log.Debug("Deleted stale UDP flows", "count", n)
	}
}

// flowFilter matches the flows to delete.
type flowFilter struct {
	stale map[Key][]Endpoint
	local map[netip.Addr]bool
}

// MatchConntrackFlow reports whether a flow leads where its frontend no longer leads.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	from, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	dst, from = dst.Unmap(), from.Unmap()
	ends, ok := f.stale[Key{dst, unix.IPPROTO_UDP, flow.Forward.DstPort}]
	if !ok && f.local[dst] {
		ends, ok = f.stale[Key{netip.IPv4Unspecified(), unix.IPPROTO_UDP, flow.Forward.DstPort}]
	}
	if !ok {
		return false
	}
	if from == dst && len(ends) == 0 {
		return false // never was a service's flow
	}
	for _, e := range ends {
		if e.Addr == from && e.Port == flow.Reverse.SrcPort {
			return false
		}
	}
	return true
}
