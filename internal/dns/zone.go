package dns

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A name is what the zone knows about one name. It is never changed, only replaced.
type name struct {
	a, aaaa []netip.Addr
	srv     []srv
	cname   string // of an ExternalName service, with the final dot
	txt     string
}

type srv struct {
	port   uint16
	target string // with the final dot
}

// zone holds every name of the cluster.
type zone struct {
	domain string // "cluster.local"
	wire   string // the same in wire form
	serial uint32

	mu       sync.RWMutex
	complete bool
	names    map[string]*name           // by wire form, lower case
	inner    map[string]int             // names that exist because others are below: how many
	reverse  map[netip.Addr][]string    // PTR targets, one for each owner
	spaces   map[string]bool            // namespaces
	services map[string]*corev1.Service // by namespace/name
	slices   map[string]map[string]*discoveryv1.EndpointSlice
	owner    map[string]string  // the service of each slice
	owned    map[string]records // what a service put there
}

// records is what one service needs in the zone.
type records struct {
	names   map[string]*name // by wire form
	reverse map[netip.Addr]string
}

func newZone(domain string, listen []netip.AddrPort) *zone {
	z := &zone{domain: domain, serial: uint32(time.Now().Unix()), names: map[string]*name{}, inner: map[string]int{}, reverse: map[netip.Addr][]string{},
		spaces: map[string]bool{}, services: map[string]*corev1.Service{},
		slices: map[string]map[string]*discoveryv1.EndpointSlice{}, owner: map[string]string{}, owned: map[string]records{}}
	z.wire, _ = wireName(domain)
	ns := &name{}
	for _, l := range listen {
		if l.Addr().Is4() {
			ns.a = append(ns.a, l.Addr())
		} else {
			ns.aaaa = append(ns.aaaa, l.Addr())
		}
	}
	z.add(map[string]*name{z.child("dns-version"): {txt: "1.1.0"}, z.child("ns.dns"): ns})
	z.inner[z.child("svc")]++
	z.inner[z.child("pod")]++
	return z
}

// child returns the wire form of a name below the zone.
func (z *zone) child(s string) string {
	w, _ := wireName(s + "." + z.domain)
	return w
}

// open declares the zone complete: what it does not know does not exist.
func (z *zone) open() {
	z.mu.Lock()
	z.complete = true
	z.mu.Unlock()
}

// wireName returns a name in wire form and lower case, without the root label
// of its end left out. It reports false if it is none.
func wireName(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "\x00", true
	}
	var b strings.Builder
	b.Grow(len(s) + 2)
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "", false
		}
		b.WriteByte(byte(len(label)))
		b.WriteString(strings.ToLower(label))
	}
	b.WriteByte(0)
	return b.String(), b.Len() <= 255
}

// parent cuts the first label off a wire name.
func parent(w string) string { return w[1+int(w[0]):] }

func (z *zone) add(names map[string]*name) {
	for w, n := range names {
		z.names[w] = n
		for p := parent(w); len(p) > len(z.wire); p = parent(p) {
			z.inner[p]++
		}
	}
}

func (z *zone) remove(names map[string]*name) {
	for w := range names {
		delete(z.names, w)
		for p := parent(w); len(p) > len(z.wire); p = parent(p) {
			if z.inner[p]--; z.inner[p] == 0 {
				delete(z.inner, p)
			}
		}
	}
}

// update makes the records of a service anew. z.mu is held.
func (z *zone) update(key string) {
	old, had := z.owned[key]
	new := z.recordsOf(z.services[key], z.slices[key])
	if had {
		z.remove(old.names)
		for ip, target := range old.reverse {
			z.reverse[ip] = without(z.reverse[ip], target)
			if len(z.reverse[ip]) == 0 {
				delete(z.reverse, ip)
			}
		}
		delete(z.owned, key)
	}
	if len(new.names) == 0 {
		return
	}
	z.add(new.names)
	for ip, target := range new.reverse {
		z.reverse[ip] = append(z.reverse[ip][:len(z.reverse[ip]):len(z.reverse[ip])], target)
	}
	z.owned[key] = new
}

func without(list []string, s string) (out []string) {
	dropped := false
	for _, e := range list {
		if e == s && !dropped {
			dropped = true
			continue
		}
		out = append(out, e)
	}
	return out
}

// recordsOf is the Kubernetes DNS specification, section 2.3 to 2.5.
func (z *zone) recordsOf(s *corev1.Service, slices map[string]*discoveryv1.EndpointSlice) records {
	r := records{names: map[string]*name{}, reverse: map[netip.Addr]string{}}
	if s == nil {
		return r
	}
	host := s.Name + "." + s.Namespace + ".svc." + z.domain + "."
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		if s.Spec.ExternalName != "" {
			r.at(host).cname = dns.Fqdn(strings.ToLower(s.Spec.ExternalName))
		}
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		r.at(host)
		for _, sl := range slices {
			r.headless(host, sl)
		}
	case s.Spec.ClusterIP != "":
		r.clusterIP(host, s)
	}
	return r
}

// at returns the record of a name, made if it is not there. A name that cannot
// be written leads to a record that nobody sees.
func (r *records) at(fqdn string) *name {
	w, ok := wireName(fqdn)
	if !ok {
		return &name{}
	}
	n := r.names[w]
	if n == nil {
		n = &name{}
		r.names[w] = n
	}
	return n
}

func (n *name) addr(ip netip.Addr) {
	list := &n.aaaa
	if ip.Is4() {
		list = &n.a
	}
	for _, have := range *list {
		if have == ip {
			return
		}
	}
	*list = append(*list, ip)
}

func (r *records) clusterIP(host string, s *corev1.Service) {
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	n := r.at(host)
	for _, text := range ips {
		if ip, err := netip.ParseAddr(text); err == nil {
			n.addr(ip)
			r.reverse[ip] = host
		}
	}
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			sn := r.at(srvName(p.Name, p.Protocol, host))
			sn.srv = append(sn.srv, srv{uint16(p.Port), host})
		}
	}
}

func srvName(port string, proto corev1.Protocol, host string) string {
	if proto == "" {
		proto = corev1.ProtocolTCP
	}
	return "_" + port + "._" + strings.ToLower(string(proto)) + "." + host
}

// headless adds the ready endpoints of a slice. A service that publishes
// addresses that are not ready has slices that call them ready.
func (r *records) headless(host string, s *discoveryv1.EndpointSlice) {
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		for _, text := range e.Addresses {
			ip, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			own, named := strings.NewReplacer(".", "-", ":", "-").Replace(ip.String()), false
			if e.Hostname != nil && *e.Hostname != "" {
				own, named = *e.Hostname, true
			}
			target := own + "." + host
			r.at(host).addr(ip)
			r.at(target).addr(ip)
			if _, taken := r.reverse[ip]; named || !taken {
				r.reverse[ip] = target
			}
			for _, p := range s.Ports {
				if p.Name == nil || *p.Name == "" || p.Port == nil {
					continue
				}
				proto := corev1.ProtocolTCP
				if p.Protocol != nil {
					proto = *p.Protocol
				}
				r.at(srvName(*p.Name, proto, host)).addSRV(srv{uint16(*p.Port), target})
			}
		}
	}
}

func (n *name) addSRV(s srv) {
	for _, have := range n.srv {
		if have == s {
			return
		}
	}
	n.srv = append(n.srv, s)
}

// found is the outcome of a look-up.
type found int

const (
	foreign found = iota // not in the zone
	unknown              // in the zone, which is not complete yet
	missing
	exists // and has what the name says, which may be nothing
)

// lookup finds a name, in wire form and lower case. It allocates nothing
// unless the name is that of a pod's address.
func (z *zone) lookup(w []byte) (*name, found) {
	if !below(w, z.wire) {
		return nil, foreign
	}
	z.mu.RLock()
	defer z.mu.RUnlock()
	if n := z.names[string(w)]; n != nil {
		return n, exists
	}
	if !z.complete {
		return nil, unknown
	}
	if len(w) == len(z.wire) || z.inner[string(w)] > 0 {
		return nothing, exists
	}
	labels := z.labels(w)
	switch {
	case len(labels) == 2 && (labels[1] == "svc" || labels[1] == "pod") && z.spaces[labels[0]]:
		return nothing, exists
	case len(labels) == 3 && labels[2] == "pod" && z.spaces[labels[1]]:
		if ip, ok := podAddr(labels[0]); ok {
			n := &name{}
			n.addr(ip)
			return n, exists
		}
	}
	return nil, missing
}

var nothing = &name{}

// below reports whether w is the zone or a name in it.
func below(w []byte, zone string) bool {
	cut := len(w) - len(zone)
	if cut < 0 || string(w[cut:]) != zone {
		return false
	}
	at := 0
	for at < cut {
		at += 1 + int(w[at])
	}
	return at == cut
}

// labels returns up to 4 labels of a name before the zone.
func (z *zone) labels(w []byte) (out []string) {
	for end := len(w) - len(z.wire); end > 0 && len(out) < 4; {
		l := int(w[0])
		out = append(out, string(w[1:1+l]))
		w, end = w[1+l:], end-1-l
	}
	return out
}

// podAddr reads "10-42-0-7", and "fd00--7" for IPv6.
func podAddr(s string) (netip.Addr, bool) {
	sep := ":"
	if strings.Count(s, "-") == 3 && !strings.Contains(s, "--") {
		sep = "."
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(s, "-", sep))
	return ip, err == nil && ip.Zone() == ""
}

// pointers returns the targets of an address.
func (z *zone) pointers(ip netip.Addr) []string {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return z.reverse[ip]
}
