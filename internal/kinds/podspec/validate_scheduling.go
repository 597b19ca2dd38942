package podspec

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

func validateScheduling(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validateAffinity(s.Affinity, path.Child("affinity"))...)
	errs = append(errs, ValidateTolerations(s.Tolerations, path.Child("tolerations"))...)
	if p := s.PreemptionPolicy; p != nil {
		errs = append(errs, validate.Known(*p, path.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	gates := sets.New[string]()
	for i, g := range s.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		if gates.Has(g.Name) {
			errs = append(errs, field.Duplicate(at, g.Name))
		}
		gates.Insert(g.Name)
		errs = append(errs, validate.Qualified(g.Name, at)...)
	}
	if len(s.SchedulingGates) > 0 && s.NodeName != "" {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, validateSpread(s.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
}

// ValidateTolerations checks tolerations.
func ValidateTolerations(list []corev1.Toleration, path *field.Path) (errs field.ErrorList) {
	for i, t := range list {
		at := path.Index(i)
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator,
				"operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		op := at.Child("operator")
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			for _, msg := range validation.IsValidLabelValue(t.Value) {
				errs = append(errs, field.Invalid(op, t.Value, msg))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(op, t, "value must be empty when `operator` is 'Exists'"))
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt:
			if _, err := strconv.ParseInt(t.Value, 10, 64); err != nil {
				errs = append(errs, field.Invalid(at.Child("value"), t.Value, "value must be a valid integer for comparison operators"))
			}
		default:
			errs = append(errs, validate.Known(t.Operator, op, corev1.TolerationOpEqual, corev1.TolerationOpExists,
				corev1.TolerationOpLt, corev1.TolerationOpGt)...)
		}
		if t.Effect != "" {
			errs = append(errs, validate.Known(t.Effect, at.Child("effect"),
				corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		}
	}
	return errs
}

func validateAffinity(a *corev1.Affinity, path *field.Path) (errs field.ErrorList) {
	if a == nil {
		return nil
	}
	if n, at := a.NodeAffinity, path.Child("nodeAffinity"); n != nil {
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			errs = append(errs, ValidateNodeSelector(r, at.Child("requiredDuringSchedulingIgnoredDuringExecution"))...)
		}
		for i, p := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			pp := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			errs = append(errs, weight(p.Weight, pp)...)
			errs = append(errs, nodeTerm(&p.Preference, pp.Child("preference"))...)
		}
	}
	both := func(name string, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		at := path.Child(name)
		for i := range required {
			errs = append(errs, podTerm(&required[i], at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))...)
		}
		for i := range preferred {
			pp := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			errs = append(errs, weight(preferred[i].Weight, pp)...)
			errs = append(errs, podTerm(&preferred[i].PodAffinityTerm, pp.Child("podAffinityTerm"))...)
		}
	}
	if p := a.PodAffinity; p != nil {
		both("podAffinity", p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		both("podAntiAffinity", p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return errs
}

func weight(n int32, at *field.Path) field.ErrorList {
	if n <= 0 || n > 100 {
		return field.ErrorList{field.Invalid(at.Child("weight"), n, "must be in the range 1-100")}
	}
	return nil
}

// ValidateNodeSelector checks a node selector, whose terms are alternatives.
func ValidateNodeSelector(s *corev1.NodeSelector, at *field.Path) (errs field.ErrorList) {
	terms := at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return append(errs, field.Required(terms, "must have at least one node selector term"))
	}
	for i := range s.NodeSelectorTerms {
		errs = append(errs, nodeTerm(&s.NodeSelectorTerms[i], terms.Index(i))...)
	}
	return errs
}

func nodeTerm(t *corev1.NodeSelectorTerm, at *field.Path) (errs field.ErrorList) {
	for i := range t.MatchExpressions {
		r, p := &t.MatchExpressions[i], at.Child("matchExpressions").Index(i)
		errs = append(errs, nodeRequirement(r, p)...)
		errs = append(errs, metavalidation.ValidateLabelName(r.Key, p.Child("key"))...)
		for j, v := range r.Values {
			errs = append(errs, validate.Messages(p.Child("values").Index(j), v, validation.IsValidLabelValue(v))...)
		}
	}
	for i := range t.MatchFields {
		r, p := &t.MatchFields[i], at.Child("matchFields").Index(i)
		if r.Operator != corev1.NodeSelectorOpIn && r.Operator != corev1.NodeSelectorOpNotIn {
			errs = append(errs, field.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator"))
		} else if len(r.Values) != 1 {
			errs = append(errs, field.Required(p.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
		if r.Key != metav1.ObjectNameField {
			errs = append(errs, field.Invalid(p.Child("key"), r.Key, "not a valid field selector key"))
			continue
		}
		for j, v := range r.Values {
			errs = append(errs, validate.Subdomain(v, p.Child("values").Index(j))...)
		}
	}
	return errs
}

func nodeRequirement(r *corev1.NodeSelectorRequirement, at *field.Path) (errs field.ErrorList) {
	values := at.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

func podTerm(t *corev1.PodAffinityTerm, at *field.Path) (errs field.ErrorList) {
	opts := metavalidation.LabelSelectorValidationOptions{}
	errs = append(errs, metavalidation.ValidateLabelSelector(t.LabelSelector, opts, at.Child("labelSelector"))...)
	errs = append(errs, metavalidation.ValidateLabelSelector(t.NamespaceSelector, opts, at.Child("namespaceSelector"))...)
	for _, ns := range t.Namespaces {
		errs = append(errs, validate.Label(ns, at.Child("namespace"))...)
	}
	errs = append(errs, labelKeys(t.MatchLabelKeys, t.LabelSelector, at.Child("matchLabelKeys"))...)
	errs = append(errs, labelKeys(t.MismatchLabelKeys, t.LabelSelector, at.Child("mismatchLabelKeys"))...)
	if t.TopologyKey == "" {
		return append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
}

func labelKeys(keys []string, sel *metav1.LabelSelector, at *field.Path) (errs field.ErrorList) {
	if len(keys) > 0 && sel == nil {
		return append(errs, field.Forbidden(at, "must not be specified when labelSelector is not set"))
	}
	for i, k := range keys {
		errs = append(errs, metavalidation.ValidateLabelName(k, at.Index(i))...)
	}
	return errs
}

func validateSpread(list []corev1.TopologySpreadConstraint, path *field.Path) (errs field.ErrorList) {
	seen := sets.New[string]()
	for i := range list {
		c, at := &list[i], path.Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero"))
		}
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		} else {
			errs = append(errs, metavalidation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
		}
		errs = append(errs, validate.Known(c.WhenUnsatisfiable, at.Child("whenUnsatisfiable"), corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		key := fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)
		if seen.Has(key) {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), key))
		}
		seen.Insert(key)
		if d := c.MinDomains; d != nil {
			if *d <= 0 {
				errs = append(errs, field.Invalid(at.Child("minDomains"), d, "must be greater than zero"))
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				errs = append(errs, field.Invalid(at.Child("minDomains"), d,
					fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable)))
			}
		}
		for name, p := range map[string]*corev1.NodeInclusionPolicy{"nodeAffinityPolicy": c.NodeAffinityPolicy, "nodeTaintsPolicy": c.NodeTaintsPolicy} {
			if p != nil {
				errs = append(errs, validate.Known(*p, at.Child(name), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
			}
		}
		errs = append(errs, labelKeys(c.MatchLabelKeys, c.LabelSelector, at.Child("matchLabelKeys"))...)
		errs = append(errs, metavalidation.ValidateLabelSelector(c.LabelSelector, metavalidation.LabelSelectorValidationOptions{}, at.Child("labelSelector"))...)
	}
	return errs
}
