package system

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/dns"
	"proa/internal/node/cri"
	"proa/internal/overlay"
	"proa/internal/proxy"
)

// startNetwork connects the node: pod network, service addresses, names.
func (s *system) startNetwork(ctx context.Context, p *plane, cidr netip.Prefix, m *machine) error {
	px, err := proxy.New(proxy.Config{
		Log: s.Log, Table: s.Places.Table(), Node: s.id.NodeName,
		PodCIDRs: []netip.Prefix{s.id.PodCIDR}, Services: []netip.Prefix{s.id.ServiceCIDR},
		PodLinks: s.Places.Device() + "-", Local: []netip.Addr{s.dnsAddress()},
	})
	if err != nil {
		return err
	}
	net, err := overlay.New(s.overlayConfig(cidr, px))
	if err != nil {
		return err
	}
	if err := net.Start(); err != nil {
		return err
	}
	s.releaseGone(ctx, net, m.rt)
	s.part(ctx, "the pod network", func(ctx context.Context) error {
		defer net.Close()
		return net.Serve(ctx)
	})

	handler := api.As(api.User{Name: "system:kube-proxy", Groups: []string{api.GroupAuthenticated}}, p.Server)
	s.part(ctx, "the service proxy", func(ctx context.Context) error { return proxy.Run(ctx, handler, px) })
	names, err := dns.New(dns.Config{Log: s.Log, Listen: []netip.AddrPort{netip.AddrPortFrom(s.dnsAddress(), 53)}, Zone: s.id.Domain})
	if err != nil {
		return err
	}
	s.part(ctx, "DNS", func(ctx context.Context) error { return dns.Run(ctx, handler, names) })
	for _, x := range []struct {
		name  string
		ready <-chan struct{}
	}{{"pod network", net.Ready()}, {"service proxy", px.Ready()}, {"DNS", names.Ready()}} {
		select {
		case <-x.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if why := px.Blocked(); why != "" {
		s.Say("Warning: %s", why)
	}
	s.Say("Network is up: pods %v, services %v, DNS at %v", cidr, s.id.ServiceCIDR, s.dnsAddress())
	return nil
}

func (s *system) overlayConfig(cidr netip.Prefix, px *proxy.Proxy) overlay.Config {
	c := overlay.Config{
		Log: s.Log, Device: s.Places.Device(), PodCIDR: cidr, Dir: s.Places.Network(), Socket: s.Places.CNISocket(),
		Services: []netip.Prefix{s.id.ServiceCIDR}, Local: []netip.Addr{s.dnsAddress()}, ConfDir: s.Places.CNIConf(),
	}
	if px != nil {
		c.Ports = func(sandbox string, pod netip.Addr, ports []overlay.HostPort) error {
			list, err := proxyPorts(ports)
			if err == nil {
				px.SetHostPorts(sandbox, pod, list)
			}
			return err
		}
	}
	return c
}

// releaseGone gives back the addresses of sandboxes that ended while nobody looked.
func (s *system) releaseGone(ctx context.Context, n *overlay.Network, rt *cri.Real) {
	asOf := time.Now()
	list, err := rt.ListSandboxes(ctx, nil)
	if err != nil {
		s.Log.Warn("Sandboxes cannot be listed: no address is released", "err", err)
		return
	}
	live := map[string]bool{}
	for _, sb := range list {
		live[sb.Id] = true
	}
	if err := n.Release(asOf, live); err != nil {
		s.Log.Warn("An address cannot be released", "err", err)
	}
}

// nameServers reads the servers of a resolv.conf.
func nameServers(file string) (out []netip.Addr, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		if len(w) < 2 || w[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(w[1])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, a)
	}
	return out, lines.Err()
}

func proxyPorts(in []overlay.HostPort) (out []proxy.HostPort, err error) {
	for _, x := range in {
		h := proxy.HostPort{HostPort: uint16(x.HostPort), PodPort: uint16(x.ContainerPort), Protocol: corev1.Protocol(strings.ToUpper(x.Protocol))}
		if x.HostIP != "" {
			if h.HostIP, err = netip.ParseAddr(x.HostIP); err != nil {
				return nil, fmt.Errorf("hostIP of host port %d: %w", x.HostPort, err)
			}
		}
		out = append(out, h)
	}
	return out, nil
}
