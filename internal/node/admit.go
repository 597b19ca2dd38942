package node

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// refuse says why the node does not take a pod that it was given: too little is
// left of something, or the node is not what the pod asks for. Pods that have
// begun are never refused.
func (a *Agent) refuse(w *worker, in *input) *ending {
	if in.pod.Status.StartTime != nil || len(in.view.sandboxes) > 0 || w.run != nil {
		return nil
	}
	if e := a.starved(in.pod); e != nil {
		return e
	}
	if e := a.forbidden(in.pod); e != nil {
		return e
	}
	n := a.node.current()
	if n == nil {
		return nil
	}
	for k, v := range in.pod.Spec.NodeSelector {
		if n.Labels[k] != v {
			return a.reject(in.pod, "NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
		}
	}
	used := a.used(w)
	free := func(name corev1.ResourceName) *ending {
		have, ok := n.Status.Allocatable[name]
		want := podTotal(in.pod, name, requests)
		if name == corev1.ResourcePods {
			want = *resource.NewQuantity(1, resource.DecimalSI)
		}
		if !ok || want.IsZero() {
			return nil
		}
		sum := used[name].DeepCopy()
		sum.Add(want)
		if sum.Cmp(have) <= 0 {
			return nil
		}
		u := used[name]
		return a.reject(in.pod, "OutOf"+string(name), fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			name, units(name, want), units(name, u), units(name, have)))
	}
	for _, name := range []corev1.ResourceName{corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if e := free(name); e != nil {
			return e
		}
	}
	return nil
}

// safeSysctls are those that every pod may set: each is the pod's own, and none
// can harm the node or another pod.
var safeSysctls = []string{"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}

// forbidden refuses sysctls that are neither known to be safe nor allowed by the
// node's settings. Those of a namespace that is the host's the server refuses.
func (a *Agent) forbidden(pod *corev1.Pod) *ending {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		if !slices.Contains(safeSysctls, name) && !a.allowed(name) {
			return a.reject(pod, "SysctlForbidden", fmt.Sprintf("Pod was rejected: forbidden sysctl: %q not allowlisted", s.Name))
		}
	}
	return nil
}

// allowed says whether the node's settings name a sysctl: the whole of it, or how
// it begins, with a star. Only what has a namespace of its own can be allowed.
func (a *Agent) allowed(name string) bool {
	if !slices.ContainsFunc(ownSysctls, func(begin string) bool { return strings.HasPrefix(name, begin) }) {
		return false
	}
	for pattern, is := range a.Sysctls {
		if begin, star := strings.CutSuffix(pattern, "*"); is && (pattern == name || star && strings.HasPrefix(name, begin)) {
			return true
		}
	}
	return false
}

// ownSysctls are how the names of sysctls begin that a pod has for itself, in its
// IPC or network namespace.
var ownSysctls = []string{"kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "net."}

func (a *Agent) reject(pod *corev1.Pod, reason, message string) *ending {
	a.event(pod, "", warning, reason, "%s", message)
	return &ending{reason: reason, message: message, refused: true}
}

func units(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// used is what the pods on the node have asked for, except w's and those that are over.
func (a *Agent) used(except *worker) corev1.ResourceList {
	out := corev1.ResourceList{}
	a.mu.Lock()
	all := make([]*worker, 0, len(a.pods))
	for _, w := range a.pods {
		if w != except {
			all = append(all, w)
		}
	}
	a.mu.Unlock()
	for _, w := range all {
		p := w.charged.Load()
		if p == nil {
			continue
		}
		add := func(name corev1.ResourceName, q resource.Quantity) {
			s := out[name]
			s.Add(q)
			out[name] = s
		}
		add(corev1.ResourcePods, *resource.NewQuantity(1, resource.DecimalSI))
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
			add(name, podTotal(p, name, requests))
		}
	}
	return out
}
