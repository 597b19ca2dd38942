// Package validate holds the checks of fields that several kinds have. Each
// function answers the errors of one value at one path, worded as Kubernetes'
// users know them.
package validate

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	apipath "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Messages turns what the validation library says of v into errors.
func Messages[V any](path *field.Path, v V, msgs []string) (errs field.ErrorList) {
	for _, m := range msgs {
		errs = append(errs, field.Invalid(path, v, m))
	}
	return errs
}

// Label checks that v is a DNS-1123 label.
func Label(v string, path *field.Path) field.ErrorList {
	if IsLabel(v) {
		return nil
	}
	return Messages(path, v, validation.IsDNS1123Label(v))
}

// Subdomain checks that v is a DNS-1123 subdomain.
func Subdomain(v string, path *field.Path) field.ErrorList {
	if IsSubdomain(v) {
		return nil
	}
	return Messages(path, v, validation.IsDNS1123Subdomain(v))
}

// Qualified checks that v is a qualified name, as label keys are.
func Qualified(v string, path *field.Path) field.ErrorList {
	if IsLabelKey(v) {
		return nil
	}
	return Messages(path, v, validation.IsQualifiedName(v))
}

// Given checks that v is not empty.
func Given[S ~string](v S, path *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

// OneOf checks that v is one of allowed; an empty v is required to be given.
func OneOf[S ~string](v S, path *field.Path, allowed ...S) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Known(v, path, allowed...)
}

// Known checks that v is one of allowed.
func Known[S ~string](v S, path *field.Path, allowed ...S) field.ErrorList {
	for _, a := range allowed {
		if v == a {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, v, slices.Clone(allowed))}
}

// Count checks that n is not negative.
func Count[N int | int32 | int64](n N, path *field.Path) field.ErrorList {
	if n < 0 {
		return field.ErrorList{field.Invalid(path, int64(n), apivalidation.IsNegativeErrorMsg).WithOrigin("minimum")}
	}
	return nil
}

// CountOf checks that *n is not negative; nil is fine.
func CountOf[N int | int32 | int64](n *N, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	return Count(*n, path)
}

// Port checks a port number.
func Port[N int | int32](n N, path *field.Path) field.ErrorList {
	return Messages(path, int64(n), validation.IsValidPortNum(int(n)))
}

// PortOrName checks a port's number, or the name that stands for it.
func PortOrName(p intstr.IntOrString, path *field.Path) field.ErrorList {
	if p.Type == intstr.Int {
		return Messages(path, p.IntValue(), validation.IsValidPortNum(p.IntValue()))
	}
	if IsPortName(p.StrVal) {
		return nil
	}
	return Messages(path, p.StrVal, validation.IsValidPortName(p.StrVal))
}

// CountOrPercent checks a count that is not negative, or a percentage.
func CountOrPercent(v *intstr.IntOrString, path *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	if v.Type == intstr.String {
		return Messages(path, v.String(), validation.IsValidPercent(v.StrVal))
	}
	return Count(v.IntValue(), path)
}

// AtMostHundredPercent checks that a percentage is not above 100.
func AtMostHundredPercent(v *intstr.IntOrString, path *field.Path) field.ErrorList {
	if v == nil || v.Type != intstr.String {
		return nil
	}
	if n, ok := Percent(*v); ok && n > 100 {
		return field.ErrorList{field.Invalid(path, v.String(), "must not be greater than 100%")}
	}
	return nil
}

// Percent is the number of a percentage, and whether v is one.
func Percent(v intstr.IntOrString) (n int, ok bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	_, err := fmt.Sscanf(v.StrVal, "%d%%", &n)
	return n, err == nil
}

// Same checks that a field kept its value.
func Same(v, old any, path *field.Path) field.ErrorList {
	return apivalidation.ValidateImmutableField(v, old, path)
}

// Fixed is Same for fields that their types declare immutable (+k8s:immutable):
// its error does not repeat the value.
func Fixed(v, old any, path *field.Path) field.ErrorList {
	if len(Same(v, old, path)) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, nil, apivalidation.FieldImmutableErrorMsg).WithOrigin("immutable")}
}

// RelativePath checks that p names something below where it is used.
func RelativePath(p string, path *field.Path) (errs field.ErrorList) {
	if filepath.IsAbs(p) {
		errs = append(errs, field.Invalid(path, p, "must be a relative path"))
	}
	return append(errs, NoBacksteps(p, path)...)
}

// NoBacksteps checks that no element of p is "..".
func NoBacksteps(p string, path *field.Path) field.ErrorList {
	for _, part := range strings.Split(filepath.ToSlash(p), "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(path, p, "must not contain '..'")}
		}
	}
	return nil
}

// WorkloadSelector checks the selector of something that makes pods from a
// template: it must be there, select something, and select what the template
// makes. The kind is named in messages.
func WorkloadSelector(s *metav1.LabelSelector, template map[string]string, kind string, spec *field.Path) field.ErrorList {
	path := spec.Child("selector")
	if s == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := Selector(s, path)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, s, "empty selector is invalid for "+kind))
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return append(errs, field.Invalid(path, s, "invalid label selector"))
	}
	if !sel.Empty() && !sel.Matches(labels.Set(template)) {
		errs = append(errs, field.Invalid(spec.Child("template", "metadata", "labels"), template, "`selector` does not match template `labels`"))
	}
	return errs
}

// AtMost checks that v has at most n bytes.
func AtMost(v string, path *field.Path, n int) field.ErrorList {
	if len(v) > n {
		return field.ErrorList{field.TooLong(path, v, n).WithOrigin("maxLength")}
	}
	return nil
}

// PathSegment checks that v can be a segment of a path, as names of all kinds can.
func PathSegment(v string, path *field.Path) field.ErrorList {
	return Messages(path, v, apipath.ValidatePathSegmentName(v, false))
}
