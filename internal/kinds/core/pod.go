package core

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"

	"proa/internal/api"
	"proa/internal/kinds/podspec"
)

// Pod is a group of containers that run together on one node.
var Pod = &api.Kind[*corev1.Pod]{
	API: "v1", Resource: "pods", Scope: api.Namespaced, Short: []string{"po"}, Categories: []string{"all"},
	Columns: podColumns,
	Fields: map[string]func(*corev1.Pod) string{
		"spec.nodeName":            func(p *corev1.Pod) string { return p.Spec.NodeName },
		"spec.restartPolicy":       func(p *corev1.Pod) string { return string(p.Spec.RestartPolicy) },
		"spec.schedulerName":       func(p *corev1.Pod) string { return p.Spec.SchedulerName },
		"spec.serviceAccountName":  func(p *corev1.Pod) string { return p.Spec.ServiceAccountName },
		"spec.hostNetwork":         func(p *corev1.Pod) string { return strconv.FormatBool(p.Spec.HostNetwork) },
		"status.phase":             func(p *corev1.Pod) string { return string(p.Status.Phase) },
		"status.podIP":             func(p *corev1.Pod) string { return p.Status.PodIP },
		"status.podIPs":            podIPs,
		"status.nominatedNodeName": func(p *corev1.Pod) string { return p.Status.NominatedNodeName },
	},
	Name:           apivalidation.NameIsDNSSubdomain,
	Default:        podspec.DefaultPod,
	Prepare:        preparePod,
	Tidy:           true,
	Validate:       validatePod,
	Warn:           warnPod,
	Status:         true,
	PrepareStatus:  preparePodStatus,
	ValidateStatus: validatePodStatus,
	Sub:            podSubs(),
	Grace:          podGrace,
	// Of the spec a pod has to itself where it runs (nodeName) and what it is called there (hostname).
	Alike: &api.Alike[*corev1.Pod]{Field: 2, Own: []int{10, 16}, Share: func(to, of *corev1.Pod) {
		node, host := to.Spec.NodeName, to.Spec.Hostname
		to.Spec = of.Spec
		to.Spec.NodeName, to.Spec.Hostname = node, host
	}},
}

// podIPs is the pod's first address: what the status.podIPs selector compares.
func podIPs(p *corev1.Pod) string {
	if len(p.Status.PodIPs) == 0 {
		return p.Status.PodIP
	}
	return p.Status.PodIPs[0].IP
}

func preparePod(p, old *corev1.Pod) {
	if old != nil {
		p.Status = old.Status
		return
	}
	podspec.SelectLikeSelf(p)
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podspec.QOS(&p.Spec)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
			Reason: corev1.PodReasonSchedulingGated, Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
}

// preparePodStatus keeps the spec, and what a status write may not change in the status.
func preparePodStatus(p, old *corev1.Pod) {
	p.Spec = old.Spec
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
	syncPodIPs(p, old)
}

// syncPodIPs keeps podIP and podIPs[0] the same, whichever of the two a writer
// changed, and so for hostIP and hostIPs.
func syncPodIPs(p, old *corev1.Pod) {
	s := &p.Status
	switch {
	case s.PodIP != old.Status.PodIP && slices.Equal(s.PodIPs, old.Status.PodIPs), s.PodIP != "" && len(s.PodIPs) == 0:
		s.PodIPs = nil
		if s.PodIP != "" {
			s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
		}
	case s.PodIP == old.Status.PodIP && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	}
	if s.HostIP != "" && len(s.HostIPs) == 0 {
		s.HostIPs = []corev1.HostIP{{IP: s.HostIP}}
	}
}

// podGrace is the seconds a pod has to end: none if it never started or has
// already ended, otherwise what the caller or else the pod's spec asks for.
func podGrace(p *corev1.Pod, asked *int64) int64 {
	n := int64(0)
	switch {
	case asked != nil:
		n = *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		n = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || PodFinished(p) {
		return 0
	}
	if n < 0 {
		return 1
	}
	return n
}
