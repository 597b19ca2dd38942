package node

import (
	"context"
	"fmt"
	"io"
	"strings"
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

// Summary implements kubeletapi.Agent, from the runtime's own figures.
func (a *Agent) Summary(ctx context.Context) (*kubeletapi.Summary, error) {
	list, err := a.Runtime.ListContainerStats(ctx)
	if err != nil {
		return nil, err
	}
	out := &kubeletapi.Summary{Node: kubeletapi.NodeStats{NodeName: a.Name}, Pods: []kubeletapi.PodStats{}}
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
		cs := kubeletapi.ContainerStats{Name: l[cri.LabelContainerName], CPU: cpuStats(s.Cpu), Memory: memoryStats(s.Memory)}
		if w := s.GetWritableLayer(); w != nil {
			cs.Rootfs = &kubeletapi.FSStats{Time: metav1.NewTime(time.Unix(0, w.Timestamp)), UsedBytes: value(w.UsedBytes), InodesUsed: value(w.InodesUsed)}
		}
		out.Pods[i].Containers = append(out.Pods[i].Containers, cs)
	}
	return out, nil
}

// Metrics implements kubeletapi.Agent: what metrics-server reads, and how many
// pods and containers there are.
func (a *Agent) Metrics(ctx context.Context, which string, w io.Writer) error {
	switch which {
	case "resource":
		return a.resourceMetrics(ctx, w)
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

func (a *Agent) resourceMetrics(ctx context.Context, w io.Writer) error {
	list, err := a.Runtime.ListContainerStats(ctx)
	if err != nil {
		return err
	}
	var cpu, mem strings.Builder
	for _, s := range list {
		l := s.GetAttributes().GetLabels()
		labels := fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", l[cri.LabelContainerName], l[cri.LabelPodNamespace], l[cri.LabelPodName])
		if c := s.GetCpu(); c.GetUsageCoreNanoSeconds() != nil {
			fmt.Fprintf(&cpu, "container_cpu_usage_seconds_total%s %g %d\n", labels, float64(c.UsageCoreNanoSeconds.Value)/1e9, c.Timestamp/1e6)
		}
		if m := s.GetMemory(); m.GetWorkingSetBytes() != nil {
			fmt.Fprintf(&mem, "container_memory_working_set_bytes%s %d %d\n", labels, m.WorkingSetBytes.Value, m.Timestamp/1e6)
		}
	}
	_, err = fmt.Fprintf(w, "# HELP container_cpu_usage_seconds_total CPU time used by the container.\n# TYPE container_cpu_usage_seconds_total counter\n%s"+
		"# HELP container_memory_working_set_bytes Working set of the container.\n# TYPE container_memory_working_set_bytes gauge\n%s", cpu.String(), mem.String())
	return err
}
