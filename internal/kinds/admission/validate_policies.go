package admission

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/expr"
	"proa/internal/kinds/validate"
)

// The limits of a policy's audit annotations.
const (
	maxAnnotations          = 20
	maxAnnotationExpression = 5 << 10
)

var specPath = field.NewPath("spec")

// A policy is what policies of both kinds have.
type policy struct {
	failure    *admissionv1.FailurePolicyType
	params     *admissionv1.ParamKind
	match      *admissionv1.MatchResources
	conditions []admissionv1.MatchCondition
	variables  []admissionv1.Variable
	wasParams  *admissionv1.ParamKind
	was        []admissionv1.MatchCondition

	compiler expr.Admission
	sight    expr.Sight
}

// check checks the policy, and leaves a compiler that knows its variables.
func (p *policy) check() (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	p.sight = expr.Sight{Params: p.params != nil, Authorizer: true}
	add(failurePolicy(p.failure, specPath.Child("failurePolicy"))...)
	if p.params != nil {
		add(validateParamKind(p.params, specPath.Child("paramKind"))...)
	}
	if at := specPath.Child("matchConstraints"); p.match == nil {
		add(field.Required(at, ""))
	} else {
		add(matchResources(p.match, at)...)
		if len(p.match.ResourceRules) == 0 {
			add(field.Required(at.Child("resourceRules"), "")) // of what type objects are
		}
	}
	if !equality.Semantic.DeepEqual(p.was, p.conditions) || !equality.Semantic.DeepEqual(p.wasParams, p.params) {
		add(matchConditions(p.conditions, p.sight, specPath.Child("matchConditions"))...)
	}
	if len(p.variables) > 0 {
		p.compiler.Declare()
	}
	for i, v := range p.variables {
		at := specPath.Child("variables").Index(i)
		switch {
		case strings.TrimSpace(v.Name) == "":
			add(field.Required(at.Child("name"), "name is not specified"))
		case !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name):
			add(field.Invalid(at.Child("name"), v.Name, "name is not a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			add(field.Required(at.Child("expression"), "expression is not specified"))
		} else {
			add(expr.Invalid(at.Child("expression"), v.Expression, p.compiler.Define(v.Name, v.Expression, p.sight))...)
		}
	}
	return errs
}

// Names of variables are identifiers of CEL (its specification, "Syntax").
var (
	identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	reserved   = strings.Fields("true false null in as break const continue else for function if import let loop package namespace return var void while")
)

func validateParamKind(k *admissionv1.ParamKind, at *field.Path) (errs field.ErrorList) {
	version := at.Child("apiVersion")
	switch parts := strings.Split(k.APIVersion, "/"); {
	case k.APIVersion == "":
		errs = append(errs, field.Required(version, ""))
	case len(parts) > 2:
		errs = append(errs, field.Invalid(version, k.APIVersion, "unexpected GroupVersion string: "+k.APIVersion))
	default:
		if g := parts[0]; len(parts) == 2 && g != "" {
			if msgs := validation.IsDNS1123Subdomain(g); len(msgs) > 0 {
				errs = append(errs, field.Invalid(version, g, strings.Join(msgs, ",")))
			}
		}
		if v := parts[len(parts)-1]; v == "" {
			errs = append(errs, field.Invalid(version, k.APIVersion, "version must be specified"))
		} else if msgs := validation.IsDNS1035Label(v); len(msgs) > 0 {
			errs = append(errs, field.Invalid(version, v, strings.Join(msgs, ",")))
		}
	}
	if k.Kind == "" {
		return append(errs, field.Required(at.Child("kind"), ""))
	}
	if msgs := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(msgs, ",")))
	}
	return errs
}

func validateValidatingPolicy(v, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s := &v.Spec
	p := &policy{failure: s.FailurePolicy, params: s.ParamKind, match: s.MatchConstraints, conditions: s.MatchConditions, variables: s.Variables}
	if old != nil {
		if equality.Semantic.DeepEqual(*s, old.Spec) {
			return nil
		}
		p.wasParams, p.was = old.Spec.ParamKind, old.Spec.MatchConditions
	}
	errs := p.check()
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const some = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(specPath.Child("validations"), some), field.Required(specPath.Child("auditAnnotations"), some))
	}
	for i := range s.Validations {
		errs = append(errs, p.validation(&s.Validations[i], specPath.Child("validations").Index(i))...)
	}
	path := specPath.Child("auditAnnotations")
	if len(s.AuditAnnotations) > maxAnnotations {
		errs = append(errs, field.Invalid(path, s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAnnotations)))
	}
	keys := map[string]bool{}
	for i, a := range s.AuditAnnotations {
		at := path.Index(i)
		errs = append(errs, p.annotation(v.Name, &a, at)...)
		if keys[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		keys[a.Key] = true
	}
	return errs
}

func (p *policy) validation(v *admissionv1.Validation, at *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	if strings.TrimSpace(v.Expression) == "" {
		add(field.Required(at.Child("expression"), "expression is not specified"))
	} else {
		_, err := p.compiler.Compile(v.Expression, p.sight, expr.Bool)
		add(expr.Invalid(at.Child("expression"), v.Expression, err)...)
	}
	switch m := v.MessageExpression; {
	case m == "":
	case strings.TrimSpace(m) == "":
		add(field.Invalid(at.Child("messageExpression"), m, "must be non-empty if specified"))
	default: // it does not see the authorizer
		_, err := p.compiler.Compile(m, expr.Sight{Params: p.sight.Params}, expr.String)
		add(expr.Invalid(at.Child("messageExpression"), m, err)...)
	}
	switch m := strings.TrimSpace(v.Message); {
	case v.Message != "" && m == "":
		add(field.Invalid(at.Child("message"), v.Message, "message must be non-empty if specified"))
	case strings.ContainsAny(m, "\n\r"):
		add(field.Invalid(at.Child("message"), v.Message, "message must not contain line breaks"))
	}
	if r := v.Reason; r != nil {
		add(validate.Known(*r, at.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid,
			metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized)...)
	}
	return errs
}

func (p *policy) annotation(name string, a *admissionv1.AuditAnnotation, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
	} else {
		errs = append(errs, validate.Qualified(name+"/"+a.Key, at.Child("key"))...)
	}
	value := at.Child("valueExpression")
	switch e := strings.TrimSpace(a.ValueExpression); {
	case e == "":
		errs = append(errs, field.Required(value, "valueExpression is not specified"))
	case len(e) > maxAnnotationExpression:
		errs = append(errs, field.Required(value, fmt.Sprintf("must not exceed %d bytes in length", maxAnnotationExpression)))
	default:
		_, err := p.compiler.Compile(e, p.sight, expr.StringOrNil)
		errs = append(errs, expr.Invalid(value, a.ValueExpression, err)...)
	}
	return errs
}

func validateMutatingPolicy(m, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	s := &m.Spec
	p := &policy{failure: s.FailurePolicy, params: s.ParamKind, match: s.MatchConstraints, conditions: s.MatchConditions, variables: s.Variables}
	if old != nil {
		if equality.Semantic.DeepEqual(*s, old.Spec) {
			return nil
		}
		p.wasParams, p.was = old.Spec.ParamKind, old.Spec.MatchConditions
	}
	errs := p.check()
	if s.MatchConstraints != nil {
		errs = append(errs, mutableOnly(s.MatchConstraints.ResourceRules, specPath.Child("matchConstraints", "resourceRules", "operations"))...)
	}
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(specPath.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, p.mutation(&s.Mutations[i], specPath.Child("mutations").Index(i))...)
	}
	return append(errs, validate.OneOf(s.ReinvocationPolicy, specPath.Child("reinvocationPolicy"),
		admissionv1.NeverReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy)...)
}

// mutation checks that a mutation is of one kind, and compiles it.
func (p *policy) mutation(m *admissionv1.Mutation, at *field.Path) field.ErrorList {
	errs := validate.OneOf(m.PatchType, at.Child("patchType"), admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	if len(errs) > 0 {
		return errs
	}
	for _, k := range []struct {
		kind       admissionv1.PatchType
		name       string
		given      bool
		expression func() string
	}{
		{admissionv1.PatchTypeApplyConfiguration, "applyConfiguration", m.ApplyConfiguration != nil, func() string { return m.ApplyConfiguration.Expression }},
		{admissionv1.PatchTypeJSONPatch, "jsonPatch", m.JSONPatch != nil, func() string { return m.JSONPatch.Expression }},
	} {
		switch mine := k.kind == m.PatchType; {
		case mine && !k.given:
			errs = append(errs, field.Required(at.Child(k.name), fmt.Sprintf("must be specified when patchType is %s", k.kind)))
		case mine:
			errs = append(errs, p.patch(k.kind, strings.TrimSpace(k.expression()), at.Child(k.name, "expression"))...)
		case k.given:
			errs = append(errs, field.Invalid(at.Child(k.name), "{"+k.name+"}", fmt.Sprintf("must not be specified when patchType is %s", m.PatchType)))
		}
	}
	return errs
}

func (p *policy) patch(kind admissionv1.PatchType, expression string, at *field.Path) field.ErrorList {
	if expression == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	s, want := p.sight, expr.Object
	s.Patch = true
	if kind == admissionv1.PatchTypeJSONPatch {
		want = expr.Patches
	}
	_, err := p.compiler.Compile(expression, s, want)
	return expr.Invalid(at, expression, err)
}

func validateValidatingBinding(b, _ *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	s := &b.Spec
	errs := validateBinding(s.PolicyName, s.ParamRef, s.MatchResources)
	actions := specPath.Child("validationActions")
	if len(s.ValidationActions) == 0 {
		errs = append(errs, field.Required(actions, ""))
	}
	for i, a := range s.ValidationActions {
		errs = append(errs, validate.Known(a, actions.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		if slices.Contains(s.ValidationActions[:i], a) {
			errs = append(errs, field.Duplicate(actions.Index(i), a))
		}
	}
	if slices.Contains(s.ValidationActions, admissionv1.Deny) && slices.Contains(s.ValidationActions, admissionv1.Warn) {
		errs = append(errs, field.Invalid(actions, s.ValidationActions,
			"must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

func validateMutatingBinding(b, _ *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	s := &b.Spec
	errs := validateBinding(s.PolicyName, s.ParamRef, s.MatchResources)
	if s.MatchResources != nil {
		errs = append(errs, mutableOnly(s.MatchResources.ResourceRules, specPath.Child("matchResources", "resourceRules", "operations"))...)
	}
	return errs
}

func validateBinding(policy string, params *admissionv1.ParamRef, match *admissionv1.MatchResources) (errs field.ErrorList) {
	if at := specPath.Child("policyName"); policy == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validate.Subdomain(policy, at)...)
	}
	if params != nil {
		errs = append(errs, validateParamRef(params, specPath.Child("paramRef"))...)
	}
	if match != nil {
		errs = append(errs, matchResources(match, specPath.Child("matchResources"))...)
	}
	return errs
}

func validateParamRef(r *admissionv1.ParamRef, at *field.Path) (errs field.ErrorList) {
	const both = "name and selector are mutually exclusive"
	name, sel := at.Child("name"), at.Child("selector")
	if r.Name != "" {
		errs = append(errs, validate.PathSegment(r.Name, name)...)
	}
	if r.Selector != nil {
		errs = append(errs, selector(r.Selector, sel)...)
	}
	switch {
	case r.Name != "" && r.Selector != nil:
		errs = append(errs, field.Forbidden(name, both), field.Forbidden(sel, both))
	case r.Name == "" && r.Selector == nil:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	action := at.Child("parameterNotFoundAction")
	if r.ParameterNotFoundAction == nil {
		return append(errs, field.Required(action, ""))
	}
	return append(errs, validate.OneOf(*r.ParameterNotFoundAction, action, admissionv1.DenyAction, admissionv1.AllowAction)...)
}

// validatePolicyStatus checks what was found about a policy's types.
func validatePolicyStatus(v, _ *admissionv1.ValidatingAdmissionPolicy) (errs field.ErrorList) {
	status := field.NewPath("status")
	if c := v.Status.TypeChecking; c != nil {
		for i, w := range c.ExpressionWarnings {
			at := status.Child("typeChecking", "expressionWarnings").Index(i)
			errs = append(errs, validate.Given(w.Warning, at.Child("warning"))...)
			errs = append(errs, validate.Given(strings.TrimSpace(w.FieldRef), at.Child("fieldRef"))...)
		}
	}
	return append(errs, metavalidation.ValidateConditions(v.Status.Conditions, status.Child("conditions"))...)
}
