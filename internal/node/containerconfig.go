package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
)

// containerConfig is a container as the runtime wants to know it. Its errors are
// for users.
func (a *Agent) containerConfig(ctx context.Context, pod *corev1.Pod, c *corev1.Container, attempt uint32, img *v1.Image, run *Run, s *sandbox) (*v1.ContainerConfig, error) {
	ips := s.ips
	if pod.Spec.HostNetwork {
		ips = a.hostIPs
	}
	env, err := a.env(ctx, pod, c, ips)
	if err != nil {
		return nil, err
	}
	sec, err := a.containerSecurity(pod, c, img)
	if err != nil {
		return nil, err
	}
	lookup := expander(env)
	command, args := expandAll(c.Command, lookup), expandAll(c.Args, lookup)
	mounts, err := a.mounts(pod, c, run, s, lookup)
	if err != nil {
		return nil, err
	}
	name, _ := tagged(c.Image)
	cfg := &v1.ContainerConfig{
		Metadata:   &v1.ContainerMetadata{Name: c.Name, Attempt: attempt},
		Image:      &v1.ImageSpec{Image: img.Id, UserSpecifiedImage: name},
		Command:    command,
		Args:       args,
		WorkingDir: c.WorkingDir,
		Mounts:     mounts,
		Labels: map[string]string{cri.LabelPodName: pod.Name, cri.LabelPodNamespace: pod.Namespace,
			cri.LabelPodUID: string(pod.UID), cri.LabelContainerName: c.Name},
		Annotations: map[string]string{
			cri.AnnotationHash:         hash(c),
			cri.AnnotationRestartCount: strconv.Itoa(int(attempt)),
			cri.AnnotationMessagePath:  c.TerminationMessagePath,
			cri.AnnotationMessagePol:   string(c.TerminationMessagePolicy),
			cri.AnnotationGrace:        strconv.FormatInt(int64(grace(pod).Seconds()), 10),
		},
		LogPath:   filepath.Join(c.Name, strconv.Itoa(int(attempt))+".log"),
		Stdin:     c.Stdin,
		StdinOnce: c.StdinOnce,
		Tty:       c.TTY,
		Linux:     &v1.LinuxContainerConfig{Resources: a.containerResources(pod, c), SecurityContext: sec},
	}
	for _, e := range env {
		cfg.Envs = append(cfg.Envs, &v1.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	if a.RootDir != "" && !a.Bare {
		if err := os.MkdirAll(filepath.Join(a.logDir(pod), c.Name), 0o755); err != nil {
			return nil, err
		}
		m, err := a.messageMount(c, run, attempt)
		if err != nil {
			return nil, err
		}
		if m != nil {
			cfg.Mounts = append(cfg.Mounts, m)
		}
	}
	return cfg, nil
}

// aim lets an ephemeral container see the processes of the container that it names.
func aim(cfg *v1.ContainerConfig, e *corev1.EphemeralContainer, target string) error {
	if e == nil || e.TargetContainerName == "" {
		return nil
	}
	if target == "" {
		return fmt.Errorf("unable to find target container %s", e.TargetContainerName)
	}
	if o := cfg.Linux.SecurityContext.NamespaceOptions; o.Pid == v1.NamespaceMode_CONTAINER {
		o.Pid, o.TargetId = v1.NamespaceMode_TARGET, target
	}
	return nil
}

// messageFile is where a container's termination message is on the host.
func messageFile(dir, name string, attempt uint32) string {
	return filepath.Join(dir, "containers", name, strconv.Itoa(int(attempt))+".message")
}

// messageMount makes the file that a container may leave its last words in.
func (a *Agent) messageMount(c *corev1.Container, run *Run, attempt uint32) (*v1.Mount, error) {
	if c.TerminationMessagePath == "" || run.Dir == "" {
		return nil, nil
	}
	path := messageFile(run.Dir, c.Name, attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	f.Close()
	// Whoever the container runs as must be able to write, whatever the umask.
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, err
	}
	return &v1.Mount{HostPath: path, ContainerPath: c.TerminationMessagePath}, nil
}

// mounts are the container's volumes and its /etc/hosts.
func (a *Agent) mounts(pod *corev1.Pod, c *corev1.Container, run *Run, s *sandbox, lookup func(string) (string, bool)) (out []*v1.Mount, err error) {
	hosts := false
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		vol, ok := run.Volumes[m.Name]
		if !ok {
			if a.RootDir == "" {
				continue // a pretend node has no volumes
			}
			return nil, fmt.Errorf("volume %q of mount %q is not there", m.Name, m.MountPath)
		}
		hosts = hosts || filepath.Clean(m.MountPath) == "/etc/hosts"
		path := vol.Path
		if sub, err := subPath(m, lookup); err != nil {
			return nil, err
		} else if sub != "" {
			if path, err = openSubPath(vol, sub); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
			}
		}
		target := m.MountPath
		if !filepath.IsAbs(target) {
			target = "/" + target
		}
		out = append(out, &v1.Mount{ContainerPath: target, HostPath: path, Readonly: m.ReadOnly || vol.ReadOnly,
			RecursiveReadOnly: m.ReadOnly && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled,
			Propagation:       propagation(m.MountPropagation)})
	}
	if hosts || run.Dir == "" {
		return out, nil
	}
	path, err := a.hostsFile(pod, run, s)
	if err != nil {
		return nil, err
	}
	return append(out, &v1.Mount{ContainerPath: "/etc/hosts", HostPath: path,
		Readonly: c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem}), nil
}

func propagation(p *corev1.MountPropagationMode) v1.MountPropagation {
	if p != nil {
		switch *p {
		case corev1.MountPropagationBidirectional:
			return v1.MountPropagation_PROPAGATION_BIDIRECTIONAL
		case corev1.MountPropagationHostToContainer:
			return v1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}
	}
	return v1.MountPropagation_PROPAGATION_PRIVATE
}

func subPath(m *corev1.VolumeMount, lookup func(string) (string, bool)) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		missing := ""
		sub = expand(m.SubPathExpr, func(name string) (string, bool) {
			v, ok := lookup(name)
			if !ok {
				missing = name
			}
			return v, ok
		})
		if missing != "" {
			return "", fmt.Errorf("missing value for %q", missing)
		}
	}
	if sub == "" {
		return "", nil
	}
	if filepath.IsAbs(sub) || !filepath.IsLocal(sub) {
		return "", fmt.Errorf("subPath %q must be a relative path without '..'", sub)
	}
	return sub, nil
}

// openSubPath returns the host path of a part of a volume, made as a folder if it
// is not there. Links inside the volume must not lead out of it.
func openSubPath(vol Volume, sub string) (string, error) {
	base, err := filepath.EvalSymlinks(vol.Path)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if _, err := root.Stat(sub); os.IsNotExist(err) {
		if err := root.MkdirAll(sub, 0o750); err != nil {
			return "", err
		}
		if st, err := os.Stat(base); err == nil {
			_ = root.Chmod(sub, st.Mode().Perm()|st.Mode()&os.ModeSetgid)
			chownLike(root, sub, st)
		}
	} else if err != nil {
		return "", err
	}
	path, err := filepath.EvalSymlinks(filepath.Join(base, sub))
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(base, path); err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("subpath %q not within volume path", sub)
	}
	return path, nil
}

// hostsFile writes the pod's /etc/hosts and returns its path.
func (a *Agent) hostsFile(pod *corev1.Pod, run *Run, s *sandbox) (string, error) {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		if text, err := os.ReadFile("/etc/hosts"); err == nil {
			b.Write(text)
		}
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		host, full := a.hostname(pod)
		for _, ip := range s.ips {
			if full != "" && full != host {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, full, host)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, al := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", al.IP, strings.Join(al.Hostnames, "\t"))
		}
	}
	path := filepath.Join(run.Dir, "etc-hosts")
	// Written in place: containers that run have this very file mounted.
	if have, err := os.ReadFile(path); err == nil && string(have) == b.String() {
		return path, nil
	}
	return path, os.WriteFile(path, []byte(b.String()), 0o644)
}

// containerResources are a container's limits and shares.
func (a *Agent) containerResources(pod *corev1.Pod, c *corev1.Container) *v1.LinuxContainerResources {
	r := a.resources(&c.Resources)
	r.OomScoreAdj = oomScore(pod, c, a.Machine.Memory)
	return r
}

// cpuPeriod is how often the kernel hands out a CPU quota, in µs.
const cpuPeriod = 100_000

// resources turns requests and limits into what the kernel is told.
func (a *Agent) resources(r *corev1.ResourceRequirements) *v1.LinuxContainerResources {
	out := &v1.LinuxContainerResources{CpuPeriod: cpuPeriod}
	req, lim := r.Requests[corev1.ResourceCPU], r.Limits[corev1.ResourceCPU]
	if req.IsZero() && !lim.IsZero() {
		req = lim
	}
	out.CpuShares = CPUShares(req.MilliValue())
	if !lim.IsZero() && !a.NoCPULimits {
		out.CpuQuota = CPUQuota(lim.MilliValue())
	}
	mem := r.Limits[corev1.ResourceMemory]
	out.MemoryLimitInBytes = mem.Value()
	return out
}

// CPUShares are the cgroup v1 cpu.shares for a request in thousandths of a CPU.
func CPUShares(milli int64) int64 {
	if milli == 0 {
		return 2
	}
	return min(max(milli*1024/1000, 2), 262144)
}

// CPUQuota is the µs of CPU in every 100 ms for a limit in thousandths of a CPU.
func CPUQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cpuPeriod/1000, 1000)
}

// oomScore is whom the kernel is to kill first when memory runs out: those who
// use more than they asked for, relative to the machine.
func oomScore(pod *corev1.Pod, c *corev1.Container, memory int64) int64 {
	switch {
	case pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical, qos(pod) == corev1.PodQOSGuaranteed:
		return -997
	case qos(pod) == corev1.PodQOSBestEffort || memory <= 0:
		return 1000
	}
	req := c.Resources.Requests[corev1.ResourceMemory]
	score := 1000 - 1000*req.Value()/memory
	return min(max(score, 3), 999)
}
