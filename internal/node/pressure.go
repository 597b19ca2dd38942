package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Left is how much there is of something, and how much of it is free. A Total of
// 0 means that it is not known.
type Left struct{ Free, Total uint64 }

// below says whether less than some hundredths are free.
func (l Left) below(percent uint64) bool {
	return l.Total > 0 && float64(l.Free) < float64(l.Total)*float64(percent)/100
}

// Signals are what a node has left of what pods can use up.
type Signals struct {
	Memory      Left // bytes
	Disk        Left // bytes of the file system with the pods' folders (nodefs)
	Inodes      Left // of the same
	Images      Left // bytes of the file system with the images (imagefs)
	ImageInodes Left // of the same
	PIDs        Left // threads
}

// When a node is under pressure. Memory and inodes: the defaults of
// KubeletConfiguration.evictionHard. Its 10 and 15 % of the file systems' bytes
// are meant for machines of a cluster: a developer's disk is often fuller, and a
// large one has plenty left at 5 %. It has no default for process IDs.
const (
	leastMemory      = 100 << 20 // bytes
	leastDisk        = 5         // hundredths, and so on
	leastInodes      = 5
	leastImages      = 5
	leastImageInodes = 5
	leastPIDs        = 10

	// calmFor is how long a signal must have been good before the node says so
	// (KubeletConfiguration.evictionPressureTransitionPeriod).
	calmFor = 5 * time.Minute
)

// A pressure is one of the three conditions that tell what is running out.
type pressure struct {
	condition                corev1.NodeConditionType
	yes, no, yesText, noText string // reasons and messages
	met                      func(*Signals) bool
}

var pressures = []pressure{
	{corev1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory",
		"kubelet has insufficient memory available", "kubelet has sufficient memory available",
		func(s *Signals) bool { return s.Memory.Total > 0 && s.Memory.Free < leastMemory }},
	{corev1.NodeDiskPressure, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure",
		"kubelet has disk pressure", "kubelet has no disk pressure",
		func(s *Signals) bool {
			return s.Disk.below(leastDisk) || s.Inodes.below(leastInodes) || s.Images.below(leastImages) || s.ImageInodes.below(leastImageInodes)
		}},
	{corev1.NodePIDPressure, "KubeletHasInsufficientPID", "KubeletHasSufficientPID",
		"kubelet has insufficient PID available", "kubelet has sufficient PID available",
		func(s *Signals) bool { return s.PIDs.below(leastPIDs) }},
}

// measure looks at what is left, and wakes the node if a condition changes by it.
func (n *nodeState) measure(ctx context.Context) {
	if n.a.Measure == nil {
		return
	}
	s := n.a.Measure(ctx)
	now := n.a.Clock.Now()
	var news []string
	n.mu.Lock()
	for i := range pressures {
		p := &pressures[i]
		if p.met(&s) {
			n.met[p.condition] = now
		}
		last, ever := n.met[p.condition]
		is := ever && now.Sub(last) < calmFor
		if is == n.pressed[p.condition] {
			continue
		}
		n.pressed[p.condition] = is
		reason := p.no
		if is {
			reason = p.yes
		}
		news = append(news, "Node"+strings.TrimPrefix(reason, "Kubelet"))
	}
	n.mu.Unlock()
	if len(news) == 0 {
		return
	}
	n.wake()
	for _, reason := range news {
		n.event(normal, reason, fmt.Sprintf("Node %s status is now: %s", n.a.Name, reason))
	}
}

// event tells users something about the node.
func (n *nodeState) event(typ, reason, message string) {
	if c := n.current(); c != nil && n.a.Events != nil {
		n.a.Events.About(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: c.Name, UID: c.UID}, typ, reason, message)
	}
}

// under lists the conditions that say that something runs out.
func (n *nodeState) under() (out []corev1.NodeConditionType) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range pressures {
		if n.pressed[pressures[i].condition] {
			out = append(out, pressures[i].condition)
		}
	}
	return out
}

// starved says why a pod is not taken although it would fit: the node is running
// out of something. Pods that the system cannot do without are always taken; when
// only memory is short, also those that have asked for some, or that say that they
// do not mind.
func (a *Agent) starved(pod *corev1.Pod) *ending {
	under := a.node.under()
	if len(under) == 0 || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical {
		return nil
	}
	if len(under) == 1 && under[0] == corev1.NodeMemoryPressure {
		short := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if qos(pod) != corev1.PodQOSBestEffort || slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return tolerates(&t, &short) }) {
			return nil
		}
	}
	return a.reject(pod, "Evicted", fmt.Sprintf("Pod was rejected: The node had condition: %v. ", under))
}

// systemCritical is the least priority of pods that the system cannot do without.
const systemCritical = 2_000_000_000

// tolerates says whether a toleration covers a taint that has no value.
func tolerates(t *corev1.Toleration, taint *corev1.Taint) bool {
	return (t.Effect == "" || t.Effect == taint.Effect) &&
		(t.Key == taint.Key || t.Key == "" && t.Operator == corev1.TolerationOpExists) &&
		(t.Operator == corev1.TolerationOpExists || t.Value == taint.Value)
}
