package node

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"proa/internal/kinds/podspec"
)

// conditions sets the conditions that are the node's to set; others stay.
func (in *input) conditions(st *corev1.PodStatus) {
	s := in.view.sandbox()
	network := s != nil && s.ready && (in.pod.Spec.HostNetwork || len(s.ips) > 0)
	in.set(st, corev1.PodReadyToStartContainers, network, "", "")

	if reason, msg := in.initReason(st); reason == "" {
		in.set(st, corev1.PodInitialized, true, map[bool]string{true: "PodCompleted"}[st.Phase == corev1.PodSucceeded], "")
	} else {
		in.set(st, corev1.PodInitialized, false, reason, msg)
	}
	reason, msg := in.unready(st)
	in.set(st, corev1.ContainersReady, reason == "", reason, msg)
	if reason == "" {
		reason, msg = in.gates(st)
	}
	in.set(st, corev1.PodReady, reason == "", reason, msg)
	if !slices.ContainsFunc(st.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled }) {
		in.set(st, corev1.PodScheduled, true, "", "")
	}
}

func (in *input) set(st *corev1.PodStatus, typ corev1.PodConditionType, is bool, reason, message string) {
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	c := corev1.PodCondition{Type: typ, Status: status, Reason: reason, Message: message,
		ObservedGeneration: in.pod.Generation, LastTransitionTime: seconds(in.now)}
	for i := range st.Conditions {
		if have := &st.Conditions[i]; have.Type == typ {
			if have.Status == status {
				c.LastTransitionTime = have.LastTransitionTime
			}
			c.LastProbeTime = have.LastProbeTime
			*have = c
			return
		}
	}
	st.Conditions = append(st.Conditions, c)
}

// initReason says why the pod is not initialized; empty if it is.
func (in *input) initReason(st *corev1.PodStatus) (reason, message string) {
	if in.initialized(st) {
		return "", ""
	}
	var names []string
	for i := range in.pod.Spec.InitContainers {
		c, cs := &in.pod.Spec.InitContainers[i], &st.InitContainerStatuses[i]
		done := cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
		if podspec.Sidecar(c) {
			done = *cs.Started
		}
		if !done {
			names = append(names, c.Name)
		}
	}
	return "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %v", names)
}

// unready says why the containers are not ready; empty if they are.
func (in *input) unready(st *corev1.PodStatus) (reason, message string) {
	switch st.Phase {
	case corev1.PodSucceeded:
		return "PodCompleted", ""
	case corev1.PodFailed:
		return "PodFailed", ""
	}
	var names []string
	for i := range in.pod.Spec.InitContainers {
		if podspec.Sidecar(&in.pod.Spec.InitContainers[i]) && !st.InitContainerStatuses[i].Ready {
			names = append(names, in.pod.Spec.InitContainers[i].Name)
		}
	}
	for i := range st.ContainerStatuses {
		if !st.ContainerStatuses[i].Ready {
			names = append(names, st.ContainerStatuses[i].Name)
		}
	}
	if len(names) == 0 {
		return "", ""
	}
	return "ContainersNotReady", fmt.Sprintf("containers with unready status: %v", names)
}

// gates says which readiness gate is shut; empty if none is.
func (in *input) gates(st *corev1.PodStatus) (reason, message string) {
	var shut []string
	for _, g := range in.pod.Spec.ReadinessGates {
		i := slices.IndexFunc(st.Conditions, func(c corev1.PodCondition) bool { return c.Type == g.ConditionType })
		if i < 0 {
			shut = append(shut, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		} else if st.Conditions[i].Status != corev1.ConditionTrue {
			shut = append(shut, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, st.Conditions[i].Status))
		}
	}
	if len(shut) == 0 {
		return "", ""
	}
	return "ReadinessGatesNotReady", strings.Join(shut, ", ")
}

// qos is the pod's quality of service class. It never changes, so what the
// server wrote at creation is right where it is there.
func qos(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	some, guaranteed := false, true
	all := func(cs []corev1.Container) {
		for i := range cs {
			r := &cs[i].Resources
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				req, lim := r.Requests[name], r.Limits[name]
				some = some || !req.IsZero() || !lim.IsZero()
				guaranteed = guaranteed && !lim.IsZero() && (req.IsZero() || req.Cmp(lim) == 0)
			}
		}
	}
	if r := pod.Spec.Resources; r != nil {
		all([]corev1.Container{{Resources: *r}})
	} else {
		all(pod.Spec.Containers)
		all(pod.Spec.InitContainers)
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// podTotal is what the pod asks of a resource in all: the sum of the ordinary
// containers and sidecars, or the largest init container with the sidecars
// before it, if that is more, and the pod's overhead.
func podTotal(pod *corev1.Pod, name corev1.ResourceName, of func(*corev1.ResourceRequirements) corev1.ResourceList) (sum resource.Quantity) {
	if r := pod.Spec.Resources; r != nil {
		if q, ok := of(r)[name]; ok {
			return q
		}
	}
	var side, most resource.Quantity
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		q := of(&c.Resources)[name]
		if podspec.Sidecar(c) {
			side.Add(q)
			q = side
		} else {
			s := side.DeepCopy()
			s.Add(q)
			q = s
		}
		if q.Cmp(most) > 0 {
			most = q.DeepCopy()
		}
	}
	sum = side.DeepCopy()
	for i := range pod.Spec.Containers {
		sum.Add(of(&pod.Spec.Containers[i].Resources)[name])
	}
	if most.Cmp(sum) > 0 {
		sum = most
	}
	if q, ok := pod.Spec.Overhead[name]; ok {
		sum.Add(q)
	}
	return sum
}

func requests(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Requests }
func limits(r *corev1.ResourceRequirements) corev1.ResourceList   { return r.Limits }

func podRef(pod *corev1.Pod, path string) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name,
		UID: pod.UID, ResourceVersion: pod.ResourceVersion, FieldPath: path}
}

// fieldPath is how events name a container.
func fieldPath(pod *corev1.Pod, name string) string {
	if _, init := containerOf(pod, name); init {
		return "spec.initContainers{" + name + "}"
	}
	if ephemeral(pod, name) != nil {
		return "spec.ephemeralContainers{" + name + "}"
	}
	return "spec.containers{" + name + "}"
}

// QOS is the pod's quality of service class.
func QOS(pod *corev1.Pod) corev1.PodQOSClass { return qos(pod) }

// PodRequests are what the pod as a whole asks for.
func PodRequests(pod *corev1.Pod) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    podTotal(pod, corev1.ResourceCPU, requests),
		corev1.ResourceMemory: podTotal(pod, corev1.ResourceMemory, requests),
	}
}

// PodLimits are the limits of the pod as a whole: of CPU and memory, each only if
// every container has one, or the pod itself.
func PodLimits(pod *corev1.Pod) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		all := true
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				q := list[i].Resources.Limits[name]
				all = all && !q.IsZero()
			}
		}
		if r := pod.Spec.Resources; r != nil {
			if _, ok := r.Limits[name]; ok {
				all = true
			}
		}
		if all {
			out[name] = podTotal(pod, name, limits)
		}
	}
	return out
}
