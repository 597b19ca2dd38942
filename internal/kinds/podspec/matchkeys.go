package podspec

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SelectLikeSelf writes a new pod's own labels into the selectors that ask for
// pods like it by the keys of labels only (matchLabelKeys and
// mismatchLabelKeys). A label that the pod does not have asks for nothing.
func SelectLikeSelf(p *corev1.Pod) {
	s := &p.Spec
	for i := range s.TopologySpreadConstraints {
		c := &s.TopologySpreadConstraints[i]
		selectKeys(c.LabelSelector, p.Labels, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
	if s.Affinity == nil {
		return
	}
	term := func(t *corev1.PodAffinityTerm) {
		selectKeys(t.LabelSelector, p.Labels, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		selectKeys(t.LabelSelector, p.Labels, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(must []corev1.PodAffinityTerm, rather []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			term(&must[i])
		}
		for i := range rather {
			term(&rather[i].PodAffinityTerm)
		}
	}
	if a := s.Affinity.PodAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := s.Affinity.PodAntiAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func selectKeys(sel *metav1.LabelSelector, labels map[string]string, keys []string, op metav1.LabelSelectorOperator) {
	if sel == nil {
		return
	}
	for _, k := range keys {
		if v, ok := labels[k]; ok {
			sel.MatchExpressions = append(sel.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
		}
	}
}
