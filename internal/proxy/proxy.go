// Package proxy makes the addresses and ports of Services lead to their
// endpoints, with nftables over netlink and no other program.
//
// A pure function turns one Service and its EndpointSlices into a [Part]: the
// entries that it needs in a few kernel maps. A thin part keeps the maps equal
// to the union of the parts, entry by entry, so that a change costs as much as
// the Service it touches is large, however many others there are. The chains are
// fixed but for one small chain for each distinct number of endpoints.
//
//	frontends  address . protocol . port  →  group . class . mode
//	endpoints  group . slot               →  address . port
//	classes    class                      →  goto the chain that draws a slot
//
// A new connection looks up its frontend, goes to the chain of the class, which
// draws one of so many slots and looks up the endpoint. Packets of an
// established connection pass none of this: conntrack remembers. See table.go
// for the chains.
//
// The port of a node (nodePort, hostPort) is a frontend with the unspecified
// address; it answers on every address of the node, 127.0.0.1 included.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Config is what a proxy needs to know. Node and PodCIDRs are required.
type Config struct {
	Log *slog.Logger

	Table    string         // name of the nftables table; default "proa"
	Node     string         // name of this node, for endpoints that are local
	PodCIDRs []netip.Prefix // the whole cluster's pod ranges: inside them addresses are not masqueraded
	Services []netip.Prefix // service ranges: what no Service claims in them is rejected
	PodLinks string         // prefix of the names of the pods' interfaces on this node, such as "proa0-"
	Local    []netip.Addr   // service addresses that this node answers itself, such as that of the cluster's DNS
}

func (c *Config) setDefaults() {
	if c.Table == "" {
		c.Table = "proa"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// A Proxy keeps the rules of this node. Give it objects with SetServices and
// SetSlices, or by [Proxy.Follow].
type Proxy struct {
	c     Config
	log   *slog.Logger
	ready chan struct{}

	mu    sync.Mutex
	want  wanted
	wake  chan struct{}
	check bool // something else changed the kernel's rules

	blocked string // see Blocked
}

// New returns a proxy that has not touched the kernel.
func New(c Config) (*Proxy, error) {
	c.setDefaults()
	if c.Node == "" || len(c.PodCIDRs) == 0 {
		return nil, errors.New("proxy: the name of the node and the pod ranges are required")
	}
	for _, p := range append(append([]netip.Prefix{}, c.PodCIDRs...), c.Services...) {
		if !p.IsValid() {
			return nil, fmt.Errorf("proxy: %v is not a range of addresses", p)
		}
	}
	return &Proxy{c: c, log: c.Log, ready: make(chan struct{}), wake: make(chan struct{}, 1), want: newWanted()}, nil
}

// Ready is closed when the kernel has the rules of the first complete state.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// wanted is the state of the cluster, and what of it changed since the last apply.
type wanted struct {
	services map[string]*corev1.Service // by namespace/name
	slices   map[string]map[string]*discoveryv1.EndpointSlice
	ports    map[string]hostPorts // by sandbox
	dirty    map[string]bool      // keys of services, or "hostport/" + sandbox
	synced   uint8                // bit 0: services, bit 1: slices
}

const allSynced = 3

func newWanted() wanted {
	return wanted{
		services: map[string]*corev1.Service{},
		slices:   map[string]map[string]*discoveryv1.EndpointSlice{},
		ports:    map[string]hostPorts{},
		dirty:    map[string]bool{},
	}
}

// hostPorts are the ports of the node that lead to a pod.
type hostPorts struct {
	pod   netip.Addr
	ports []HostPort
}

// A HostPort is a port of the node that leads to a port of a pod.
type HostPort struct {
	HostIP   netip.Addr // not valid, or unspecified: every address of the node
	HostPort uint16
	PodPort  uint16
	Protocol corev1.Protocol
}

func (p *Proxy) changed(f func(w *wanted)) {
	p.mu.Lock()
	f(&p.want)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// SetHostPorts replaces the host ports of a pod, named by its sandbox; with
// none they are removed. It returns at once.
func (p *Proxy) SetHostPorts(sandbox string, pod netip.Addr, ports []HostPort) {
	p.changed(func(w *wanted) {
		if len(ports) == 0 {
			delete(w.ports, sandbox)
		} else {
			w.ports[sandbox] = hostPorts{pod, ports}
		}
		w.dirty[hostPortKey+sandbox] = true
	})
}

const hostPortKey = "hostport/"

func keyOf(ns, name string) string { return ns + "/" + name }

// SetServices replaces all Services.
func (p *Proxy) SetServices(all []*corev1.Service) {
	p.changed(func(w *wanted) {
		old := w.services
		w.services = make(map[string]*corev1.Service, len(all))
		for _, s := range all {
			key := keyOf(s.Namespace, s.Name)
			w.services[key] = s
			if o := old[key]; o == nil || o.ResourceVersion != s.ResourceVersion || o.UID != s.UID || s.ResourceVersion == "" {
				w.dirty[key] = true
			}
			delete(old, key)
		}
		for key := range old {
			w.dirty[key] = true
		}
		w.synced |= 1
	})
}

// SetService adds or replaces a Service.
func (p *Proxy) SetService(s *corev1.Service) {
	p.changed(func(w *wanted) {
		key := keyOf(s.Namespace, s.Name)
		w.services[key] = s
		w.dirty[key] = true
	})
}

// DeleteService removes a Service.
func (p *Proxy) DeleteService(ns, name string) {
	p.changed(func(w *wanted) {
		delete(w.services, keyOf(ns, name))
		w.dirty[keyOf(ns, name)] = true
	})
}

// serviceOf names the Service that a slice belongs to, "" if none.
func serviceOf(s *discoveryv1.EndpointSlice) string {
	name := s.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return ""
	}
	return keyOf(s.Namespace, name)
}

// SetSlices replaces all EndpointSlices.
func (p *Proxy) SetSlices(all []*discoveryv1.EndpointSlice) {
	p.changed(func(w *wanted) {
		for key := range w.slices {
			w.dirty[key] = true
		}
		w.slices = map[string]map[string]*discoveryv1.EndpointSlice{}
		for _, s := range all {
			w.addSlice(s)
		}
		w.synced |= 2
	})
}

func (w *wanted) addSlice(s *discoveryv1.EndpointSlice) {
	key := serviceOf(s)
	if key == "" {
		return
	}
	if w.slices[key] == nil {
		w.slices[key] = map[string]*discoveryv1.EndpointSlice{}
	}
	w.slices[key][s.Name] = s
	w.dirty[key] = true
}

func (w *wanted) dropSlice(key, name string) {
	if w.slices[key][name] == nil {
		return
	}
	delete(w.slices[key], name)
	if len(w.slices[key]) == 0 {
		delete(w.slices, key)
	}
	w.dirty[key] = true
}

// SetSlice adds or replaces an EndpointSlice. Its Service may have changed:
// old is what it was before, nil if unknown.
func (p *Proxy) SetSlice(s, old *discoveryv1.EndpointSlice) {
	p.changed(func(w *wanted) {
		if old != nil && serviceOf(old) != serviceOf(s) {
			w.dropSlice(serviceOf(old), old.Name)
		}
		w.addSlice(s)
	})
}

// DeleteSlice removes an EndpointSlice.
func (p *Proxy) DeleteSlice(s *discoveryv1.EndpointSlice) {
	p.changed(func(w *wanted) { w.dropSlice(serviceOf(s), s.Name) })
}

// Run applies the state to the kernel whenever it changes, until ctx ends;
// then the rules stay as they are. Nothing is applied before both Services and
// slices are there, so that a restart takes nothing away. A change that fails
// is tried again with growing pauses, from what the kernel then really has.
func (p *Proxy) Run(ctx context.Context) error {
	t, err := openTable(p.c)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer t.close()
	cleaner := newFlowCleaner(p.log)
	defer cleaner.stop()
	watch, err := watchRules(p.c.Table, func() {
		p.mu.Lock()
		p.check = true
		p.mu.Unlock()
		p.changed(func(*wanted) {})
	})
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer watch.stop()

	a := &applier{p: p, table: t, parts: map[string]*Part{}, cleaner: cleaner, check: true}
	var retry <-chan time.Time
	for pause := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			if retry != nil {
				continue // the pause is not over
			}
		case <-retry:
		}
		retry = nil
		if err := a.apply(); err != nil {
			pause = min(max(2*pause, 10*time.Millisecond), 5*time.Second)
			p.log.Warn("The service rules could not be applied, trying again", "err", err, "in", pause)
			retry = time.After(pause)
			continue
		}
		pause = 0
	}
}

// applier brings the kernel to what is wanted, one round after another.
type applier struct {
	p       *Proxy
	table   *table
	parts   map[string]*Part
	claims  claims
	cleaner *flowCleaner
	loaded  bool
	check   bool
	dirty   map[string]bool // not applied yet
	foreign string          // what was last said about other people's rules
}

// apply takes everything that changed and changes the kernel in as few
// transactions as possible.
func (a *applier) apply() error {
	parts, ok := a.take()
	if !ok {
		return nil
	}
	if !a.loaded {
		if err := a.load(); err != nil {
			return err
		}
		parts = a.rebuildAll(parts)
	}
	var stale []staleFlow
	for key, part := range parts {
		old := a.parts[key]
		a.claims.replace(key, old, part)
		stale = append(stale, staleFlows(old, part)...)
		if part == nil {
			delete(a.parts, key)
		} else {
			a.parts[key] = part
			for _, problem := range part.Problems {
				a.p.log.Warn("A service is only partly served", "service", key, "problem", problem)
			}
		}
	}
	if err := a.table.write(&a.claims); err != nil {
		a.loaded = false // read again what the kernel has
		return err
	}
	a.dirty = nil
	a.cleaner.add(stale)
	if a.check {
		a.check = false
		a.openForeign()
	}
	select {
	case <-a.p.ready:
	default:
		close(a.p.ready)
	}
	return nil
}

// take builds the parts of everything that changed. It reports false while
// the first complete state has not arrived.
func (a *applier) take() (map[string]*Part, bool) {
	p := a.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.want.synced != allSynced {
		return nil, false
	}
	if p.check {
		a.check, p.check = true, false
		a.loaded = a.loaded && a.table.intact()
	}
	if a.dirty == nil {
		a.dirty = p.want.dirty
	} else {
		for k := range p.want.dirty {
			a.dirty[k] = true
		}
	}
	p.want.dirty = map[string]bool{}
	parts := make(map[string]*Part, len(a.dirty))
	for key := range a.dirty {
		parts[key] = a.build(key)
	}
	return parts, true
}

func (a *applier) build(key string) *Part {
	w := &a.p.want
	prior := func(g Group) []Endpoint { return a.slots(key, g) }
	if len(key) > len(hostPortKey) && key[:len(hostPortKey)] == hostPortKey {
		h, ok := w.ports[key[len(hostPortKey):]]
		if !ok {
			return nil
		}
		return BuildHostPorts(key, h.pod, h.ports)
	}
	s := w.services[key]
	if s == nil {
		return nil
	}
	return Build(s, w.slices[key], &a.p.c, prior)
}

// slots returns the order in which a group's endpoints are now.
func (a *applier) slots(key string, g Group) []Endpoint {
	if old := a.parts[key]; old != nil {
		for _, o := range old.Groups {
			if o.ID == g.ID {
				return o.Slots
			}
		}
	}
	return nil
}

// load reads the kernel's maps, making them if they are not there, and starts over from them.
func (a *applier) load() error {
	if err := a.table.load(); err != nil {
		return err
	}
	a.claims = newClaims()
	a.parts = map[string]*Part{}
	a.loaded = true
	return nil
}

// rebuildAll makes every part anew, keeping the order of endpoints that the kernel has.
func (a *applier) rebuildAll(dirty map[string]*Part) map[string]*Part {
	p := a.p
	p.mu.Lock()
	defer p.mu.Unlock()
	prior := func(g Group) []Endpoint { return a.table.slots(g.ID) }
	parts := make(map[string]*Part, len(p.want.services))
	for key := range dirty {
		parts[key] = nil
	}
	for key, s := range p.want.services {
		parts[key] = Build(s, p.want.slices[key], &p.c, prior)
	}
	for sandbox, h := range p.want.ports {
		parts[hostPortKey+sandbox] = BuildHostPorts(hostPortKey+sandbox, h.pod, h.ports)
	}
	return parts
}

// openForeign makes way for pods in other people's filters, and says what cannot be helped.
func (a *applier) openForeign() {
	said, err := openForeign(&a.p.c, a.p.log)
	blocked := ""
	if err != nil {
		blocked, said = err.Error(), err.Error()
		if said != a.foreign {
			a.p.log.Error("Another firewall on this machine drops the traffic of pods", "err", err)
		}
	}
	if said != a.foreign && strings.HasSuffix(said, legacy) {
		a.p.log.Warn("The old iptables has a filter table here, which cannot be changed without its program: " +
			"if its FORWARD chain drops, pods are cut off until it accepts their range")
	}
	a.foreign = said
	a.p.mu.Lock()
	a.p.blocked = blocked
	a.p.mu.Unlock()
}

// Blocked says, once the proxy is ready, why pods cannot reach each other or
// the outside although the rules are right: another firewall drops their
// traffic and does not let itself be changed. It is empty if that is not so.
func (p *Proxy) Blocked() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.blocked
}
