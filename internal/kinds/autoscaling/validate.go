package autoscaling

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// Bounds of scaling rules, in seconds.
const (
	longestWindow = 3600
	longestPeriod = 1800
)

func validateAutoscaler(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	spec, s := field.NewPath("spec"), &h.Spec
	var was *autoscalingv2.HorizontalPodAutoscalerSpec
	if old != nil {
		was = &old.Spec
	}
	errs := validateBounds(s, spec)
	loose := anyVersion
	switch {
	case was != nil && was.ScaleTargetRef == s.ScaleTargetRef: // stored before this was checked
	case s.ScaleTargetRef.Kind == "ReplicationController": // the one scalable kind of the core group
		loose = anyGroup
	default:
		loose = namedGroup
	}
	errs = append(errs, validateReference(s.ScaleTargetRef, spec.Child("scaleTargetRef"), loose)...)
	errs = append(errs, validateMetrics(s, was, spec.Child("metrics"))...)
	if b := s.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, spec.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, spec.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func validateBounds(s *autoscalingv2.HorizontalPodAutoscalerSpec, spec *field.Path) (errs field.ErrorList) {
	if s.MinReplicas != nil && *s.MinReplicas < 0 {
		errs = append(errs, field.Invalid(spec.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 0").WithOrigin("minimum"))
	}
	most := spec.Child("maxReplicas")
	switch {
	case s.MaxReplicas == 0:
		errs = append(errs, field.Required(most, ""))
	case s.MaxReplicas < 0:
		errs = append(errs, field.Invalid(most, s.MaxReplicas, "must be greater than or equal to 1").WithOrigin("minimum"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(most, s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	return errs
}

func validateStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	status := field.NewPath("status")
	return append(validate.Count(h.Status.CurrentReplicas, status.Child("currentReplicas")),
		validate.Count(h.Status.DesiredReplicas, status.Child("desiredReplicas"))...)
}

// strictness is what is asked of a reference's apiVersion.
type strictness int

const (
	namedGroup strictness = iota
	anyGroup
	anyVersion
)

func validateReference(r autoscalingv2.CrossVersionObjectReference, at *field.Path, s strictness) (errs field.ErrorList) {
	segment := func(v, name string) {
		if v == "" {
			errs = append(errs, field.Required(at.Child(name), ""))
			return
		}
		errs = append(errs, validate.Messages(at.Child(name), v, path.IsValidPathSegmentName(v))...)
	}
	segment(r.Kind, "kind")
	segment(r.Name, "name")
	if s == anyVersion {
		return errs
	}
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	switch {
	case err != nil:
		errs = append(errs, field.Invalid(at.Child("apiVersion"), r.APIVersion, err.Error()))
	case gv.Group == "" && s == namedGroup:
		errs = append(errs, field.Invalid(at.Child("apiVersion"), r.APIVersion, "apiVersion must specify API group"))
	}
	return errs
}

func validateMetrics(s, was *autoscalingv2.HorizontalPodAutoscalerSpec, at *field.Path) (errs field.ErrorList) {
	outside := false
	for i := range s.Metrics {
		m := &s.Metrics[i]
		outside = outside || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
		errs = append(errs, validateMetric(m, was, at.Index(i))...)
	}
	if s.MinReplicas != nil && *s.MinReplicas == 0 && !outside {
		errs = append(errs, field.Forbidden(at, "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	return errs
}

// metricTypes in the order of their names, with the field that each goes with.
var metricTypes = []autoscalingv2.MetricSourceType{
	autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
	autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType,
}

var metricFields = map[autoscalingv2.MetricSourceType]string{
	autoscalingv2.ContainerResourceMetricSourceType: "containerResource", autoscalingv2.ExternalMetricSourceType: "external",
	autoscalingv2.ObjectMetricSourceType: "object", autoscalingv2.PodsMetricSourceType: "pods", autoscalingv2.ResourceMetricSourceType: "resource",
}

func validateMetric(m *autoscalingv2.MetricSpec, was *autoscalingv2.HorizontalPodAutoscalerSpec, at *field.Path) (errs field.ErrorList) {
	if m.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	want := metricFields[m.Type]
	if want == "" {
		errs = append(errs, field.NotSupported(at.Child("type"), m.Type, metricTypes))
	}
	var given []string
	// Only the first source is looked into: all others are errors.
	source := func(is bool, name string, check func(*field.Path) field.ErrorList) {
		if !is {
			return
		}
		if given = append(given, name); len(given) == 1 {
			errs = append(errs, check(at.Child(name))...)
		}
	}
	source(m.Object != nil, "object", func(at *field.Path) field.ErrorList { return validateObject(m.Object, was, at) })
	source(m.External != nil, "external", func(at *field.Path) field.ErrorList { return validateExternal(m.External, at) })
	source(m.Pods != nil, "pods", func(at *field.Path) field.ErrorList { return validatePods(m.Pods, at) })
	source(m.Resource != nil, "resource", func(at *field.Path) field.ErrorList {
		return validateResource(string(m.Resource.Name), m.Resource.Target, at)
	})
	source(m.ContainerResource != nil, "containerResource", func(at *field.Path) field.ErrorList {
		return validateContainer(m.ContainerResource, at)
	})
	found := false
	for _, name := range given {
		found = found || name == want
		if name != want && len(given) > 1 {
			errs = append(errs, field.Forbidden(at.Child(name), "must populate the given metric source only"))
		}
	}
	if want != "" && !found {
		errs = append(errs, field.Required(at.Child(want), "must populate information for the given metric source"))
	}
	return errs
}

func validateObject(o *autoscalingv2.ObjectMetricSource, was *autoscalingv2.HorizontalPodAutoscalerSpec, at *field.Path) field.ErrorList {
	loose := anyGroup
	if was != nil {
		for _, m := range was.Metrics {
			if m.Object != nil && m.Object.DescribedObject == o.DescribedObject {
				loose = anyVersion
			}
		}
	}
	errs := validateReference(o.DescribedObject, at.Child("describedObject"), loose)
	errs = append(errs, validateIdentifier(o.Metric, at.Child("metric"))...)
	errs = append(errs, validateTarget(o.Target, at.Child("target"))...)
	if o.Target.Value == nil && o.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	if o.Target.Value != nil && o.Target.AverageValue != nil {
		errs = append(errs, field.Forbidden(at.Child("target", "value"), "may not set both a target value and averageValue"))
	}
	return errs
}

func validateExternal(e *autoscalingv2.ExternalMetricSource, at *field.Path) field.ErrorList {
	errs := validateIdentifier(e.Metric, at.Child("metric"))
	errs = append(errs, validateTarget(e.Target, at.Child("target"))...)
	if e.Target.Value == nil && e.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	}
	if e.Target.Value != nil && e.Target.AverageValue != nil {
		errs = append(errs, field.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validatePods(p *autoscalingv2.PodsMetricSource, at *field.Path) field.ErrorList {
	errs := validateIdentifier(p.Metric, at.Child("metric"))
	errs = append(errs, validateTarget(p.Target, at.Child("target"))...)
	if p.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func validateResource(name string, t autoscalingv2.MetricTarget, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), "must specify a resource name"))
	}
	errs = append(errs, validateTarget(t, at.Child("target"))...)
	if t.AverageUtilization == nil && t.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization"))
	}
	if t.AverageUtilization != nil && t.AverageValue != nil {
		errs = append(errs, field.Forbidden(at.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateContainer(c *autoscalingv2.ContainerResourceMetricSource, at *field.Path) (errs field.ErrorList) {
	if c.Container == "" {
		errs = append(errs, field.Required(at.Child("container"), "must specify a container"))
	} else {
		errs = append(errs, validate.Label(c.Container, at.Child("container"))...)
	}
	return append(errs, validateResource(string(c.Name), c.Target, at)...)
}

func validateIdentifier(id autoscalingv2.MetricIdentifier, at *field.Path) field.ErrorList {
	if id.Name == "" {
		return field.ErrorList{field.Required(at.Child("name"), "must specify a metric name")}
	}
	return validate.Messages(at.Child("name"), id.Name, path.IsValidPathSegmentName(id.Name))
}

func validateTarget(t autoscalingv2.MetricTarget, at *field.Path) (errs field.ErrorList) {
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	case "":
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric target type"))
		fallthrough
	default:
		errs = append(errs, field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		errs = append(errs, field.Invalid(at.Child("averageValue"), t.AverageValue, "must be positive"))
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}

func validateRules(r *autoscalingv2.HPAScalingRules, at *field.Path) (errs field.ErrorList) {
	if r == nil {
		return nil
	}
	if w := r.StabilizationWindowSeconds; w != nil && *w < 0 {
		errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *w, "must be greater than or equal to zero"))
	} else if w != nil && *w > longestWindow {
		errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *w, fmt.Sprintf("must be less than or equal to %v", longestWindow)))
	}
	if p := r.SelectPolicy; p != nil {
		errs = append(errs, validate.Known(*p, at.Child("selectPolicy"),
			autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	policies := at.Child("policies")
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(policies, "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		errs = append(errs, validatePolicy(p, policies.Index(i))...)
	}
	if r.Tolerance != nil && r.Tolerance.Sign() < 0 {
		errs = append(errs, field.Invalid(at.Child("tolerance"), r.Tolerance.String(), apivalidation.IsNegativeErrorMsg).WithOrigin("minimum"))
	}
	return errs
}

func validatePolicy(p autoscalingv2.HPAScalingPolicy, at *field.Path) field.ErrorList {
	errs := validate.Known(p.Type, at.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
	if p.Value <= 0 {
		errs = append(errs, field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
	}
	if p.PeriodSeconds <= 0 {
		errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
	} else if p.PeriodSeconds > longestPeriod {
		errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", longestPeriod)))
	}
	return errs
}
