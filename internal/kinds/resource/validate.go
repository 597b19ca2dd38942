package resource

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	formats "k8s.io/apimachinery/pkg/api/validate"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/expr"
	"proa/internal/kinds/validate"
)

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// each checks the items of a list of at most n; n < 0 is no limit. Too long a
// list is not looked into.
func each[T any](list []T, n int, path *field.Path, check func(T, *field.Path) field.ErrorList) (errs field.ErrorList) {
	if n >= 0 && len(list) > n {
		return field.ErrorList{field.TooMany(path, len(list), n).WithOrigin("maxItems")}
	}
	for i, v := range list {
		errs = append(errs, check(v, path.Index(i))...)
	}
	return errs
}

// set is each for a list in which no key is twice.
func set[T any, K comparable](list []T, n int, path *field.Path, key func(T) K, check func(T, *field.Path) field.ErrorList) field.ErrorList {
	errs := each(list, n, path, check)
	if n >= 0 && len(list) > n {
		return errs
	}
	seen := map[K]bool{}
	for i, v := range list {
		if k := key(v); seen[k] {
			errs = append(errs, field.Duplicate(path.Index(i), v))
		} else {
			seen[k] = true
		}
	}
	return errs
}

func itself[T any](v T) T { return v }

// pool checks the name of a pool: DNS subdomains with slashes between them.
func pool(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return validate.Declared(formats.ResourcePoolName, name, at)
}

// qualified checks the name of an attribute or a capacity: a C identifier, with or without a domain.
func qualified(name string, at *field.Path) (errs field.ErrorList) {
	domain, id, full := strings.Cut(name, "/")
	if !full {
		return identifier(name, at)
	}
	if domain == "" {
		errs = append(errs, field.Invalid(at, "", "the domain must not be empty"))
	} else {
		errs = append(errs, validate.Driver(domain, at)...)
	}
	if id == "" {
		return append(errs, field.Invalid(at, "", "the name must not be empty"))
	}
	return append(errs, identifier(id, at)...)
}

func fullyQualified[S ~string](name S, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return validate.Declared(formats.ResourceFullyQualifiedName, name, at)
}

func identifier(id string, at *field.Path) field.ErrorList {
	return append(validate.AtMost(id, at, resourcev1.DeviceMaxIDLength), validate.Messages(at, id, validation.IsCIdentifier(id))...)
}

func validateClass(c, old *resourcev1.DeviceClass) (errs field.ErrorList) {
	errs = append(errs, selectors(c.Spec.Selectors, specPath.Child("selectors"))...)
	errs = append(errs, each(c.Spec.Config, resourcev1.DeviceConfigMaxSize, specPath.Child("config"),
		func(d resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
			return configuration(&d.DeviceConfiguration, at)
		})...)
	if n := c.Spec.ExtendedResourceName; n != nil {
		errs = append(errs, validate.Declared(formats.ExtendedResourceName, *n, specPath.Child("extendedResourceName"))...)
	}
	return errs
}

func selectors(list []resourcev1.DeviceSelector, path *field.Path) field.ErrorList {
	return each(list, resourcev1.DeviceSelectorsMaxSize, path, func(s resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
		if s.CEL == nil {
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		}
		return expression(s.CEL.Expression, at.Child("cel", "expression"), expr.Device)
	})
}

// expression compiles an expression about a device, and checks its length and cost.
func expression(e string, at *field.Path, compile func(string) (uint64, error)) field.ErrorList {
	if len(e) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(at, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	cost, err := compile(e)
	if err == nil && cost > resourcev1.CELSelectorExpressionMaxCost {
		return field.ErrorList{field.Forbidden(at, "too complex, exceeds cost limit")}
	}
	return expr.Invalid(at, e, err)
}

// configuration checks parameters that only a driver understands.
func configuration(c *resourcev1.DeviceConfiguration, at *field.Path) field.ErrorList {
	at = at.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return append(validate.Driver(c.Opaque.Driver, at.Child("driver")), jsonObject(c.Opaque.Parameters.Raw, resourcev1.OpaqueParametersMaxLength, at.Child("parameters"))...)
}

func jsonObject(raw []byte, most int, at *field.Path) field.ErrorList {
	var v any
	switch {
	case len(raw) == 0:
		return field.ErrorList{field.Required(at, "")}
	case len(raw) > most:
		return field.ErrorList{field.TooLong(at, "", most)}
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return field.ErrorList{field.Invalid(at, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	switch v.(type) {
	case nil:
		return field.ErrorList{field.Required(at, "")}
	case map[string]any:
		return nil
	}
	return field.ErrorList{field.Invalid(at, "<value omitted>", "must be a valid JSON object")}
}

func effect(e resourcev1.DeviceTaintEffect, at *field.Path) field.ErrorList {
	return validate.Known(e, at, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)
}

func taint(t *resourcev1.DeviceTaint, at *field.Path) (errs field.ErrorList) {
	errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
	errs = append(errs, validate.Messages(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	if t.Effect == "" {
		return append(errs, field.Required(at.Child("effect"), ""))
	}
	return append(errs, effect(t.Effect, at.Child("effect"))...)
}

func toleration(t resourcev1.DeviceToleration, at *field.Path) (errs field.ErrorList) {
	if t.Key != "" {
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
	} else if t.Operator != resourcev1.DeviceTolerationOpExists {
		errs = append(errs, field.Required(at.Child("key"), "must not be empty unless operator is `Exists`"))
	}
	errs = append(errs, validate.OneOf(t.Operator, at.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	switch {
	case t.Operator == resourcev1.DeviceTolerationOpExists && t.Value != "":
		errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
	case t.Operator == resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, validate.Messages(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	}
	if t.Effect != "" {
		errs = append(errs, effect(t.Effect, at.Child("effect"))...)
	}
	return errs
}

func validateRule(r, _ *resourcev1.DeviceTaintRule) (errs field.ErrorList) {
	if s, at := r.Spec.DeviceSelector, specPath.Child("deviceSelector"); s != nil {
		if s.Driver != nil {
			errs = append(errs, validate.Driver(*s.Driver, at.Child("driver"))...)
		}
		if s.Pool != nil {
			errs = append(errs, pool(*s.Pool, at.Child("pool"))...)
		}
		if s.Device != nil {
			errs = append(errs, validate.Label(*s.Device, at.Child("device"))...)
		}
	}
	return append(errs, taint(&r.Spec.Taint, specPath.Child("taint"))...)
}

func validateRuleStatus(r, _ *resourcev1.DeviceTaintRule) field.ErrorList {
	at := statusPath.Child("conditions")
	errs := metavalidation.ValidateConditions(r.Status.Conditions, at)
	if n := len(r.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
		errs = append(errs, field.TooMany(at, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
	}
	return errs
}

// bindingConditions checks what has to be true, and what must not be, before a pod is bound.
func bindingConditions(need, fail []string, at *field.Path) field.ErrorList {
	good, bad := at.Child("bindingConditions"), at.Child("bindingFailureConditions")
	errs := set(need, resourcev1.BindingConditionsMaxSize, good, itself, metavalidation.ValidateLabelName)
	errs = append(errs, set(fail, resourcev1.BindingFailureConditionsMaxSize, bad, itself, metavalidation.ValidateLabelName)...)
	for i, c := range fail {
		if slices.Contains(need, c) {
			errs = append(errs, field.Invalid(bad.Index(i), c, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(need) == 0 && len(fail) > 0 {
		errs = append(errs, field.Invalid(good, need, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(fail) == 0 && len(need) > 0 {
		errs = append(errs, field.Invalid(bad, fail, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

// skipped checks which node operations a driver does without.
func skipped(list []resourcev1.SkipNodeOperation, path *field.Path) field.ErrorList {
	const all, prepare, unprepare = resourcev1.SkipNodeOperationAll, resourcev1.SkipNodeOperationNodePrepareResources, resourcev1.SkipNodeOperationNodeUnprepareResources
	errs := set(list, -1, path, itself, func(o resourcev1.SkipNodeOperation, at *field.Path) field.ErrorList {
		return validate.Known(o, at, all, prepare, unprepare)
	})
	if slices.Contains(list, prepare) && !slices.Contains(list, unprepare) && !slices.Contains(list, all) {
		errs = append(errs, field.Invalid(path, list, "`NodePrepareResources` requires `NodeUnprepareResources`"))
	}
	return errs
}
