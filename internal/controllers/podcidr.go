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
	var one sync.Mutex // from choosing a part until its node has it
	k.Reconcile = func(ctx context.Context, c *control.Cluster, n *corev1.Node) (time.Duration, error) {
		if n.Spec.PodCIDR != "" || n.DeletionTimestamp != nil {
			return 0, nil
		}
		if err != nil || !whole.Addr().Is4() || whole.Bits() > nodeBits {
			return 0, fmt.Errorf("pod network %q is not an IPv4 network of at least /%d", network, nodeBits)
		}
		one.Lock()
		defer one.Unlock()
		var nodes []*corev1.Node // in no order: of thousands, that would take longest
		control.Any(c, core.Node, func(n *corev1.Node) bool { nodes = append(nodes, n); return false })
		part, ok := freePart(whole.Masked(), nodes)
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

// freePart is the first part of the network that no node has any of.
func freePart(whole netip.Prefix, nodes []*corev1.Node) (netip.Prefix, bool) {
	var taken []netip.Prefix
	exact := map[netip.Prefix]bool{}
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
