package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

func (v *checker) scheduling(path *field.Path) {
	s := v.spec
	if len(s.NodeSelector) > 0 {
		v.add(validate.Labels(s.NodeSelector, path.Child("nodeSelector"))...)
	}
	if s.Affinity != nil {
		v.affinity(s.Affinity, path.Child("affinity"))
	}
	if len(s.Tolerations) > 0 {
		v.tolerations(s.Tolerations, path.Child("tolerations"))
	}
	if p := s.PreemptionPolicy; p != nil {
		oneOf(v, *p, path, "preemptionPolicy", corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	for i, g := range s.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		v.add(validate.Qualified(g.Name, at)...)
		if slices.Contains(s.SchedulingGates[:i], g) {
			v.add(field.Duplicate(at, g.Name))
		}
	}
	v.spread(s.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))
}

// ValidateTolerations checks tolerations.
func ValidateTolerations(list []corev1.Toleration, path *field.Path) field.ErrorList {
	var v checker
	v.tolerations(list, path)
	return v.errs
}

func (v *checker) tolerations(list []corev1.Toleration, path *field.Path) {
	for i := range list {
		t := &list[i]
		at := func(name string) *field.Path { return path.Index(i).Child(name) }
		if t.Key != "" && !validate.IsLabelKey(t.Key) {
			v.add(validate.LabelKey(t.Key, at("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			v.add(field.Invalid(at("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			v.add(field.Invalid(at("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if !validate.IsLabelValue(t.Value) {
				v.add(field.Invalid(at("operator"), t.Value, strings.Join(validation.IsValidLabelValue(t.Value), ";")))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				v.add(field.Invalid(at("operator"), t.Value, "value must be empty when `operator` is 'Exists'"))
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt:
			said(v, at("value"), t.Value, content.IsDecimalInteger(t.Value))
		default:
			known(v, &t.Operator, path.Index(i), "operator", corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt)
		}
		switch t.Effect {
		case "", corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		default:
			known(v, &t.Effect, path.Index(i), "effect", corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
		}
	}
}

func (v *checker) spread(list []corev1.TopologySpreadConstraint, path *field.Path) {
	for i := range list {
		c, at := &list[i], path.Index(i)
		if c.MaxSkew <= 0 {
			v.add(field.Invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero"))
		}
		if c.TopologyKey == "" {
			v.add(field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		known(v, &c.WhenUnsatisfiable, at, "whenUnsatisfiable", corev1.DoNotSchedule, corev1.ScheduleAnyway)
		if slices.ContainsFunc(list[i+1:], func(o corev1.TopologySpreadConstraint) bool {
			return o.TopologyKey == c.TopologyKey && o.WhenUnsatisfiable == c.WhenUnsatisfiable
		}) {
			v.add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
		}
		if d := c.MinDomains; d != nil {
			if *d <= 0 {
				v.add(field.Invalid(at.Child("minDomains"), *d, "must be greater than zero"))
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				v.add(field.Invalid(at.Child("minDomains"), *d,
					fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable)))
			}
		}
		known(v, c.NodeAffinityPolicy, at, "nodeAffinityPolicy", corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		known(v, c.NodeTaintsPolicy, at, "nodeTaintsPolicy", corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		v.matchKeys(c.MatchLabelKeys, nil, c.LabelSelector, at)
		v.add(validate.Selector(c.LabelSelector, at.Child("labelSelector"))...)
	}
}
