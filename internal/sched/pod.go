package sched

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	schedhelpers "k8s.io/component-helpers/scheduling/corev1"
)

// A Pod is a pod with what is asked of it again and again.
type Pod struct {
	*corev1.Pod
	Req      Resources
	Scored   Resources // CPU and memory, with a small amount where nothing is asked for
	Ports    []HostPort
	Priority int32
	node     *Node // where it runs or is going to
}

// Resources are amounts of what nodes have and pods ask for.
type Resources struct {
	CPU       int64 // thousandths of a core
	Memory    int64 // bytes
	Ephemeral int64 // bytes
	Pods      int64
	Others    map[corev1.ResourceName]int64 // extended resources and huge pages
}

// What a pod without requests counts for in scores.
const (
	assumedCPU    = 100
	assumedMemory = 200 << 20
)

var assumed = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(assumedCPU, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(assumedMemory, resource.BinarySI),
}

// A HostPort is a port that a pod takes of its node. An address of "0.0.0.0" is every address.
type HostPort struct {
	IP       string
	Port     int32
	Protocol corev1.Protocol
}

// Clash says whether two pods can not both have theirs on one node.
func (h HostPort) Clash(o HostPort) bool {
	return h.Port == o.Port && h.Protocol == o.Protocol && (h.IP == o.IP || h.IP == anyAddress || o.IP == anyAddress)
}

const anyAddress = "0.0.0.0"

// NewPod works out what p asks for.
func NewPod(p *corev1.Pod) *Pod {
	out := &Pod{Pod: p, Priority: schedhelpers.PodPriority(p)}
	opts := helpers.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	out.Req = resourcesOf(helpers.PodRequests(p, opts))
	out.Req.Pods = 1
	if out.Scored = out.Req; out.Req.CPU == 0 || out.Req.Memory == 0 || len(p.Spec.Containers) > 1 {
		opts.NonMissingContainerRequests = assumed
		out.Scored = resourcesOf(helpers.PodRequests(p, opts))
	}
	ports := func(containers []corev1.Container, all bool) {
		for i := range containers {
			c := &containers[i]
			if !all && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
				continue
			}
			for _, port := range c.Ports {
				if port.HostPort > 0 {
					out.Ports = append(out.Ports, hostPort(port))
				}
			}
		}
	}
	ports(p.Spec.Containers, true)
	ports(p.Spec.InitContainers, false)
	return out
}

func hostPort(p corev1.ContainerPort) HostPort {
	h := HostPort{p.HostIP, p.HostPort, p.Protocol}
	if h.IP == "" {
		h.IP = anyAddress
	}
	if h.Protocol == "" {
		h.Protocol = corev1.ProtocolTCP
	}
	return h
}

func resourcesOf(list corev1.ResourceList) (r Resources) {
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.CPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.Ephemeral = q.Value()
		case corev1.ResourcePods:
			r.Pods = q.Value()
		default:
			if r.Others == nil {
				r.Others = map[corev1.ResourceName]int64{}
			}
			r.Others[name] = q.Value()
		}
	}
	return r
}

// add adds n times o.
func (r *Resources) add(o *Resources, n int64) {
	r.CPU += n * o.CPU
	r.Memory += n * o.Memory
	r.Ephemeral += n * o.Ephemeral
	r.Pods += n * o.Pods
	for name, v := range o.Others {
		if r.Others == nil {
			r.Others = map[corev1.ResourceName]int64{}
		}
		if r.Others[name] += n * v; r.Others[name] == 0 {
			delete(r.Others, name)
		}
	}
}
