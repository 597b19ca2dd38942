package controllers

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
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
	promised := &parts{of: map[string]netip.Prefix{}}
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
	taken := make(map[netip.Prefix]bool, len(p.of))
	for _, part := range p.of {
		taken[part] = true
	}
	part, ok := freePart(whole, nodes, taken)
	if ok {
		p.of[node] = part
	}
	return part, ok
}

// freePart is the first part of the network that no node has any of and that is not in exact,
// to which it adds what the nodes have.
func freePart(whole netip.Prefix, nodes []*corev1.Node, exact map[netip.Prefix]bool) (netip.Prefix, bool) {
	var taken []netip.Prefix
	for _, n := range nodes {
		for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
			p, err := netip.ParsePrefix(text)
			switch {
			case err != nil:
			case p.Bits() == nodeBits:
				exact[p.Masked()] = true
			default:
				taken = append(taken, p)
			}
		}
	}
	first := binary.BigEndian.Uint32(whole.Addr().AsSlice())
next:
	for i := range uint32(1) << (nodeBits - whole.Bits()) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], first+i<<(32-nodeBits))
		p := netip.PrefixFrom(netip.AddrFrom4(a), nodeBits)
		if exact[p] {
			continue
		}
		for _, t := range taken {
			if t.Overlaps(p) {
				continue next
			}
		}
		return p, true
	}
	return netip.Prefix{}, false
}
