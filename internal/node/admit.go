package node

import (
	"fmt"

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
