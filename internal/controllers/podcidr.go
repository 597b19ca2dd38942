package controllers

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

// nodeBits is the size of a node's pod network: 254 pods.
const nodeBits = 24

// PodCIDR gives each node a part of the pod network, never one to two nodes. A
// part comes back when its node is deleted.
func PodCIDR(network string) *control.Controller[*corev1.Node] {
	if network == "" {
		network = "10.42.0.0/16"
	}
	whole, err := netip.ParsePrefix(network)
	k := &control.Controller[*corev1.Node]{Name: "podcidr", For: core.Node}
	promised := &parts{of: map[string]netip.Prefix{}, texts: map[string]netip.Prefix{}}
	k.Finalize = func(_ context.Context, _ *control.Cluster, key control.Key) error {
		promised.forget(key.Name)
		return nil
	}
	k.Reconcile = func(ctx context.Context, c *control.Cluster, n *corev1.Node) (time.Duration, error) {
		if n.Spec.PodCIDR != "" || n.DeletionTimestamp != nil {
			promised.forget(n.Name)
			return 0, nil
		}
		if err != nil || !whole.Addr().Is4() || whole.Bits() > nodeBits {
			return 0, fmt.Errorf("pod network %q is not an IPv4 network of at least /%d", network, nodeBits)
		}
		part, ok := promised.part(c, whole.Masked(), n.Name)
		if !ok {
			c.Eventf(n, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", n.Name)
			return time.Minute, nil
		}
		next := api.Clone(n)
		next.Spec.PodCIDR, next.Spec.PodCIDRs = part.String(), []string{part.String()}
		_, err := core.Node.Update(ctx, c, next)
		return 0, ignoreNotFound(err)
	}
	return k
}

// parts are those that have been chosen for nodes and that these may not have yet: a
// write whose answer was lost may come to be.
type parts struct {
	mu sync.Mutex
	of map[string]netip.Prefix // by the node's name

	texts map[string]netip.Prefix // what nodes' texts say
}

func (p *parts) forget(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.of, node)
}

// part chooses one for a node, the same again until it is forgotten.
func (p *parts) part(c *control.Cluster, whole netip.Prefix, node string) (netip.Prefix, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if part, ok := p.of[node]; ok {
		return part, true
	}
	var nodes []*corev1.Node // in no order: of thousands, that would take longest
	control.Any(c, core.Node, func(n *corev1.Node) bool { nodes = append(nodes, n); return false })
	part, ok := p.free(whole, nodes)
	if ok {
		p.of[node] = part
	}
	return part, ok
}

// free is the first part of the network that no node has any of and that is promised to
// none. It costs a look at a map for each node, and nothing is parsed twice: with
// thousands of nodes that come at once that is what it takes.
func (p *parts) free(whole netip.Prefix, nodes []*corev1.Node) (netip.Prefix, bool) {
	first, count := number4(whole.Addr()), uint32(1)<<(nodeBits-whole.Bits())
	taken := make([]bool, count)
	take := func(t netip.Prefix) {
		if !t.IsValid() || !t.Addr().Is4() || !t.Overlaps(whole) {
			return
		}
		from := max(number4(t.Masked().Addr()), first)
		for i := (from - first) >> (32 - nodeBits); i < count && at(first, i).Overlaps(t); i++ {
			taken[i] = true
		}
	}
	for _, n := range nodes {
		take(p.parsed(n.Spec.PodCIDR))
		for _, text := range n.Spec.PodCIDRs {
			if text != n.Spec.PodCIDR {
				take(p.parsed(text))
			}
		}
	}
	for _, part := range p.of {
		take(part)
	}
	if i := slices.Index(taken, false); i >= 0 {
		return at(first, uint32(i)), true
	}
	return netip.Prefix{}, false
}

// parsed is a network that a node names; not valid if it is none.
func (p *parts) parsed(text string) netip.Prefix {
	if text == "" {
		return netip.Prefix{}
	}
	t, known := p.texts[text]
	if !known {
		t, _ = netip.ParsePrefix(text)
		p.texts[text] = t
	}
	return t
}

// at is the i-th part of a network of IPv4.
func at(first, i uint32) netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], first+i<<(32-nodeBits))
	return netip.PrefixFrom(netip.AddrFrom4(a), nodeBits)
}

func number4(a netip.Addr) uint32 { return binary.BigEndian.Uint32(a.AsSlice()) }
