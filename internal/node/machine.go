package node

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A Machine is what a node has. The zero value has nothing.
type Machine struct {
	MilliCPU int64 // thousandths of a CPU
	Memory   int64 // bytes
	Storage  int64 // bytes of the file system that holds the pods; 0: not told
	Reserved corev1.ResourceList

	Info corev1.NodeSystemInfo // without what the agent and the runtime know themselves
}

// ReadMachine looks at the machine. Pods' data will be in dir.
func ReadMachine(dir string) Machine {
	m := Machine{MilliCPU: int64(runtime.NumCPU()) * 1000}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		m.Memory = int64(si.Totalram) * int64(si.Unit)
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		m.Storage = int64(fs.Blocks) * fs.Bsize
	}
	var un unix.Utsname
	if unix.Uname(&un) == nil {
		m.Info.KernelVersion = unix.ByteSliceToString(un.Release[:])
	}
	read := func(paths ...string) string {
		for _, p := range paths {
			if b, err := os.ReadFile(p); err == nil {
				return strings.TrimSpace(string(b))
			}
		}
		return ""
	}
	m.Info.BootID = read("/proc/sys/kernel/random/boot_id")
	m.Info.MachineID = read("/etc/machine-id", "/var/lib/dbus/machine-id")
	m.Info.SystemUUID = read("/sys/class/dmi/id/product_uuid", "/etc/machine-id")
	m.Info.OSImage = osName(read("/etc/os-release", "/usr/lib/os-release"))
	return m
}

func osName(text string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

// Capacity is the machine in the API's terms.
func (m *Machine) Capacity(pods int64) corev1.ResourceList {
	out := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(m.MilliCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(m.Memory, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(pods, resource.DecimalSI),
		"hugepages-1Gi":       *resource.NewQuantity(0, resource.DecimalSI),
		"hugepages-2Mi":       *resource.NewQuantity(0, resource.DecimalSI),
	}
	if m.Storage > 0 {
		out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(m.Storage, resource.BinarySI)
	}
	return out
}

// Allocatable is what pods may use: the capacity without what is reserved.
func (m *Machine) Allocatable(pods int64) corev1.ResourceList {
	out := m.Capacity(pods)
	for name, r := range m.Reserved {
		if q, ok := out[name]; ok {
			if q.Sub(r); q.Sign() < 0 {
				q = *resource.NewQuantity(0, q.Format)
			}
			out[name] = q
		}
	}
	return out
}
