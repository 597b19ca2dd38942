package sched

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"
	schedhelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/storage/ephemeral"

	"proa/internal/kinds/podspec"
)

// A Pod is a pod with what is asked of it again and again.
type Pod struct {
	*corev1.Pod
	Req      Resources
	Scored   Resources // CPU and memory, with a small amount where nothing is asked for
	Ports    []HostPort
	Priority int32
	terms    *Terms
	group    string // key of its Group
	shape    string // key of what is shared with pods like it, once asked for
	shaped   bool
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
	out := &Pod{Pod: p, Priority: schedhelpers.PodPriority(p), group: groupKey(p)}
	opts := helpers.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	out.Req = resourcesOf(helpers.PodRequests(p, opts))
	out.Req.Pods = 1
	if out.Scored = out.Req; out.Req.CPU == 0 || out.Req.Memory == 0 || len(p.Spec.Containers) > 1 {
		opts.NonMissingContainerRequests = assumed
		out.Scored = resourcesOf(helpers.PodRequests(p, opts))
		out.Scored.Pods = 1
	}
	ports := func(containers []corev1.Container, all bool) {
		for i := range containers {
			c := &containers[i]
			if !all && !podspec.Sidecar(c) {
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

// Terms are what the pod says about being near other pods, read once.
func (p *Pod) Terms() *Terms {
	if p.terms == nil {
		p.terms = newTerms(p.Pod)
	}
	return p.terms
}

// Group is the key of the group that the pod is in: see [Group].
func (p *Pod) Group() string { return p.group }

// Claims are the names of the PersistentVolumeClaims that a pod mounts.
func Claims(p *corev1.Pod) (names []string) {
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(p, v))
		}
	}
	return names
}

// like is a key that two pods share if everything that decides where they may
// go, but for their priorities, is the same. It is empty for a pod that shares
// nothing because what it needs is its own: volumes.
func (p *Pod) like() string {
	if !p.shaped {
		p.shaped, p.shape = true, shapeOf(p.Pod)
	}
	return p.shape
}

func shapeOf(p *corev1.Pod) string {
	for i := range p.Spec.Volumes {
		if v := &p.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil || v.CSI != nil || v.GCEPersistentDisk != nil ||
			v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil {
			return ""
		}
	}
	if p.Spec.NodeName != "" || len(p.Spec.ResourceClaims) > 0 {
		return ""
	}
	few := func(in []corev1.Container) (out []corev1.Container) {
		for i := range in {
			c := corev1.Container{Image: in[i].Image, Resources: in[i].Resources, RestartPolicy: in[i].RestartPolicy}
			for _, port := range in[i].Ports {
				if port.HostPort > 0 {
					c.Ports = append(c.Ports, port)
				}
			}
			out = append(out, c)
		}
		return out
	}
	spec := corev1.PodSpec{
		NodeSelector: p.Spec.NodeSelector, Affinity: p.Spec.Affinity, Tolerations: p.Spec.Tolerations, Overhead: p.Spec.Overhead,
		TopologySpreadConstraints: p.Spec.TopologySpreadConstraints, Resources: p.Spec.Resources,
		Containers: few(p.Spec.Containers), InitContainers: few(p.Spec.InitContainers),
	}
	text, err := spec.Marshal()
	if err != nil {
		return ""
	}
	var b strings.Builder
	b.Write(text)
	writeIdentity(&b, p)
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		b.WriteString(string(ref.UID))
	}
	return b.String()
}

// groupKey is the key of the pod's Group.
func groupKey(p *corev1.Pod) string {
	var b strings.Builder
	if a := p.Spec.Affinity; affine(p) {
		text, err := (&corev1.Affinity{PodAffinity: a.PodAffinity, PodAntiAffinity: a.PodAntiAffinity}).Marshal()
		if err == nil {
			b.Write(text)
		}
	}
	if p.DeletionTimestamp != nil {
		b.WriteString("\x00leaving")
	}
	writeIdentity(&b, p)
	return b.String()
}

func writeIdentity(b *strings.Builder, p *corev1.Pod) {
	b.WriteByte(0)
	b.WriteString(p.Namespace)
	for _, key := range slices.Sorted(maps.Keys(p.Labels)) {
		b.WriteByte(0)
		b.WriteString(key)
		b.WriteByte('=')
		b.WriteString(p.Labels[key])
	}
	b.WriteByte(0)
}

func affine(p *corev1.Pod) bool {
	a := p.Spec.Affinity
	return a != nil && (a.PodAntiAffinity != nil || a.PodAffinity != nil)
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

// Of returns the amount of one resource.
func (r *Resources) Of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.CPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.Ephemeral
	case corev1.ResourcePods:
		return r.Pods
	}
	return r.Others[name]
}

// Fits says whether so much of something is left.
func Fits(ask, used, alloc int64) bool { return ask == 0 || ask <= alloc-used }

// FitsBeside says whether a node that has alloc in all has room for it beside what
// is used, but for what is in Others.
func (r *Resources) FitsBeside(used, alloc *Resources) bool {
	return Fits(r.Pods, used.Pods, alloc.Pods) && Fits(r.CPU, used.CPU, alloc.CPU) && Fits(r.Memory, used.Memory, alloc.Memory) &&
		Fits(r.Ephemeral, used.Ephemeral, alloc.Ephemeral)
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
