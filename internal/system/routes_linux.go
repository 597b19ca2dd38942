package system

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// localRanges returns the IPv4 ranges that this machine has routes or addresses
// for, the default route excepted.
func localRanges() (out []netip.Prefix, err error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("read the routes of this machine: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if n, _ := r.Dst.Mask.Size(); ok && n > 0 {
			out = append(out, netip.PrefixFrom(a, n))
		}
	}
	return out, nil
}
