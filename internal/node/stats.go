package node

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/kubeletapi"
	"proa/internal/node/cri"
)

func value(v *v1.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func cpuStats(c *v1.CpuUsage) *kubeletapi.CPUStats {
	if c == nil {
		return nil
	}
	return &kubeletapi.CPUStats{Time: metav1.NewTime(time.Unix(0, c.Timestamp)), UsageNanoCores: value(c.UsageNanoCores),
		UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds)}
}

func memoryStats(m *v1.MemoryUsage) *kubeletapi.MemoryStats {
	if m == nil {
		return nil
	}
	return &kubeletapi.MemoryStats{Time: metav1.NewTime(time.Unix(0, m.Timestamp)), AvailableBytes: value(m.AvailableBytes), UsageBytes: value(m.UsageBytes),
		WorkingSetBytes: value(m.WorkingSetBytes), RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults)}
}

// containerStats are the runtime's figures, and when the containers were created, by their IDs.
func (a *Agent) containerStats(ctx context.Context) (list []*v1.ContainerStats, began map[string]time.Time, err error) {
	if list, err = a.Runtime.ListContainerStats(ctx); err == nil {
		began, err = a.began.of(ctx, a.Runtime, list)
	}
	return list, began, err
}

// Summary implements kubeletapi.Agent, from the runtime's own figures.
func (a *Agent) Summary(ctx context.Context) (*kubeletapi.Summary, error) {
	list, began, err := a.containerStats(ctx)
	if err != nil {
		return nil, err
	}
	out := &kubeletapi.Summary{Node: a.nodeStats(), Pods: []kubeletapi.PodStats{}}
	byUID := map[string]int{}
	for _, s := range list {
		l := s.GetAttributes().GetLabels()
		uid := l[cri.LabelPodUID]
		i, ok := byUID[uid]
		if !ok {
			i = len(out.Pods)
			byUID[uid] = i
			out.Pods = append(out.Pods, kubeletapi.PodStats{PodRef: kubeletapi.PodReference{Name: l[cri.LabelPodName], Namespace: l[cri.LabelPodNamespace], UID: uid}})
		}
		cs := kubeletapi.ContainerStats{Name: l[cri.LabelContainerName], StartTime: metav1.NewTime(began[s.GetAttributes().GetId()]), CPU: cpuStats(s.Cpu), Memory: memoryStats(s.Memory)}
		if w := s.GetWritableLayer(); w != nil {
			cs.Rootfs = &kubeletapi.FSStats{Time: metav1.NewTime(time.Unix(0, w.Timestamp)), UsedBytes: value(w.UsedBytes), InodesUsed: value(w.InodesUsed)}
		}
		out.Pods[i].Containers = append(out.Pods[i].Containers, cs)
	}
	return out, nil
}

// nodeStats is what the node itself has used.
func (a *Agent) nodeStats() kubeletapi.NodeStats {
	out := kubeletapi.NodeStats{NodeName: a.Name}
	if a.Used == nil {
		return out
	}
	if u, err := a.Used(); err == nil {
		at := metav1.NewTime(u.Time)
		out.CPU = &kubeletapi.CPUStats{Time: at, UsageCoreNanoSeconds: &u.CPU}
		out.Memory = &kubeletapi.MemoryStats{Time: at, WorkingSetBytes: &u.Memory}
	}
	return out
}

// Resources implements kubeletapi.Agent.
func (a *Agent) Resources(ctx context.Context) (*kubeletapi.Resources, error) {
	list, began, err := a.containerStats(ctx)
	if err != nil {
		return nil, err
	}
	out := &kubeletapi.Resources{Containers: make([]kubeletapi.ContainerUse, 0, len(list))}
	if a.Used != nil {
		if out.Node, err = a.Used(); err != nil {
			a.Log.Warn("the node's use of resources cannot be measured", "err", err)
			out.Node = kubeletapi.Use{}
		}
	}
	for _, s := range list {
		at := began[s.GetAttributes().GetId()]
		cpu, memory := s.GetCpu().GetUsageCoreNanoSeconds(), s.GetMemory().GetWorkingSetBytes()
		if at.IsZero() || cpu == nil || memory == nil {
			continue // it does not run
		}
		l := s.Attributes.Labels
		out.Containers = append(out.Containers, kubeletapi.ContainerUse{
			Namespace: l[cri.LabelPodNamespace], Pod: l[cri.LabelPodName], Container: l[cri.LabelContainerName], Began: at,
			Use: kubeletapi.Use{Time: time.Unix(0, s.Cpu.Timestamp), CPU: cpu.Value, Memory: memory.Value}})
	}
	return out, nil
}

// births knows when containers were created, by their IDs. The runtime is asked
// again only when there is a container that is not known; those that are gone
// are forgotten then.
type births struct {
	mu sync.Mutex
	by map[string]time.Time
}

// of is the births of the containers in a list, and maybe of others. It is not
// changed any more.
func (b *births) of(ctx context.Context, r cri.Containers, list []*v1.ContainerStats) (map[string]time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := func(s *v1.ContainerStats) bool { return !b.by[s.GetAttributes().GetId()].IsZero() }
	if !slices.ContainsFunc(list, func(s *v1.ContainerStats) bool { return !known(s) }) {
		return b.by, nil
	}
	all, err := r.ListContainers(ctx, nil)
	if err != nil {
		return nil, err
	}
	now := make(map[string]time.Time, len(list))
	for _, s := range list {
		now[s.GetAttributes().GetId()] = time.Time{}
	}
	for _, c := range all {
		if _, ok := now[c.Id]; ok {
			now[c.Id] = time.Unix(0, c.CreatedAt)
		}
	}
	b.by = now
	return now, nil
}

// Metrics implements kubeletapi.Agent: what metrics-server reads, and how many
// pods and containers there are.
func (a *Agent) Metrics(ctx context.Context, which string, w io.Writer) error {
	switch which {
	case "resource":
		r, err := a.Resources(ctx)
		if err != nil {
			return err
		}
		return r.Write(w)
	case "cadvisor", "probes":
		return nil
	case "":
	default:
		return kubeletapi.NotFound("no such metrics: %q", which)
	}
	phases := map[corev1.PodPhase]int{}
	for _, p := range a.list() {
		phases[p.Status.Phase]++
	}
	fmt.Fprintf(w, "# HELP kubelet_active_pods Pods that the node knows.\n# TYPE kubelet_active_pods gauge\n")
	for phase, n := range phases {
		fmt.Fprintf(w, "kubelet_active_pods{phase=%q} %d\n", phase, n)
	}
	fmt.Fprintf(w, "# HELP kubelet_node_name The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\nkubelet_node_name{node=%q} 1\n", a.Name)
	return nil
}
