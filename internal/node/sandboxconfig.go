package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
)

// hash names the parts of a container that make it another one when they change.
func hash(c *corev1.Container) string {
	b, _ := json.Marshal([]string{c.Name, c.Image})
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

func podLabels(pod *corev1.Pod) map[string]string {
	out := maps.Clone(pod.Labels)
	if out == nil {
		out = map[string]string{}
	}
	out[cri.LabelPodName], out[cri.LabelPodNamespace], out[cri.LabelPodUID] = pod.Name, pod.Namespace, string(pod.UID)
	return out
}

// sandboxConfig is the pod as the runtime wants to know it.
func (a *Agent) sandboxConfig(run *Run, attempt uint32) (*v1.PodSandboxConfig, error) {
	pod := run.Pod
	host, _ := a.hostname(pod)
	dns, err := a.dns(pod)
	if err != nil {
		return nil, err
	}
	c := &v1.PodSandboxConfig{
		Metadata:     &v1.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Hostname:     host,
		LogDirectory: a.logDir(pod),
		DnsConfig:    dns,
		Labels:       podLabels(pod),
		Annotations:  maps.Clone(pod.Annotations),
		Linux: &v1.LinuxPodSandboxConfig{
			CgroupParent:    run.Cgroup,
			Sysctls:         map[string]string{},
			SecurityContext: sandboxSecurity(pod),
		},
	}
	if pod.Spec.HostNetwork {
		c.Hostname = ""
	}
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[cri.AnnotationGrace] = strconv.FormatInt(int64(grace(pod).Seconds()), 10)
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			c.Linux.Sysctls[s.Name] = s.Value
		}
	}
	if !pod.Spec.HostNetwork {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				for _, p := range list[i].Ports {
					c.PortMappings = append(c.PortMappings, &v1.PortMapping{Protocol: protocol(p.Protocol),
						ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP})
				}
			}
		}
	}
	all := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: podTotal(pod, corev1.ResourceCPU, requests), corev1.ResourceMemory: podTotal(pod, corev1.ResourceMemory, requests)},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: podTotal(pod, corev1.ResourceCPU, limits), corev1.ResourceMemory: podTotal(pod, corev1.ResourceMemory, limits)},
	}
	c.Linux.Resources = a.resources(&all)
	return c, nil
}

func protocol(p corev1.Protocol) v1.Protocol {
	switch p {
	case corev1.ProtocolUDP:
		return v1.Protocol_UDP
	case corev1.ProtocolSCTP:
		return v1.Protocol_SCTP
	}
	return v1.Protocol_TCP
}

func namespaces(pod *corev1.Pod) *v1.NamespaceOption {
	o := &v1.NamespaceOption{Network: v1.NamespaceMode_POD, Pid: v1.NamespaceMode_CONTAINER, Ipc: v1.NamespaceMode_POD}
	if pod.Spec.HostNetwork {
		o.Network = v1.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		o.Ipc = v1.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		o.Pid = v1.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		o.Pid = v1.NamespaceMode_POD
	}
	return o
}

func sandboxSecurity(pod *corev1.Pod) *v1.LinuxSandboxSecurityContext {
	out := &v1.LinuxSandboxSecurityContext{NamespaceOptions: namespaces(pod),
		Seccomp: &v1.SecurityProfile{ProfileType: v1.SecurityProfile_RuntimeDefault}}
	if out.NamespaceOptions.Pid == v1.NamespaceMode_CONTAINER {
		// Nothing can reach the sandbox's own process, which only waits: a filter for
		// it would guard nothing, and compiling one takes about 25 ms of every start.
		// Where containers see it they could make it act for them, and it is filtered.
		out.Seccomp.ProfileType = v1.SecurityProfile_Unconfined
	}
	privileged := func(sc *corev1.SecurityContext) {
		if sc != nil && is(sc.Privileged) {
			out.Privileged = true
			out.Seccomp = &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Unconfined}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			privileged(list[i].SecurityContext)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		privileged(pod.Spec.EphemeralContainers[i].SecurityContext)
	}
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return out
	}
	if sc.RunAsUser != nil {
		out.RunAsUser = &v1.Int64Value{Value: *sc.RunAsUser}
		if sc.RunAsGroup != nil {
			out.RunAsGroup = &v1.Int64Value{Value: *sc.RunAsGroup}
		}
	}
	out.SupplementalGroups = groups(sc)
	out.SupplementalGroupsPolicy = groupPolicy(sc)
	out.SelinuxOptions = selinux(sc.SELinuxOptions)
	return out
}

func groups(sc *corev1.PodSecurityContext) []int64 {
	out := slices.Clone(sc.SupplementalGroups)
	if sc.FSGroup != nil {
		out = append(out, *sc.FSGroup)
	}
	return out
}

func groupPolicy(sc *corev1.PodSecurityContext) v1.SupplementalGroupsPolicy {
	if sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return v1.SupplementalGroupsPolicy_Strict
	}
	return v1.SupplementalGroupsPolicy_Merge
}

func selinux(o *corev1.SELinuxOptions) *v1.SELinuxOption {
	if o == nil {
		return nil
	}
	return &v1.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// handler is the runtime handler of the pod's RuntimeClass. Classes are not kinds
// here yet: the one that every runtime has is the empty one.
func (a *Agent) handler(_ context.Context, pod *corev1.Pod) (string, error) {
	if n := pod.Spec.RuntimeClassName; n != nil && *n != "" {
		return "", &StepError{Reason: "FailedCreatePodSandBox",
			Message: fmt.Sprintf("Failed to create pod sandbox: runtimeclass.node.k8s.io %q not found", *n)}
	}
	return "", nil
}

// hostname returns the pod's host name, and its full one if it has a subdomain.
func (a *Agent) hostname(pod *corev1.Pod) (host, full string) {
	host = pod.Name
	if pod.Spec.Hostname != "" {
		host = pod.Spec.Hostname
	}
	if o := pod.Spec.HostnameOverride; o != nil {
		return *o, *o
	}
	if len(host) > 63 {
		host = strings.TrimRight(host[:63], "-.")
	}
	if pod.Spec.Subdomain != "" {
		full = strings.Join([]string{host, pod.Spec.Subdomain, pod.Namespace, "svc", a.Domain}, ".")
		if f := pod.Spec.SetHostnameAsFQDN; f != nil && *f {
			host = full
		}
	}
	return host, full
}

// dns is the pod's resolv.conf, by its policy.
func (a *Agent) dns(pod *corev1.Pod) (*v1.DNSConfig, error) {
	out := &v1.DNSConfig{}
	policy := pod.Spec.DNSPolicy
	cluster := policy == corev1.DNSClusterFirstWithHostNet || policy == corev1.DNSClusterFirst && !pod.Spec.HostNetwork || policy == ""
	host, err := a.hostDNS()
	if err != nil {
		return nil, err
	}
	switch {
	case policy == corev1.DNSNone:
	case cluster && len(a.ClusterDNS) > 0:
		out.Servers = slices.Clone(a.ClusterDNS)
		out.Searches = append([]string{pod.Namespace + ".svc." + a.Domain, "svc." + a.Domain, a.Domain}, host.Searches...)
		out.Options = []string{"ndots:5"}
	default:
		if out = host; !pod.Spec.HostNetwork {
			out.Servers = a.fromPod(host.Servers)
		}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		out.Servers = unique(append(out.Servers, c.Nameservers...))
		out.Searches = unique(append(out.Searches, c.Searches...))
		for _, o := range c.Options {
			out.Options = slices.DeleteFunc(out.Options, func(x string) bool { n, _, _ := strings.Cut(x, ":"); return n == o.Name })
			if text := o.Name; o.Value != nil && *o.Value != "" {
				out.Options = append(out.Options, text+":"+*o.Value)
			} else {
				out.Options = append(out.Options, text)
			}
		}
	}
	return out, nil
}

// fromPod leaves out name servers on the node's loopback (systemd-resolved,
// dnsmasq), which no pod can reach. If there is no other, the cluster's stands in
// for them: it is on the node, and asks them.
func (a *Agent) fromPod(servers []string) []string {
	rest := slices.DeleteFunc(slices.Clone(servers), func(s string) bool {
		ip, err := netip.ParseAddr(s)
		return err == nil && ip.IsLoopback()
	})
	switch {
	case len(rest) > 0:
		return rest
	case len(a.ClusterDNS) > 0:
		return slices.Clone(a.ClusterDNS)
	}
	return servers
}

func unique(in []string) (out []string) {
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// A resolver is the host's resolv.conf as it was last read.
type resolver struct {
	mu   sync.Mutex
	file os.FileInfo
	text string
}

// hostDNS is what the host's resolv.conf says. A host without one has no name servers.
func (a *Agent) hostDNS() (*v1.DNSConfig, error) {
	r := &a.resolv
	r.mu.Lock()
	defer r.mu.Unlock()
	now, err := os.Stat(a.ResolvConf)
	switch {
	case os.IsNotExist(err):
		return parseResolv(""), nil
	case err != nil:
		return nil, err
	case r.file != nil && os.SameFile(r.file, now) && r.file.ModTime().Equal(now.ModTime()) && r.file.Size() == now.Size():
		return parseResolv(r.text), nil
	}
	b, err := os.ReadFile(a.ResolvConf)
	if err != nil {
		return nil, err
	}
	r.file, r.text = now, string(b)
	return parseResolv(r.text), nil
}

// parseResolv reads resolv.conf(5).
func parseResolv(text string) *v1.DNSConfig {
	out := &v1.DNSConfig{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			out.Servers = append(out.Servers, f[1])
		case "search", "domain":
			out.Searches = nil
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				out.Searches = append(out.Searches, s)
			}
		case "options":
			out.Options = append(out.Options, f[1:]...)
		}
	}
	return out
}
