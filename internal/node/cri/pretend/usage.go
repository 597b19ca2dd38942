package pretend

import (
	"context"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a container uses that is not told: little.
const (
	idleMilliCPU = 1
	idleMemory   = 16 << 20
)

// What a pretend node uses besides its containers.
const (
	nodeMilliCPU = 20
	nodeMemory   = 128 << 20
)

// use is the processor time that a running container has used, in nanoseconds,
// and its memory in bytes, by its script.
func (c *container) use(r *Runtime) (cpu, memory uint64) {
	if c.state != v1.ContainerState_CONTAINER_RUNNING {
		return 0, 0
	}
	has := c.config.GetLinux().GetResources()
	milli, memory := c.script.cpu, c.script.memory
	if milli == 0 {
		milli = max(idleMilliCPU, uint64(max(has.GetCpuShares(), 0))*1000/1024/2)
	}
	if memory == 0 {
		memory = idleMemory
		if limit := has.GetMemoryLimitInBytes(); limit > 0 {
			memory = uint64(limit) / 2
		}
	}
	return over(milli, c.age(r)), memory
}

// over is what thousandths of a processor come to in a time, in nanoseconds.
func over(milli uint64, d time.Duration) uint64 { return uint64(max(d, 0)) / 1000 * milli }

// Used is the processor time that the pretended node has used since it was made,
// in nanoseconds, and its memory in bytes.
func (r *Runtime) Used() (cpu, memory uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cpu, memory = r.spent+over(nodeMilliCPU, time.Duration(r.now()-r.began)), nodeMemory
	for _, c := range r.containers {
		busy, held := c.use(r)
		cpu, memory = cpu+busy, memory+held
	}
	return cpu, memory
}

// ListContainerStats implements cri.Runtime.
func (r *Runtime) ListContainerStats(context.Context) ([]*v1.ContainerStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fails("ListContainerStats"); err != nil {
		return nil, err
	}
	out := make([]*v1.ContainerStats, 0, len(r.containers))
	for _, c := range r.containers {
		s := &v1.ContainerStats{Attributes: &v1.ContainerAttributes{Id: c.id, Metadata: c.config.Metadata,
			Labels: c.config.Labels, Annotations: c.config.Annotations}}
		if c.state == v1.ContainerState_CONTAINER_RUNNING {
			cpu, memory := c.use(r)
			s.Cpu = &v1.CpuUsage{Timestamp: r.now(), UsageCoreNanoSeconds: &v1.UInt64Value{Value: cpu}}
			s.Memory = &v1.MemoryUsage{Timestamp: s.Cpu.Timestamp, UsageBytes: &v1.UInt64Value{Value: memory}, WorkingSetBytes: &v1.UInt64Value{Value: memory}}
		}
		out = append(out, s)
	}
	return out, nil
}
