package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// The two lists of every affinity.
const (
	requiredTerms = "requiredDuringSchedulingIgnoredDuringExecution"
	preferred     = "preferredDuringSchedulingIgnoredDuringExecution"
)

func (v *checker) affinity(a *corev1.Affinity, path *field.Path) {
	if n, at := a.NodeAffinity, path.Child("nodeAffinity"); n != nil {
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			v.add(ValidateNodeSelector(r, at.Child(requiredTerms))...)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			p, pp := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferred).Index(i)
			v.weight(p.Weight, pp)
			v.nodeTerm(&p.Preference, pp.Child("preference"), false)
		}
	}
	if p := a.PodAffinity; p != nil {
		v.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		v.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAntiAffinity"))
	}
}

func (v *checker) weight(n int32, at *field.Path) {
	if n <= 0 || n > 100 {
		v.add(field.Invalid(at.Child("weight"), n, "must be in the range 1-100"))
	}
}

// ValidateNodeSelector checks a node selector, whose terms are alternatives.
func ValidateNodeSelector(s *corev1.NodeSelector, at *field.Path) field.ErrorList {
	terms := at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(terms, "must have at least one node selector term")}
	}
	var v checker
	for i := range s.NodeSelectorTerms {
		v.nodeTerm(&s.NodeSelectorTerms[i], terms.Index(i), true)
	}
	return v.errs
}

// nodeTerm checks a term; the values that nodes are only preferred for may be
// ones that no node has.
func (v *checker) nodeTerm(t *corev1.NodeSelectorTerm, at *field.Path, must bool) {
	for i := range t.MatchExpressions {
		r, p := &t.MatchExpressions[i], at.Child("matchExpressions").Index(i)
		v.nodeRequirement(r, p)
		v.add(validate.LabelKey(r.Key, p.Child("key"))...)
		for j := 0; must && j < len(r.Values); j++ {
			v.add(validate.LabelValue(r.Values[j], p.Child("values").Index(j))...)
		}
	}
	for i := range t.MatchFields {
		r, p := &t.MatchFields[i], at.Child("matchFields").Index(i)
		if r.Operator != corev1.NodeSelectorOpIn && r.Operator != corev1.NodeSelectorOpNotIn {
			v.add(field.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator"))
		} else if len(r.Values) != 1 {
			v.add(field.Required(p.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
		if r.Key != metav1.ObjectNameField {
			v.add(field.Invalid(p.Child("key"), r.Key, "not a valid field selector key"))
			continue
		}
		for j, name := range r.Values {
			v.add(validate.Subdomain(name, p.Child("values").Index(j))...)
		}
	}
}

func (v *checker) nodeRequirement(r *corev1.NodeSelectorRequirement, at *field.Path) {
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			v.add(field.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			v.add(field.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			v.add(field.Required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		v.add(field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
}

func (v *checker) podTerms(must []corev1.PodAffinityTerm, rather []corev1.WeightedPodAffinityTerm, at *field.Path) {
	for i := range must {
		v.podTerm(&must[i], at.Child(requiredTerms).Index(i))
	}
	for i := range rather {
		p := at.Child(preferred).Index(i)
		v.weight(rather[i].Weight, p)
		v.podTerm(&rather[i].PodAffinityTerm, p.Child("podAffinityTerm"))
	}
}

func (v *checker) podTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	v.add(validate.Selector(t.LabelSelector, at.Child("labelSelector"))...)
	v.add(validate.Selector(t.NamespaceSelector, at.Child("namespaceSelector"))...)
	for _, ns := range t.Namespaces {
		v.add(validate.Label(ns, at.Child("namespace"))...)
	}
	v.matchKeys(t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector, at)
	if t.TopologyKey == "" {
		v.add(field.Required(at.Child("topologyKey"), "can not be empty"))
	}
	v.add(validate.LabelKey(t.TopologyKey, at.Child("topologyKey"))...)
}

// matchKeys checks the keys of labels whose values the pod itself gives. In a
// pod they are part of the selector by now, so a key that is also asked for is
// there twice.
func (v *checker) matchKeys(match, mismatch []string, sel *metav1.LabelSelector, at *field.Path) {
	v.labelKeys(match, sel, at.Child("matchLabelKeys"))
	v.labelKeys(mismatch, sel, at.Child("mismatchLabelKeys"))
	if sel != nil && len(match) > 0 {
		for j, e := range sel.MatchExpressions {
			_, twice := sel.MatchLabels[e.Key]
			twice = twice || slices.ContainsFunc(sel.MatchExpressions[:j], func(o metav1.LabelSelectorRequirement) bool { return o.Key == e.Key })
			if i := slices.Index(match, e.Key); i >= 0 && twice {
				v.add(field.Invalid(at.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector"))
			}
		}
	}
	for i, k := range match {
		if slices.Contains(mismatch, k) {
			v.add(field.Invalid(at.Child("matchLabelKeys").Index(i), k, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
}

func (v *checker) labelKeys(keys []string, sel *metav1.LabelSelector, at *field.Path) {
	if len(keys) > 0 && sel == nil {
		v.add(field.Forbidden(at, "must not be specified when labelSelector is not set"))
		return
	}
	for i, k := range keys {
		v.add(validate.LabelKey(k, at.Index(i))...)
	}
}
