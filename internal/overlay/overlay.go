// Package overlay is the pod network of a node: it gives every pod an address
// of the node's range and connects it. It answers the CNI plugin over a unix
// socket ([proa/internal/overlay/cniwire]).
//
// A pod gets a veth pair and a /32 address whose only neighbour is the node:
//
//	pod 10.42.0.7/32 ── eth0 ═══ proa0-k3j2… ── node: route 10.42.0.7 dev proa0-k3j2…
//	     default via 10.42.0.1                  proa0: 10.42.0.1/32, the services' route
//
// Every packet of a pod is thus routed by the node, and passes its service
// rules in both directions, with or without br_netfilter; pods cannot spoof
// each other's addresses (strict reverse path filter on each veth) nor see
// each other's ARP. The link-layer addresses are told to both sides, so that
// there is no ARP at all.
//
// Reaching pods of other nodes is a matter of routes to their ranges, added
// beside this: nothing here knows of them.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"proa/internal/overlay/cniwire"
)

// Config is what a pod network needs to know. Dir, Socket and PodCIDR are required.
type Config struct {
	Log *slog.Logger

	Device  string       // the node's interface in the pod network, at most 8 characters; default "proa0"
	PodCIDR netip.Prefix // this node's range
	Dir     string       // where the leases are kept
	Socket  string       // unix socket for the plugin

	Services []netip.Prefix // service ranges: routed to Device, so that they work without a default route
	Local    []netip.Addr   // further addresses of this node, such as that of the cluster's DNS
	MTU      int            // 0: that of the outgoing interface

	ConfDir string // where to write the CNI configuration; empty: nowhere

	// Ports is told the host ports of a pod after it was connected, and with
	// none before it is disconnected. May be nil.
	Ports func(sandbox string, pod netip.Addr, ports []HostPort) error
}

// maxDevice leaves room for "-" and 6 characters of a hash in an interface name of 15.
const maxDevice = 8

// A Network is the pod network of this node.
type Network struct {
	c      Config
	log    *slog.Logger
	mtu    int
	leases *leases
	kernel *kernel

	mu    sync.Mutex // one change of interfaces at a time for each sandbox
	busy  map[string]chan struct{}
	ready chan struct{}
	once  sync.Once // ready is closed
}

// New checks the configuration and reads the leases. It changes nothing in the kernel.
func New(c Config) (*Network, error) {
	if c.Device == "" {
		c.Device = "proa0"
	}
	if len(c.Device) > maxDevice {
		return nil, fmt.Errorf("pod network: interface name %q is longer than %d characters", c.Device, maxDevice)
	}
	if !c.PodCIDR.IsValid() || !c.PodCIDR.Addr().Is4() {
		return nil, fmt.Errorf("pod network: %v is not an IPv4 range", c.PodCIDR)
	}
	if c.PodCIDR.Bits() > 29 {
		return nil, fmt.Errorf("pod network: range %v is too small", c.PodCIDR)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	l, err := openLeases(c.Dir, c.PodCIDR)
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	return &Network{c: c, log: c.Log, leases: l, busy: map[string]chan struct{}{}, ready: make(chan struct{})}, nil
}

// Gateway is the node's own address in the pod network. It exists when Start has returned.
func (n *Network) Gateway() netip.Addr { return gatewayOf(n.c.PodCIDR) }

// Ready is closed when pods can be connected.
func (n *Network) Ready() <-chan struct{} { return n.ready }

// Start makes what the node itself needs: interface, addresses, routes and
// kernel settings, mends the routes of pods that are connected already, and
// writes the CNI configuration. It may be called again on what an earlier
// process left. It returns when pods can be connected by [Network.Serve].
func (n *Network) Start() error {
	k, err := openKernel(n.c.Device, n.log)
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	n.kernel = k
	if n.mtu = n.c.MTU; n.mtu == 0 {
		n.mtu = k.outgoingMTU()
	}
	if err := k.setNode(n.Gateway(), n.c.Local, n.c.Services); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	for _, lease := range n.leases.all() {
		if err := n.resume(lease); err != nil {
			n.log.Warn("A pod's connection could not be mended", "pod", lease.Pod, "address", lease.Address, "err", err)
		}
	}
	if n.c.ConfDir != "" {
		if err := n.writeConf(); err != nil {
			return fmt.Errorf("pod network: %w", err)
		}
	}
	n.log.Info("Pod network is up", "range", n.c.PodCIDR, "gateway", n.Gateway(), "mtu", n.mtu, "leases", len(n.leases.all()))
	return nil
}

func (n *Network) resume(l *Lease) error {
	if l.HostLink == "" {
		return nil
	}
	ok, err := n.kernel.mend(l.HostLink, l.Address, n.Gateway())
	if err != nil || !ok {
		return err
	}
	if n.c.Ports != nil && len(l.Ports) > 0 {
		return n.c.Ports(l.Sandbox, l.Address, l.Ports)
	}
	return nil
}

// Serve answers the plugin until ctx ends. Pods stay connected after that. It
// may be called again when it has failed.
func (n *Network) Serve(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(n.c.Socket), 0o700); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	// The leases are locked, so a socket that is there is of a process that is not.
	if err := os.Remove(n.c.Socket); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("pod network: %w", err)
	}
	l, err := net.Listen("unix", n.c.Socket)
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	if err := os.Chmod(n.c.Socket, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("pod network: %w", err)
	}
	mended, stop, err := n.keep()
	if err != nil {
		l.Close()
		return fmt.Errorf("pod network: %w", err)
	}
	defer func() {
		close(stop)
		<-mended
	}()
	n.once.Do(func() { close(n.ready) })
	return cniwire.Serve(ctx, l, n.handle)
}

// keep mends what others take away: network managers remove routes and
// interfaces that they did not make. Close stop, and it ends when done closes.
func (n *Network) keep() (done, stop chan struct{}, err error) {
	done, stop = make(chan struct{}), make(chan struct{})
	lost, err := n.kernel.watch(stop)
	if err != nil {
		return nil, nil, err
	}
	go func() {
		defer close(done)
		for dst := range lost {
			n.lost(dst)
		}
	}()
	return done, stop, nil
}

// lost mends what the route to dst was a part of, if it was ours: a pod's
// link, or the node's interface. With the latter's address the kernel also
// drops the pods' routes, and tells nobody.
func (n *Network) lost(dst netip.Prefix) {
	leases := n.leases.all()
	if i := slices.IndexFunc(leases, func(l *Lease) bool { return l.Address == dst.Addr() && dst.IsSingleIP() }); i >= 0 {
		leases = leases[i : i+1]
	} else {
		if dst.Addr() != n.Gateway() && !slices.Contains(n.c.Local, dst.Addr()) && !slices.Contains(n.c.Services, dst) {
			return
		}
		if err := n.kernel.setNode(n.Gateway(), n.c.Local, n.c.Services); err != nil {
			n.log.Error("The node's interface in the pod network could not be mended", "err", err)
		}
	}
	for _, l := range leases {
		if err := n.mend(l); err != nil {
			n.log.Error("A pod's connection could not be mended", "pod", l.Pod, "address", l.Address, "err", err)
		}
	}
}

// mend restores the node's end of a pod's link unless the pod is just being
// connected or disconnected.
func (n *Network) mend(l *Lease) error {
	done, err := n.hold(context.Background(), l.Sandbox)
	if err != nil {
		return err
	}
	defer done()
	if n.leases.get(l.Sandbox, l.IfName) != l || l.HostLink == "" {
		return nil
	}
	_, err = n.kernel.mend(l.HostLink, l.Address, n.Gateway())
	return err
}

// Release ends the leases of sandboxes that are gone: those that are not in
// live, a list made at the time asOf. Pods connected since are kept.
func (n *Network) Release(asOf time.Time, live map[string]bool) error {
	var errs []error
	for _, l := range n.leases.all() {
		if live[l.Sandbox] || l.born.After(asOf) {
			continue
		}
		n.log.Info("Released the address of a sandbox that is gone", "address", l.Address, "sandbox", l.Sandbox, "pod", l.Pod)
		errs = append(errs, n.disconnect(l.Sandbox, l.IfName))
	}
	return errors.Join(errs...)
}

// Close lets go of the lease folder. The network stays.
func (n *Network) Close() {
	n.leases.close()
	if n.kernel != nil {
		n.kernel.close()
	}
}

// Clean removes everything that a network of this configuration made:
// interfaces with their routes, leases, CNI configuration and socket. No
// process may be using it. The kernel settings (net.ipv4.ip_forward) stay,
// because others may have come to rely on them.
func Clean(c Config) error {
	if c.Device == "" {
		c.Device = "proa0"
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k, err := openKernel(c.Device, log)
	if err != nil {
		return err
	}
	defer k.close()
	errs := []error{k.clean(c.Local, c.PodCIDR)}
	errs = append(errs, os.RemoveAll(c.Dir))
	for _, f := range []string{c.Socket, confFile(c.ConfDir)} {
		if f == "" {
			continue
		}
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// hold waits until nobody else changes the sandbox, and returns the function
// that lets the next one in.
func (n *Network) hold(ctx context.Context, sandbox string) (func(), error) {
	for {
		n.mu.Lock()
		wait := n.busy[sandbox]
		if wait == nil {
			done := make(chan struct{})
			n.busy[sandbox] = done
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.busy, sandbox)
				n.mu.Unlock()
				close(done)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
