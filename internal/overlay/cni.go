package overlay

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"proa/internal/host"
	"proa/internal/overlay/cniwire"
)

// netConf is what the network configuration may hold, as the runtime passes it.
type netConf struct {
	CNIVersion    string `json:"cniVersion"`
	Name          string `json:"name"`
	Type          string `json:"type"`
	RuntimeConfig struct {
		PortMappings []HostPort `json:"portMappings"`
	} `json:"runtimeConfig"`
	ValidAttachments *[]struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	} `json:"cni.dev/valid-attachments"`
}

// result is the success result of CNI 1.x.
type result struct {
	CNIVersion string      `json:"cniVersion"`
	Interfaces []iface     `json:"interfaces"`
	IPs        []ipConfig  `json:"ips"`
	Routes     []route     `json:"routes"`
	DNS        interface{} `json:"dns"`
}

type iface struct {
	Name    string `json:"name"`
	Mac     string `json:"mac"`
	Sandbox string `json:"sandbox,omitempty"`
}

type ipConfig struct {
	Address   string `json:"address"`
	Gateway   string `json:"gateway"`
	Interface int    `json:"interface"`
}

type route struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

// handle performs one call of the plugin.
func (n *Network) handle(ctx context.Context, q *cniwire.Request) (json.RawMessage, error) {
	var c netConf
	if err := json.Unmarshal(q.Config, &c); err != nil {
		return nil, cniwire.Errorf(cniwire.CodeDecode, "decode the configuration: %v", err)
	}
	if !slices.Contains(cniwire.Versions, c.CNIVersion) {
		return nil, cniwire.Errorf(cniwire.CodeIncompatible, "cniVersion %q is not one of %s", c.CNIVersion, strings.Join(cniwire.Versions, ", "))
	}
	switch q.Command {
	case cniwire.Status:
		return nil, nil
	case cniwire.GC:
		return nil, n.gc(&c)
	}
	if q.ContainerID == "" || q.IfName == "" {
		return nil, cniwire.Errorf(cniwire.CodeBadEnvironment, "CNI_CONTAINERID and CNI_IFNAME are required")
	}
	if len(q.IfName) > 15 || strings.ContainsAny(q.IfName, "/: \t\n") {
		return nil, cniwire.Errorf(cniwire.CodeBadEnvironment, "CNI_IFNAME %q is not an interface name", q.IfName)
	}
	done, err := n.hold(ctx, q.ContainerID)
	if err != nil {
		return nil, cniwire.Errorf(cniwire.CodeTryLater, "%v", err)
	}
	defer done()
	switch q.Command {
	case cniwire.Add:
		return n.add(q, &c)
	case cniwire.Del:
		return nil, n.disconnectHeld(q.ContainerID, q.IfName)
	case cniwire.Check:
		return nil, n.check(q)
	}
	return nil, cniwire.Errorf(cniwire.CodeBadEnvironment, "unknown command %q", q.Command)
}

func (n *Network) add(q *cniwire.Request, c *netConf) (json.RawMessage, error) {
	if q.Netns == "" {
		return nil, cniwire.Errorf(cniwire.CodeBadEnvironment, "CNI_NETNS is required")
	}
	start := time.Now()
	lease, err := n.leases.take(q.ContainerID, q.IfName, func(l *Lease) {
		l.Netns, l.Ports, l.Pod = q.Netns, hostPorts(c.RuntimeConfig.PortMappings), podOf(q.Args)
		l.HostLink = hostLink(n.c.Device, q.ContainerID, q.IfName)
	})
	if err != nil {
		return nil, cniwire.Errorf(cniwire.CodeTryLater, "%v", err)
	}
	hostMAC, podMAC := macOf(lease.Address, 'h'), macOf(lease.Address, 'p')
	err = n.kernel.connect(link{
		host: lease.HostLink, pod: q.IfName, netns: q.Netns, address: lease.Address,
		gateway: n.Gateway(), hostMAC: hostMAC, podMAC: podMAC, mtu: n.mtu,
	})
	if err == nil && n.c.Ports != nil && len(lease.Ports) > 0 {
		err = n.c.Ports(lease.Sandbox, lease.Address, lease.Ports)
	}
	if err != nil {
		// The runtime answers a failed ADD with a DEL, or not at all: leave nothing.
		if e := n.disconnectHeld(q.ContainerID, q.IfName); e != nil {
			n.log.Warn("A pod that failed to be connected could not be cleared away", "sandbox", q.ContainerID, "err", e)
		}
		return nil, err
	}
	n.log.Debug("Connected a pod", "pod", lease.Pod, "address", lease.Address, "took", time.Since(start))
	return json.Marshal(result{
		CNIVersion: c.CNIVersion,
		Interfaces: []iface{{Name: lease.HostLink, Mac: hostMAC.String()}, {Name: q.IfName, Mac: podMAC.String(), Sandbox: q.Netns}},
		IPs:        []ipConfig{{Address: netip.PrefixFrom(lease.Address, lease.Address.BitLen()).String(), Gateway: n.Gateway().String(), Interface: 1}},
		Routes:     []route{{Dst: "0.0.0.0/0", GW: n.Gateway().String()}},
		DNS:        struct{}{},
	})
}

// hostPorts leaves out ports that a container only mentions.
func hostPorts(all []HostPort) (out []HostPort) {
	for _, p := range all {
		if p.HostPort > 0 {
			p.Protocol = strings.ToLower(p.Protocol)
			out = append(out, p)
		}
	}
	return out
}

// disconnect removes a sandbox's interface and then ends its lease. Having
// neither is no error.
func (n *Network) disconnect(sandbox, ifName string) error {
	done, err := n.hold(context.Background(), sandbox)
	if err != nil {
		return err
	}
	defer done()
	return n.disconnectHeld(sandbox, ifName)
}

func (n *Network) disconnectHeld(sandbox, ifName string) error {
	lease := n.leases.get(sandbox, ifName)
	if lease != nil && n.c.Ports != nil && len(lease.Ports) > 0 {
		if err := n.c.Ports(sandbox, lease.Address, nil); err != nil {
			return err
		}
	}
	if err := n.kernel.disconnect(hostLink(n.c.Device, sandbox, ifName)); err != nil {
		return err
	}
	if lease == nil {
		return nil
	}
	return n.leases.release(lease)
}

func (n *Network) check(q *cniwire.Request) error {
	lease := n.leases.get(q.ContainerID, q.IfName)
	if lease == nil {
		return cniwire.Errorf(cniwire.CodeUnknown, "sandbox %s has no address", q.ContainerID)
	}
	return n.kernel.check(lease.HostLink, q.IfName, q.Netns, lease.Address)
}

func (n *Network) gc(c *netConf) error {
	if c.ValidAttachments == nil {
		return cniwire.Errorf(cniwire.CodeBadConfig, "GC without cni.dev/valid-attachments")
	}
	live := map[string]bool{}
	for _, a := range *c.ValidAttachments {
		live[a.ContainerID] = true
	}
	// The list is of some time before the call: what was connected lately may not be in it.
	return n.Release(time.Now().Add(-time.Minute), live)
}

// podOf takes the pod's name out of CNI_ARGS.
func podOf(args string) string {
	var ns, name string
	for _, kv := range strings.Split(args, ";") {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "K8S_POD_NAMESPACE":
			ns = v
		case "K8S_POD_NAME":
			name = v
		}
	}
	if name == "" {
		return ""
	}
	return ns + "/" + name
}

// hostLink names the node's end of a sandbox's link: always the same for the same sandbox.
func hostLink(device, sandbox, ifName string) string {
	sum := sha256.Sum256([]byte(sandbox + "\x00" + ifName))
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))
	return (device + "-" + hash)[:15]
}

const confName = "10-proa.conflist"

func confFile(dir string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, confName)
}

// conflist is a CNI network configuration list.
type conflist struct {
	CNIVersion string       `json:"cniVersion"`
	Name       string       `json:"name"`
	Plugins    []pluginConf `json:"plugins"`
}

type pluginConf struct {
	Type         string          `json:"type"`
	Socket       string          `json:"socket"`
	Capabilities map[string]bool `json:"capabilities"`
}

// PluginName is the file name of the plugin, cmd/proa-cni, in the runtime's plugin folder.
const PluginName = "proa-cni"

// writeConf writes the configuration last of all, because a runtime takes the
// network to be ready when it finds one.
func (n *Network) writeConf() error {
	body, err := json.MarshalIndent(conflist{
		// 1.0.0 and not 1.1.0: containerd 1.6 knows no later one.
		CNIVersion: "1.0.0", Name: "proa",
		Plugins: []pluginConf{{Type: PluginName, Socket: n.c.Socket, Capabilities: map[string]bool{"portMappings": true}}},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.c.ConfDir, 0o755); err != nil {
		return err
	}
	// A runtime watches the folder and takes every file that ends in .conf,
	// .conflist or .json: what WriteFile makes before it is whole does not.
	return host.WriteFile(confFile(n.c.ConfDir), append(body, '\n'), 0o600)
}
