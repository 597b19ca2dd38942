package controllers

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/kinds/core"
)

// A statefulPlan is what to do now about the pods of a stateful set.
type statefulPlan struct {
	create []int         // ordinals
	remove []*corev1.Pod // the highest ordinal first
	keep   []*corev1.Pod // those that have their ordinal, whatever happens to them
	excess []*corev1.Pod // those whose ordinal is to go, the highest first
}

// wantsNew says whether a pod of the ordinal is to be of the new revision.
func wantsNew(s *appsv1.StatefulSet, ordinal int) bool {
	u := s.Spec.UpdateStrategy
	if u.Type != appsv1.RollingUpdateStatefulSetStrategyType || u.RollingUpdate == nil || u.RollingUpdate.Partition == nil {
		return true
	}
	first, _ := span(s)
	return ordinal >= first+int(*u.RollingUpdate.Partition)
}

// planStateful decides the next step. What is in the way of the order goes
// first: pods that have ended, and pods of a revision that is no longer wanted
// and never came to work. Then missing ordinals come from the lowest on,
// surplus ones go from the highest on, and pods are replaced by new ones from
// the highest on. Under OrderedReady each waits for the one before it.
func planStateful(s *appsv1.StatefulSet, pods []*corev1.Pod, current, update string, now time.Time) (p statefulPlan) {
	first, end := span(s)
	ordered := s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	rolling := s.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType
	at := make(map[int]*corev1.Pod, len(pods))
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return ordinalOf(s, a.Name) - ordinalOf(s, b.Name) })
	works := func(p *corev1.Pod) bool {
		ok, _ := available(p, s.Spec.MinReadySeconds, now)
		return ok && p.DeletionTimestamp == nil && !core.PodFinished(p)
	}
	var firstBad *corev1.Pod
	for _, pod := range pods {
		n := ordinalOf(s, pod.Name)
		at[n] = pod
		if n < first || n >= end {
			p.excess = append(p.excess, pod)
		} else {
			p.keep = append(p.keep, pod)
		}
		if firstBad == nil && !works(pod) {
			firstBad = pod
		}
	}
	slices.Reverse(p.excess)
	going := map[*corev1.Pod]bool{}
	remove := func(pod *corev1.Pod) { going[pod] = true; p.remove = append(p.remove, pod) }
	for _, pod := range slices.Backward(p.keep) {
		want := current
		if wantsNew(s, ordinalOf(s, pod.Name)) {
			want = update
		}
		switch {
		case pod.DeletionTimestamp != nil:
		case core.PodFinished(pod), rolling && revisionOfPod(pod) != want && stuck(pod, current):
			remove(pod)
		}
	}
	if ordered && len(p.remove) > 0 {
		return p
	}
	for n := first; n < end; n++ {
		pod := at[n]
		if pod == nil {
			p.create = append(p.create, n)
		}
		if ordered && (pod == nil || !works(pod)) {
			return p
		}
	}
	for _, pod := range p.excess {
		switch {
		case ordered && (pod.DeletionTimestamp != nil || !works(pod) && pod != firstBad):
			return p
		case pod.DeletionTimestamp != nil:
			continue
		}
		remove(pod)
		if ordered {
			return p
		}
	}
	if !rolling {
		return p
	}
	left := maxStatefulUnavailable(s)
	for n := first; n < end; n++ {
		if pod := at[n]; pod == nil || going[pod] || !works(pod) {
			left--
		}
	}
	for n := end - 1; n >= first && wantsNew(s, n); n-- {
		pod := at[n]
		if pod == nil || pod.DeletionTimestamp != nil || going[pod] || revisionOfPod(pod) == update {
			continue
		}
		if works(pod) { // else it costs nothing
			if left <= 0 {
				return p
			}
			left--
		}
		remove(pod)
	}
	return p
}

func revisionOfPod(p *corev1.Pod) string { return p.Labels[appsv1.StatefulSetRevisionLabel] }

// maxStatefulUnavailable is how many pods of the set may be unavailable during an update.
func maxStatefulUnavailable(s *appsv1.StatefulSet) int {
	u := s.Spec.UpdateStrategy.RollingUpdate
	if u == nil || u.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(u.MaxUnavailable, int(*s.Spec.Replicas), true)
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// stuck says whether a pod does not work and, as far as can be told, never has:
// it is of a revision that was on its way in, or it is not running, or it was
// never ready since its containers started.
func stuck(p *corev1.Pod, current string) bool {
	if core.PodReady(p) {
		return false
	}
	if revisionOfPod(p) != current || p.Status.Phase != corev1.PodRunning {
		return true
	}
	cond := core.PodCondition(p, corev1.PodReady)
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running == nil {
			return true
		}
		if cond != nil && cond.LastTransitionTime.After(s.State.Running.StartedAt.Time) {
			return false
		}
	}
	return cond == nil || len(p.Status.ContainerStatuses) > 0
}
