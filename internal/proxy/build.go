package proxy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A Key is what a client connects to. The unspecified address stands for every
// address of the node.
type Key struct {
	Addr     netip.Addr
	Protocol uint8
	Port     uint16
}

// An Endpoint is where a connection is sent.
type Endpoint struct {
	Addr netip.Addr
	Port uint16
}

// A Mode says what happens to a connection beside its new destination.
type Mode uint32

const (
	Plain       Mode = iota
	MasqOutside      // masquerade what does not come from a pod
	MasqAlways       // masquerade everything
	Reject           // nobody serves it: refuse
	Drop             // nobody on this node serves it, and others may: be silent
)

// An ID names a group of endpoints: the same in every process and on every node.
type ID [8]byte

// A Frontend is an address and port that leads to a group.
type Frontend struct {
	Key
	Group    ID
	Class    uint32 // see [classOf]; 0 if the group is empty
	Mode     Mode
	Internal bool // for connections that begin in a pod or on the node itself only; goes before others
}

// A Group is a list of endpoints of which each connection gets one.
type Group struct {
	ID       ID
	Slots    []Endpoint
	Affinity uint32 // seconds that a client stays with its endpoint, 0 if it does not
}

// A Part is what one Service needs of the kernel's maps.
type Part struct {
	Frontends []Frontend
	Groups    []Group
	Hairpin   []netip.Addr // endpoints on this node, which may be their own clients
	Problems  []string     // what could not be done, for the user
}

// Most endpoints of a group, and most seconds of affinity (the API allows 86400).
const (
	maxSlots    = 1<<15 - 1
	maxAffinity = 1<<17 - 1
)

// classOf packs how an endpoint is drawn: out of how many, and how long a client stays.
func classOf(slots int, affinity uint32) uint32 {
	if slots == 0 {
		return 0
	}
	return affinity<<15 | uint32(slots)
}

// protocolNumber reads a protocol as the API writes it, or in lower case as CNI does.
func protocolNumber(p corev1.Protocol) (uint8, bool) {
	switch corev1.Protocol(strings.ToUpper(string(p))) {
	case corev1.ProtocolTCP, "":
		return 6, true
	case corev1.ProtocolUDP:
		return 17, true
	case corev1.ProtocolSCTP:
		return 132, true
	}
	return 0, false
}

func groupID(service, port string, protocol corev1.Protocol, local bool) (id ID) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%t", service, port, protocol, local))
	copy(id[:], sum[:])
	return id
}

// Build returns what a Service needs on this node, nil if nothing: it is
// headless, or a name only. prior gives the order in which a group's endpoints
// were before, so that a change moves as few as possible.
func Build(s *corev1.Service, slices map[string]*discoveryv1.EndpointSlice, c *Config, prior func(Group) []Endpoint) *Part {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	b := builder{s: s, c: c, prior: prior, part: &Part{}}
	b.addrs()
	for i := range s.Spec.Ports {
		b.port(&s.Spec.Ports[i], slices)
	}
	return b.part
}

type builder struct {
	s     *corev1.Service
	c     *Config
	prior func(Group) []Endpoint
	part  *Part

	cluster  []netip.Addr
	external []netip.Addr
	affinity uint32
}

func (b *builder) addrs() {
	s := b.s
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	b.cluster = b.parse(ips, true)
	external := slices.Clone(s.Spec.ExternalIPs)
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			external = append(external, in.IP)
		}
	}
	b.external = b.parse(external, false)
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		b.affinity = uint32(corev1.DefaultClientIPServiceAffinitySeconds)
		if a := s.Spec.SessionAffinityConfig; a != nil && a.ClientIP != nil && a.ClientIP.TimeoutSeconds != nil {
			b.affinity = uint32(min(max(*a.ClientIP.TimeoutSeconds, 1), maxAffinity))
		}
	}
}

// parse keeps the IPv4 addresses that this node does not answer itself.
func (b *builder) parse(ips []string, ours bool) (out []netip.Addr) {
	for _, s := range ips {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			b.part.Problems = append(b.part.Problems, fmt.Sprintf("%q is no address", s))
			continue
		}
		if !ip.Is4() || ours && slices.Contains(b.c.Local, ip) || slices.Contains(out, ip) {
			continue
		}
		out = append(out, ip)
	}
	return out
}

func (b *builder) port(port *corev1.ServicePort, all map[string]*discoveryv1.EndpointSlice) {
	proto, ok := protocolNumber(port.Protocol)
	if !ok {
		b.part.Problems = append(b.part.Problems, fmt.Sprintf("port %q has the unknown protocol %q", port.Name, port.Protocol))
		return
	}
	everywhere, here := b.endpoints(port, all)
	etpLocal := b.s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	itpLocal := b.s.Spec.InternalTrafficPolicy != nil && *b.s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	exposed := len(b.external) > 0 || port.NodePort != 0

	var cluster, local Group
	if !itpLocal || exposed {
		cluster = b.group(port, everywhere, false)
	}
	if itpLocal || exposed && etpLocal {
		local = b.group(port, here, true)
	}
	for _, ip := range b.cluster {
		k := Key{ip, proto, uint16(port.Port)}
		if itpLocal {
			b.front(k, local, MasqOutside, len(everywhere) > 0)
		} else {
			b.front(k, cluster, MasqOutside, false)
		}
	}
	var outside []Key
	for _, ip := range b.external {
		outside = append(outside, Key{ip, proto, uint16(port.Port)})
	}
	if port.NodePort != 0 {
		outside = append(outside, Key{netip.IPv4Unspecified(), proto, uint16(port.NodePort)})
	}
	for _, k := range outside {
		if !etpLocal {
			b.front(k, cluster, MasqAlways, false)
			continue
		}
		b.front(k, local, Plain, len(everywhere) > 0)
		if len(cluster.Slots) > 0 {
			b.part.Frontends = append(b.part.Frontends, Frontend{Key: k, Group: cluster.ID,
				Class: classOf(len(cluster.Slots), cluster.Affinity), Mode: Plain, Internal: true})
		}
	}
}

// front adds a frontend. If its group is empty it is refused, or dropped if
// other nodes serve it.
func (b *builder) front(k Key, g Group, m Mode, elsewhere bool) {
	if len(g.Slots) == 0 {
		if m = Reject; elsewhere {
			m = Drop
		}
	}
	b.part.Frontends = append(b.part.Frontends, Frontend{Key: k, Group: g.ID, Class: classOf(len(g.Slots), g.Affinity), Mode: m})
}

func (b *builder) group(port *corev1.ServicePort, ends []Endpoint, local bool) Group {
	g := Group{ID: groupID(keyOf(b.s.Namespace, b.s.Name), port.Name, port.Protocol, local), Affinity: b.affinity}
	if len(ends) > maxSlots {
		b.part.Problems = append(b.part.Problems, fmt.Sprintf("port %q has %d endpoints, %d are used", port.Name, len(ends), maxSlots))
		ends = ends[:maxSlots]
	}
	g.Slots = assign(b.prior(g), ends)
	if len(g.Slots) > 0 {
		b.part.Groups = append(b.part.Groups, g)
	}
	return g
}

// endpoints returns those that serve a port: of the whole cluster, and of this
// node. Each list holds the ready ones, or, if there are none, those that are
// terminating but still serve (KEP-1669).
func (b *builder) endpoints(port *corev1.ServicePort, all map[string]*discoveryv1.EndpointSlice) (everywhere, here []Endpoint) {
	var ready, readyHere, ending, endingHere []Endpoint
	for _, s := range all {
		number, ok := slicePort(s, port)
		if !ok {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			ip, err := netip.ParseAddr(e.Addresses[0])
			if err != nil {
				continue
			}
			to, isHere := Endpoint{ip, number}, e.NodeName != nil && *e.NodeName == b.c.Node
			isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
			serving := isReady
			if e.Conditions.Serving != nil {
				serving = *e.Conditions.Serving
			}
			switch {
			case isReady:
				ready = append(ready, to)
				if isHere {
					readyHere = append(readyHere, to)
				}
			case serving && e.Conditions.Terminating != nil && *e.Conditions.Terminating:
				ending = append(ending, to)
				if isHere {
					endingHere = append(endingHere, to)
				}
			default:
				continue
			}
			if isHere && !slices.Contains(b.part.Hairpin, ip) {
				b.part.Hairpin = append(b.part.Hairpin, ip)
			}
		}
	}
	return choose(ready, ending), choose(readyHere, endingHere)
}

func choose(ready, ending []Endpoint) []Endpoint {
	if len(ready) == 0 {
		ready = ending
	}
	slices.SortFunc(ready, func(a, b Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(ready)
}

// slicePort finds the port of a slice that a service port leads to: the one of its name.
func slicePort(s *discoveryv1.EndpointSlice, port *corev1.ServicePort) (uint16, bool) {
	if s.AddressType != discoveryv1.AddressTypeIPv4 {
		return 0, false
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if name == port.Name && p.Port != nil && proto == cmp.Or(port.Protocol, corev1.ProtocolTCP) {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// assign gives every endpoint a slot, 0 to len(want)-1. Those that had one
// below that keep it; the others fill the holes in order.
func assign(had, want []Endpoint) []Endpoint {
	if len(want) == 0 {
		return nil
	}
	out := make([]Endpoint, len(want))
	wanted := make(map[Endpoint]bool, len(want))
	for _, e := range want {
		wanted[e] = true
	}
	for i, e := range had {
		if i < len(out) && wanted[e] {
			out[i] = e
			delete(wanted, e)
		}
	}
	next := 0
	for _, e := range want {
		if !wanted[e] {
			continue
		}
		for out[next].Addr.IsValid() {
			next++
		}
		out[next] = e
	}
	return out
}

// BuildHostPorts returns what the host ports of one pod need.
func BuildHostPorts(name string, pod netip.Addr, ports []HostPort) *Part {
	part := &Part{Hairpin: []netip.Addr{pod}}
	for _, h := range ports {
		proto, ok := protocolNumber(h.Protocol)
		if !ok || h.HostPort == 0 || h.PodPort == 0 {
			part.Problems = append(part.Problems, fmt.Sprintf("host port %d/%s to port %d cannot be made", h.HostPort, h.Protocol, h.PodPort))
			continue
		}
		ip := netip.IPv4Unspecified()
		if h.HostIP.Is4() {
			ip = h.HostIP
		}
		g := Group{ID: groupID(name, fmt.Sprint(ip, h.HostPort), h.Protocol, true), Slots: []Endpoint{{pod, h.PodPort}}}
		part.Groups = append(part.Groups, g)
		part.Frontends = append(part.Frontends, Frontend{Key: Key{ip, proto, h.HostPort}, Group: g.ID, Class: classOf(1, 0)})
	}
	return part
}
