package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOS is the class of a pod: BestEffort if nothing asks for or is limited in
// cpu or memory, Guaranteed if everything is limited in both and asks for just
// that, Burstable otherwise. If the pod as a whole has resources, only they count.
func QOS(s *corev1.PodSpec) corev1.PodQOSClass {
	if s.Resources != nil && (counts(s.Resources.Requests) || counts(s.Resources.Limits)) {
		return qos([]*corev1.ResourceRequirements{s.Resources})
	}
	var all []*corev1.ResourceRequirements
	for _, c := range containers(s) {
		all = append(all, &c.Resources)
	}
	return qos(all)
}

func counts(l corev1.ResourceList) bool {
	return positive(l, corev1.ResourceCPU) != nil || positive(l, corev1.ResourceMemory) != nil
}

func positive(l corev1.ResourceList, name corev1.ResourceName) *resource.Quantity {
	if q, ok := l[name]; ok && q.Sign() > 0 {
		return &q
	}
	return nil
}

func qos(all []*corev1.ResourceRequirements) corev1.PodQOSClass {
	some, guaranteed := false, true
	for _, r := range all {
		some = some || counts(r.Requests) || counts(r.Limits)
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, request := positive(r.Limits, name), positive(r.Requests, name)
			if limit == nil || request != nil && request.Cmp(*limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
