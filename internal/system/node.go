package system

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/apiserver/access"
	"proa/internal/bundle"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/cgroups"
	"proa/internal/node/containerd"
	"proa/internal/node/cri"
	"proa/internal/node/steps"
	"proa/internal/node/volumes"
	"proa/internal/proxy"
	"proa/internal/registry"
)

// A machine is the container side of this node, which comes up while the
// control plane does.
type machine struct {
	ready chan struct{} // closed when rt or err is there
	rt    *cri.Real
	sup   *containerd.Supervisor // nil if the runtime is somebody else's
	err   error
}

// startMachine looks at the kernel, and begins to bring up the runtime.
func (s *system) startMachine(ctx context.Context) (*machine, error) {
	findings := steps.Check(steps.Machine{NFT: proxy.Probe}, s.Places.Root)
	if err := steps.Fatal(findings); err != nil {
		return nil, err
	}
	for _, f := range findings {
		s.Say("Note: %v", f)
	}
	m := &machine{ready: make(chan struct{})}
	s.parts.Go(func() {
		defer close(m.ready)
		m.err = s.runtime(ctx, m)
	})
	return m, nil
}

// runtime connects to the runtime: its own containerd, with the registry that
// this asks first, or one of the machine.
func (s *system) runtime(ctx context.Context, m *machine) (err error) {
	socket := s.RuntimeEndpoint
	if socket == "" {
		if m.sup, err = s.ownContainerd(ctx); err != nil {
			return err
		}
		socket = s.Places.Socket()
	}
	// Of what runs before this proa asks for anything, somebody before it was the owner.
	var before map[int]string
	if m.sup != nil {
		if before, err = containerd.Shims(socket); err != nil {
			return err
		}
	}
	if m.rt, err = cri.Dial(socket); err == nil {
		s.parts.Go(func() { s.endStrays(ctx, m.rt, before) })
	}
	return err
}

func (s *system) ownContainerd(ctx context.Context) (*containerd.Supervisor, error) {
	bin, err := programs(ctx, s.Places)
	if err != nil {
		return nil, err
	}
	if err := s.startRegistry(ctx, bin); err != nil {
		return nil, err
	}
	return containerd.Start(ctx, containerdConfig(s.Places, bin), s.Log)
}

// programs returns the folder of the bundle's programs, unpacking it if need be.
func programs(ctx context.Context, p Places) (string, error) {
	bin, err := bundle.Unpack(ctx, p.Root)
	if errors.Is(err, bundle.ErrAbsent) {
		return "", fmt.Errorf("%w; build it with 'make build', name a runtime of this machine with --container-runtime-endpoint, or try --pretend", err)
	}
	return bin, err
}

func containerdConfig(p Places, bin string) containerd.Config {
	dir := filepath.Join(p.Root, "containerd")
	return containerd.Config{
		Bin: bin, Dir: dir, State: filepath.Join(p.Run, "containerd"), Socket: p.Socket(),
		SandboxImage: bundle.SandboxImage, Certs: filepath.Join(dir, "certs.d"),
		CNIConf: p.CNIConf(), CNIBin: []string{bin},
	}
}

// startRegistry serves the node's own images on loopback.
func (s *system) startRegistry(ctx context.Context, bin string) error {
	r, err := registry.New(s.Places.Registry(), s.Log)
	if err != nil {
		return err
	}
	images, err := bundle.Images(bin)
	if err != nil {
		return err
	}
	for _, file := range images {
		if _, err := r.Load(ctx, file); err != nil {
			return fmt.Errorf("load %s: %w", filepath.Base(file), err)
		}
	}
	l, err := s.listen("127.0.0.1", s.Ports.Registry, "the node's image registry")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 32 * time.Second, IdleTimeout: 90 * time.Second}
	s.part(ctx, "the registry", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { shutdown(server) })()
		return server.Serve(l)
	})
	return registry.WriteHosts(filepath.Join(s.Places.Root, "containerd", "certs.d"), l.Addr().String())
}

// startNode starts the agent, and the node's network as soon as the node has a
// range of addresses.
func (s *system) startNode(ctx context.Context, p *plane, m *machine) error {
	select {
	case <-m.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.err != nil {
		return fmt.Errorf("container runtime: %w", m.err)
	}
	if m.sup != nil {
		s.parts.Go(func() { <-ctx.Done(); m.sup.Leave() })
		s.Say("Container runtime answers%s", map[bool]string{true: "; it was running", false: ""}[m.sup.Adopted()])
	}
	tree, err := cgroups.Open("/sys/fs/cgroup", s.Places.Cgroup())
	if err != nil {
		return err
	}
	machine := node.ReadMachine(s.Places.Root)
	handler := p.asNode(s.id.NodeName)
	vols := volumes.New(volumes.Options{Handler: handler, Log: s.Log, Allocatable: machine.Allocatable(0)})
	var network atomic.Bool
	agent, err := s.startAgent(ctx, p, node.Config{
		Name: s.id.NodeName, Runtime: m.rt, RootDir: s.Places.Node(), Machine: machine,
		Measure:    node.Gauge(s.Places.Root, m.rt),
		Used:       node.Consumption(s.now),
		Steps:      steps.Real(tree, vols),
		Port:       int32(s.Ports.Node),
		ClusterDNS: []string{s.dnsAddress().String()},
		ResolvConf: resolvConf(),
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: s.address.String()},
			{Type: corev1.NodeHostName, Address: s.id.NodeName},
		},
		NetworkReady: func() (bool, string) { return network.Load(), "the node's network is being set up" },
	}, vols.Close)
	if err != nil {
		return err
	}
	if err := s.serveNode(ctx, p, p.agents.get(s.id.NodeName)); err != nil {
		return err
	}
	cidr, err := s.awaitRange(ctx, p)
	if err != nil {
		return err
	}
	if s.id.NodeRange != cidr {
		s.id.NodeRange = cidr
		if err := s.id.save(s.Places); err != nil {
			return err
		}
	}
	if err := s.startNetwork(ctx, p, cidr, m); err != nil {
		return err
	}
	network.Store(true)
	agent.NetworkChanged()
	return nil
}

// awaitRange returns the range of pod addresses that the node was given.
func (s *system) awaitRange(ctx context.Context, p *plane) (netip.Prefix, error) {
	fail := func(err error) { s.Log.Warn("The node cannot be followed", "err", err) }
	for c := range core.Node.Follow(ctx, p.Server, "", api.WithField("metadata.name", s.id.NodeName), fail) {
		all := c.All
		if c.Object != nil {
			all = append(all, c.Object)
		}
		for _, n := range all {
			if n.Spec.PodCIDR != "" {
				return netip.ParsePrefix(n.Spec.PodCIDR)
			}
		}
	}
	return netip.Prefix{}, ctx.Err()
}

// dnsAddress is where pods ask for names: by convention the tenth service address.
func (s *system) dnsAddress() netip.Addr { return nth(s.id.ServiceCIDR, 10) }

// asNode is the API as a node sees it: a node of this process is judged like any other.
func (p *plane) asNode(name string) api.Handler {
	user := api.User{Name: "system:node:" + name, Groups: []string{api.GroupNodes, api.GroupAuthenticated}}
	return api.As(user, access.Authorize(p.Server, p.authorizer))
}

// systemdResolvConf lists the servers behind systemd-resolved's stub.
const systemdResolvConf = "/run/systemd/resolve/resolv.conf"

// resolvConf is the file with the name servers that pods with dnsPolicy Default
// get: not the one that names a stub on loopback, which no pod can reach.
func resolvConf() string {
	const usual = "/etc/resolv.conf"
	servers, err := nameServers(usual)
	if err != nil || len(servers) == 0 {
		return usual
	}
	for _, a := range servers {
		if !a.IsLoopback() {
			return usual
		}
	}
	if _, err := os.Stat(systemdResolvConf); err == nil {
		return systemdResolvConf
	}
	return usual
}
