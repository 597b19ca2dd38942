package crd

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	schemameta "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/common"
)

// What rules may cost when they are evaluated, in CEL's units: one of them, about
// a tenth of a second, and all of an object's, about a second.
const (
	callCost   = 1_000_000
	objectCost = 10_000_000
)

// A shape is what one version's schema amounts to. Versions with the same
// schema share one.
type shape struct {
	preserve bool // spec.preserveUnknownFields, of definitions from the time before v1

	structural *structural.Structural // nil if the version has none
	whole      validation.SchemaValidator
	status     validation.SchemaValidator // nil without a schema of the status

	rules func() *cel.Validator // compiled for the first object that is judged
}

// fingerprint names a schema: another one, another number.
func fingerprint(s *apiextensionsv1.JSONSchemaProps, preserve bool) uint64 {
	if s == nil {
		return 1
	}
	b, err := s.Marshal() // in the order of the fields, maps by key
	if err != nil {
		return 2
	}
	sum := sha256.Sum256(b)
	n := binary.BigEndian.Uint64(sum[:])
	if preserve {
		n++
	}
	return n
}

// compile makes what reads, defaults and validates objects of one version.
func compile(props *apiextensionsv1.JSONSchemaProps, preserve bool) (*shape, error) {
	s := &shape{preserve: preserve, rules: func() *cel.Validator { return nil }}
	if props == nil {
		var err error
		s.whole, _, err = validation.NewSchemaValidator(nil)
		return s, err
	}
	internal := &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(props, internal, nil); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	form, err := structural.NewStructural(internal)
	switch {
	case err == nil:
	case preserve:
		form = nil
	default:
		return nil, fmt.Errorf("the schema is not structural: %w", err)
	}
	if form != nil && !preserve {
		form = form.DeepCopy() // its defaults are the definition's
		if err := defaulting.PruneDefaults(form); err != nil {
			return nil, fmt.Errorf("prune the schema's defaults: %w", err)
		}
	}
	s.structural = form
	if s.whole, _, err = validation.NewSchemaValidator(internal); err != nil {
		return nil, fmt.Errorf("make a validator of the schema: %w", err)
	}
	if status, ok := internal.Properties["status"]; ok {
		if s.status, _, err = validation.NewSchemaValidator(&status); err != nil {
			return nil, fmt.Errorf("make a validator of the status's schema: %w", err)
		}
	}
	s.rules = sync.OnceValue(func() *cel.Validator {
		if form == nil {
			return nil
		}
		return cel.NewValidator(form, true, callCost)
	})
	return s, nil
}

// prune leaves out of the fields what the schema does not know, and null where
// that cannot be.
func (s *shape) prune(fields map[string]any, how reading) (unknown []string, err error) {
	if s.structural == nil {
		return nil, nil
	}
	if !s.preserve {
		unknown = pruning.PruneWithOptions(fields, s.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: how.check})
		defaulting.PruneNonNullableNullsWithoutDefaults(fields, s.structural)
	}
	bad, more := schemameta.CoerceWithOptions(nil, fields, s.structural, false,
		schemameta.CoerceOptions{DropInvalidFields: how.stored, ReturnUnknownFieldPaths: how.check})
	if bad != nil {
		return nil, bad
	}
	return append(unknown, more...), nil
}

func (s *shape) setDefaults(fields map[string]any) {
	if s.structural != nil {
		defaulting.Default(fields, s.structural)
	}
}

// validate judges an object as a whole; old is nil if it is new.
func (s *shape) validate(o, old *Object, scale *scale) (errs field.ErrorList) {
	now, was, related := s.related(o, old)
	var options []validation.ValidationOption
	if old == nil {
		errs = validation.ValidateCustomResource(nil, now, s.whole)
	} else {
		if related != nil {
			options = append(options, validation.WithRatcheting(related))
		}
		errs = validation.ValidateCustomResourceUpdate(nil, now, was, s.whole, options...)
	}
	errs = append(errs, scale.validateSpec(o)...)
	errs = append(errs, scale.validateStatus(o)...)
	errs = append(errs, schemameta.Validate(context.Background(), nil, now, s.structural, false)...)
	return append(errs, s.beyond(now, was, related, errs)...)
}

// validateStatus judges what a write of the status made of old.
func (s *shape) validateStatus(o, old *Object, scale *scale) (errs field.ErrorList) {
	now, was, related := s.related(o, old)
	if status, ok := o.Fields["status"]; ok {
		var options []validation.ValidationOption
		if related != nil && s.structural != nil {
			options = append(options, validation.WithRatcheting(related.Key("status")))
		}
		errs = validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Fields["status"], s.status, options...)
	}
	errs = append(errs, scale.validateStatus(o)...)
	return append(errs, s.beyond(now, was, related, errs)...)
}

// related are two states of an object, and which part of one was which of the
// other, so that what was wrong before and did not change is let pass (KEP-4008).
func (s *shape) related(o, old *Object) (now, was map[string]any, related *common.CorrelatedObject) {
	now = o.judged()
	if old == nil {
		return now, nil, nil
	}
	was = old.judged()
	return now, was, common.NewCorrelatedObject(now, was, &model.Structural{Structural: s.structural})
}

// beyond judges what a schema itself cannot say: keys of lists, and rules.
func (s *shape) beyond(now, was map[string]any, related *common.CorrelatedObject, before field.ErrorList) (errs field.ErrorList) {
	if errs = listtype.ValidateListSetsAndMaps(nil, s.structural, now); len(errs) > 0 && was != nil &&
		len(listtype.ValidateListSetsAndMaps(nil, s.structural, was)) > 0 {
		errs = nil
	}
	rules := s.rules()
	if rules == nil {
		return errs
	}
	if blocked(before) || blocked(errs) {
		return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	var old any
	var options []cel.Option
	if was != nil {
		old = was
		options = append(options, cel.WithRatcheting(related))
	}
	more, _ := rules.Validate(context.Background(), nil, s.structural, now, old, objectCost, options...)
	return append(errs, more...)
}

// blocked says whether an object is too wrong for its rules.
func blocked(errs field.ErrorList) bool {
	for _, e := range errs {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}

// A scale is where the replica counts of a custom resource are.
type scale struct {
	want, have, selector *path // selector may be nil
}

func (c *scale) validateSpec(o *Object) field.ErrorList {
	if c == nil {
		return nil
	}
	return c.want.validateCount(o)
}

func (c *scale) validateStatus(o *Object) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := c.have.validateCount(o)
	if c.selector == nil {
		return errs
	}
	if v, ok := c.selector.of(o); ok {
		if _, ok := v.(string); !ok {
			errs = append(errs, field.Invalid(field.NewPath(c.selector.text), "", wrongType(c.selector, v, "string")))
		}
	}
	return errs
}

func (p *path) validateCount(o *Object) field.ErrorList {
	at := field.NewPath(p.text)
	v, ok := p.of(o)
	if !ok {
		return nil
	}
	switch n, ok := v.(int64); {
	case !ok:
		return field.ErrorList{field.Invalid(at, int64(0), wrongType(p, v, "int64"))}
	case n < 0:
		return field.ErrorList{field.Invalid(at, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}

func wrongType(p *path, v any, want string) string {
	return fmt.Sprintf("%s accessor error: %v is of the type %T, expected %s", p.text, v, v, want)
}
