package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"proa/internal/host"
)

// Ports are the ports a node listens on.
type Ports struct{ API, Node, Registry int }

// DefaultPorts are the ports by convention.
var DefaultPorts = Ports{API: 6443, Node: 10250, Registry: 6450}

// PortsFrom returns three ports in a row, for a second cluster on one machine.
func PortsFrom(base int) Ports { return Ports{base, base + 1, base + 2} }

// An identity is what a cluster is given at its first start and keeps: other
// ranges would leave its services and pods with addresses that no route leads to.
type identity struct {
	PodCIDR     netip.Prefix `json:"podCIDR"`
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`
	Domain      string       `json:"clusterDomain"`
	NodeName    string       `json:"nodeName"`
	Store       string       `json:"store,omitempty"`    // where the data is kept, as --store; empty: lsm
	NodeRange   netip.Prefix `json:"nodeRange,omitzero"` // this node's part of PodCIDR, once it was given one
}

// identityOf reads the identity of the cluster at a place.
func identityOf(p Places) (i identity, err error) {
	b, err := os.ReadFile(identityFile(p))
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return i, fmt.Errorf("%s: %w", identityFile(p), err)
	}
	return i, nil
}

func identityFile(p Places) string { return filepath.Join(p.Root, "cluster.json") }

func (i identity) save(p Places) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return host.WriteFile(identityFile(p), append(b, '\n'), 0o600)
}

// A /16 is divided among 256 nodes. More pretend ones, whose pods are never spoken
// to, divide the range that RFC 6598 sets aside.
const smallNetwork = 256

var largeNetwork = netip.MustParsePrefix("100.64.0.0/10")

// settle reads the cluster's identity, or makes it from what was asked for,
// taking the first pair of ranges that is free on this machine where nothing was.
func settle(c *Config) (identity, error) {
	want := identity{Store: c.Store.URL, PodCIDR: c.PodCIDR, ServiceCIDR: c.ServiceCIDR, Domain: c.Domain, NodeName: c.NodeName}
	have, err := identityOf(c.Places)
	if err == nil {
		return have, have.check(want, c.Places.Root)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return want, err
	}
	if want.NodeName == "" {
		if want.NodeName, err = nodeName(); err != nil {
			return want, err
		}
	}
	if c.Pretend && c.Nodes > smallNetwork && !want.PodCIDR.IsValid() {
		want.PodCIDR = largeNetwork
	}
	taken, err := localRanges()
	if err != nil {
		return want, err
	}
	if err := want.choose(taken); err != nil {
		return want, err
	}
	return want, want.save(c.Places)
}

func (i identity) check(want identity, root string) error {
	for _, x := range []struct{ name, have, want string }{
		{"pod-cidr", i.PodCIDR.String(), want.PodCIDR.String()},
		{"service-cidr", i.ServiceCIDR.String(), want.ServiceCIDR.String()},
		{"cluster-domain", i.Domain, want.Domain},
		{"node-name", i.NodeName, want.NodeName},
	} {
		unset := netip.Prefix{}
		if x.want != "" && x.want != unset.String() && x.want != x.have {
			return fmt.Errorf("the cluster in %s was made with %s %s, which cannot become %s: start without that setting, or use another --root",
				root, x.name, x.have, x.want)
		}
	}
	return nil
}

// choose fills in the ranges that were not asked for: 10.42/16 and 10.43/16, or
// the next pair that overlaps nothing.
func (i *identity) choose(taken []netip.Prefix) error {
	for _, asked := range []netip.Prefix{i.PodCIDR, i.ServiceCIDR} {
		if t, ok := overlaps(asked, taken); ok {
			return fmt.Errorf("range %v overlaps %v, which this machine uses already", asked, t)
		}
	}
	if i.PodCIDR.IsValid() && i.ServiceCIDR.IsValid() {
		if i.PodCIDR.Overlaps(i.ServiceCIDR) {
			return fmt.Errorf("pod range %v and service range %v overlap", i.PodCIDR, i.ServiceCIDR)
		}
		return nil
	}
	for n := 42; n < 254; n += 2 {
		pods, services := i.PodCIDR, i.ServiceCIDR
		if !pods.IsValid() {
			pods = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
		}
		if !services.IsValid() {
			services = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n + 1), 0, 0}), 16)
		}
		_, a := overlaps(pods, taken)
		_, b := overlaps(services, taken)
		if !a && !b && !pods.Overlaps(services) {
			i.PodCIDR, i.ServiceCIDR = pods, services
			return nil
		}
	}
	return errors.New("no free pair of address ranges below 10.0.0.0/8: give --pod-cidr and --service-cidr")
}

func overlaps(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if p.IsValid() && p.Overlaps(t) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}

// nth returns the n-th address of a range.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

func nodeName() (string, error) {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "localhost", nil
	}
	return lowerDNS(host), nil
}

// lowerDNS makes a host name into a valid object name.
func lowerDNS(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.':
		default:
			b[i] = '-'
		}
	}
	return string(b)
}

// hostAddress is this machine's address that others would use: that of the
// default route, or else the first one that is not loopback, or else none.
func hostAddress() netip.Addr {
	// Connecting a datagram socket sends nothing: it only asks the routing table.
	if c, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer c.Close()
		if a, ok := netip.AddrFromSlice(c.LocalAddr().(*net.UDPAddr).IP.To4()); ok && !a.IsLoopback() {
			return a
		}
	}
	all, _ := net.InterfaceAddrs()
	for _, x := range all {
		if n, ok := x.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			if a, ok := netip.AddrFromSlice(n.IP.To4()); ok {
				return a
			}
		}
	}
	return netip.Addr{}
}
