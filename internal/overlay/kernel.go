package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"proa/internal/overlay/cniwire"
)

// kernel is the thin part: it changes links, addresses, routes and settings of
// the network namespace that it was opened in.
type kernel struct {
	device string
	h      *netlink.Handle
	log    *slog.Logger
}

func openKernel(device string, log *slog.Logger) (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &kernel{device: device, h: h, log: log}, nil
}

func (k *kernel) close() { k.h.Close() }

// A link is what connects one pod.
type link struct {
	host, pod, netns string
	address, gateway netip.Addr
	hostMAC, podMAC  net.HardwareAddr
	mtu              int
}

// macOf derives a link-layer address, locally administered, from a pod's address.
func macOf(ip netip.Addr, side byte) net.HardwareAddr {
	b := ip.AsSlice()
	b = b[len(b)-4:]
	return net.HardwareAddr{0x0a, side, b[0], b[1], b[2], b[3]}
}

func single(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

func subnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// outgoingMTU is that of the interface of the default route with the lowest
// metric, 1500 if there is none.
func (k *kernel) outgoingMTU() int {
	routes, err := whole(func() ([]netlink.Route, error) { return k.h.RouteList(nil, unix.AF_INET) })
	if err != nil {
		return 1500
	}
	best, mtu := 0, 0
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if mtu != 0 && r.Priority >= best {
			continue
		}
		if l, err := k.h.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU >= 576 {
			best, mtu = r.Priority, l.Attrs().MTU
		}
	}
	if mtu == 0 {
		return 1500
	}
	return mtu
}

// setNode makes the node's own interface with its addresses and routes.
func (k *kernel) setNode(gateway netip.Addr, local []netip.Addr, services []netip.Prefix) error {
	dev, err := k.makeDevice()
	if err != nil {
		return err
	}
	for _, ip := range append([]netip.Addr{gateway}, local...) {
		if err := k.h.AddrReplace(dev, &netlink.Addr{IPNet: single(ip)}); err != nil {
			return fmt.Errorf("give %s to %s: %w", ip, dev.Attrs().Name, err)
		}
	}
	if err := k.h.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", dev.Attrs().Name, err)
	}
	if dev.Attrs().Name != k.device {
		k.log.Warn("This kernel has neither dummy nor bridge interfaces: without a default route, services cannot be reached from the node itself")
		services = nil
	}
	for _, s := range services {
		r := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: subnet(s), Src: gateway.AsSlice(), Scope: unix.RT_SCOPE_LINK}
		if err := k.h.RouteReplace(r); err != nil {
			return fmt.Errorf("route %s to %s: %w", s, k.device, err)
		}
	}
	return k.set("net/ipv4/ip_forward", "1")
}

// makeDevice returns the interface that holds the node's addresses: one of our
// own, of a kind that this kernel has, or the loopback interface.
func (k *kernel) makeDevice() (netlink.Link, error) {
	if l, err := k.h.LinkByName(k.device); err == nil {
		return l, nil
	}
	a := netlink.NewLinkAttrs()
	a.Name = k.device
	for _, l := range []netlink.Link{&netlink.Dummy{LinkAttrs: a}, &netlink.Bridge{LinkAttrs: a}} {
		err := k.h.LinkAdd(l)
		if err == nil {
			k.log.Info("Made the node's interface in the pod network", "name", k.device, "type", l.Type())
			return k.h.LinkByName(k.device)
		}
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("make interface %s: %w", k.device, err)
		}
	}
	return k.h.LinkByName("lo")
}

// set changes a kernel setting and says so, if it is not so already.
func (k *kernel) set(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the setting %s: %w", name, err)
	}
	if strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	k.log.Info("Changed a kernel setting", "name", strings.ReplaceAll(name, "/", "."), "value", value, "was", strings.TrimSpace(string(old)))
	return nil
}

// connect makes the link, whatever is there of it already.
func (k *kernel) connect(l link) error {
	ns, err := netns.GetFromPath(l.netns)
	if err != nil {
		return cniwire.Errorf(cniwire.CodeUnknown, "open network namespace %s: %v", l.netns, err)
	}
	defer ns.Close()
	if err := k.disconnect(l.host); err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU, a.HardwareAddr = l.host, l.mtu, l.hostMAC
	a.Flags = net.FlagUp
	v := &netlink.Veth{LinkAttrs: a, PeerName: l.pod, PeerHardwareAddr: l.podMAC, PeerNamespace: netlink.NsFd(ns)}
	if err := k.h.LinkAdd(v); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return cniwire.Errorf(cniwire.CodeBadEnvironment, "the sandbox has an interface %s already", l.pod)
		}
		return fmt.Errorf("make link %s: %w", l.host, err)
	}
	if err := k.setPod(ns, l); err != nil {
		return err
	}
	up, err := k.h.LinkByName(l.host)
	if err != nil {
		return fmt.Errorf("find link %s: %w", l.host, err)
	}
	return k.setHost(up, l.address, l.podMAC, l.gateway)
}

// setPod configures the pod's end.
func (k *kernel) setPod(ns netns.NsHandle, l link) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", l.netns, err)
	}
	defer h.Close()
	if lo, err := h.LinkByName("lo"); err == nil {
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up in %s: %w", l.netns, err)
		}
	}
	pod, err := h.LinkByName(l.pod)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", l.pod, l.netns, err)
	}
	index := pod.Attrs().Index
	steps := []struct {
		what string
		do   func() error
	}{
		{"set the MTU", func() error { return h.LinkSetMTU(pod, l.mtu) }},
		{"give the address", func() error {
			return h.AddrAdd(pod, &netlink.Addr{IPNet: single(l.address), Flags: unix.IFA_F_NODAD})
		}},
		{"set it up", func() error { return h.LinkSetUp(pod) }},
		{"name the neighbour", func() error { return h.NeighSet(neighbour(index, l.gateway, l.hostMAC)) }},
		{"route to the gateway", func() error {
			return h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: single(l.gateway), Scope: unix.RT_SCOPE_LINK, Src: l.address.AsSlice()})
		}},
		{"route everything else", func() error {
			return h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: l.gateway.AsSlice(), Src: l.address.AsSlice()})
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s in %s: %s: %w", l.pod, l.netns, s.what, err)
		}
	}
	return nil
}

func neighbour(index int, ip netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac}
}

// setHost configures the node's end. It may be repeated.
func (k *kernel) setHost(l netlink.Link, ip netip.Addr, mac net.HardwareAddr, gateway netip.Addr) error {
	name, index := l.Attrs().Name, l.Attrs().Index
	for _, s := range []struct{ name, value string }{
		{"rp_filter", "1"},      // a pod sends from its own address only
		{"route_localnet", "1"}, // answers to 127.0.0.1:nodePort; the proxy drops all else that claims to come from there
		{"send_redirects", "0"}, // a pod that reaches itself through a service is no detour
		{"accept_redirects", "0"},
	} {
		if err := write("net/ipv4/conf/"+name+"/"+s.name, s.value); err != nil {
			return err
		}
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := k.h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	if err := k.h.NeighSet(neighbour(index, ip, mac)); err != nil {
		return fmt.Errorf("%s: name the neighbour: %w", name, err)
	}
	r := &netlink.Route{LinkIndex: index, Dst: single(ip), Scope: unix.RT_SCOPE_LINK, Src: gateway.AsSlice()}
	if err := k.h.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s to %s: %w", ip, name, err)
	}
	return nil
}

func write(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

// mend sets the node's end of a link up again, and tells whether there is one.
func (k *kernel) mend(name string, ip, gateway netip.Addr) (bool, error) {
	l, err := k.h.LinkByName(name)
	if err != nil {
		var missing netlink.LinkNotFoundError
		if errors.As(err, &missing) {
			return false, nil
		}
		return false, err
	}
	return true, k.setHost(l, ip, macOf(ip, 'p'), gateway)
}

// watch tells, until stop closes, where routes led that were removed.
func (k *kernel) watch(stop chan struct{}) (<-chan netip.Prefix, error) {
	updates, ended, lost := make(chan netlink.RouteUpdate, 64), make(chan struct{}), make(chan netip.Prefix, 64)
	err := netlink.RouteSubscribeWithOptions(updates, ended, netlink.RouteSubscribeOptions{ErrorCallback: func(err error) {
		select {
		case <-stop: // the socket was closed by us
		default:
			k.log.Warn("Changes of routes may go unnoticed", "err", err)
		}
	}})
	if err != nil {
		return nil, fmt.Errorf("watch routes: %w", err)
	}
	go func() {
		defer close(lost)
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case u, ok := <-updates:
				if !ok {
					return
				}
				if u.Type != unix.RTM_DELROUTE || u.Dst == nil {
					continue
				}
				ip, _ := netip.AddrFromSlice(u.Dst.IP)
				bits, _ := u.Dst.Mask.Size()
				select {
				case lost <- netip.PrefixFrom(ip.Unmap(), bits):
				case <-stop:
					return
				}
			}
		}
	}()
	return lost, nil
}

// disconnect removes the node's end of a link, and with it the pod's.
func (k *kernel) disconnect(name string) error {
	l, err := k.h.LinkByName(name)
	if err == nil {
		err = k.h.LinkDel(l)
	}
	var missing netlink.LinkNotFoundError
	if err == nil || errors.As(err, &missing) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return fmt.Errorf("remove link %s: %w", name, err)
}

// check tells what of a link is missing.
func (k *kernel) check(hostName, podName, path string, ip netip.Addr) error {
	if l, err := k.h.LinkByName(hostName); err != nil || l.Attrs().Flags&net.FlagUp == 0 {
		return cniwire.Errorf(cniwire.CodeInternal, "link %s is gone or down", hostName)
	}
	routes, err := k.h.RouteGet(ip.AsSlice())
	if err != nil || len(routes) == 0 {
		return cniwire.Errorf(cniwire.CodeInternal, "no route to %s", ip)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return cniwire.Errorf(cniwire.CodeUnknown, "open network namespace %s: %v", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(podName)
	if err != nil {
		return cniwire.Errorf(cniwire.CodeInternal, "%s is not in %s", podName, path)
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(l, unix.AF_INET) })
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.IP.Equal(ip.AsSlice()) {
			return nil
		}
	}
	return cniwire.Errorf(cniwire.CodeInternal, "%s in %s has not the address %s", podName, path, ip)
}

// clean removes the node's interface, every pod's link, and addresses that may be on lo.
func (k *kernel) clean(local []netip.Addr, podCIDR netip.Prefix) error {
	links, err := whole(k.h.LinkList)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		name := l.Attrs().Name
		if name != k.device && (!strings.HasPrefix(name, k.device+"-") || l.Type() != "veth") {
			continue
		}
		if err := k.h.LinkDel(l); err != nil && !errors.Is(err, syscall.ENODEV) {
			errs = append(errs, fmt.Errorf("remove link %s: %w", name, err))
		}
	}
	lo, err := k.h.LinkByName("lo")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if podCIDR.IsValid() {
		local = append([]netip.Addr{gatewayOf(podCIDR)}, local...)
	}
	for _, ip := range local {
		if err := k.h.AddrDel(lo, &netlink.Addr{IPNet: single(ip)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("remove %s from lo: %w", ip, err))
		}
	}
	return errors.Join(errs...)
}

// whole asks the kernel for a list again when somebody else changed it while it
// was being read (NLM_F_DUMP_INTR), a few times at the most.
func whole[E any](list func() ([]E, error)) (all []E, err error) {
	for range 10 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}
