package admission

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/expr"
	"proa/internal/kinds/validate"
)

const maxMatchConditions = 64

// What a rule can be about, and what one of a policy that changes objects can:
// what is deleted cannot be changed.
var (
	operations = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update}
	mutable    = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update}
)

// mutableOnly checks that a policy that changes objects is for no deletes.
func mutableOnly(rules []admissionv1.NamedRuleWithOperations, at *field.Path) (errs field.ErrorList) {
	for _, r := range rules {
		for _, o := range r.Operations {
			errs = append(errs, validate.Known(o, at, mutable...)...)
		}
	}
	return errs
}

func failurePolicy(p *admissionv1.FailurePolicyType, at *field.Path) field.ErrorList {
	if p == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return validate.Known(*p, at, admissionv1.Fail, admissionv1.Ignore)
}

func matchPolicy(p *admissionv1.MatchPolicyType, at *field.Path) field.ErrorList {
	if p == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return validate.Known(*p, at, admissionv1.Equivalent, admissionv1.Exact)
}

func selector(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	if s == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at)
}

// matchResources checks what requests a policy or a binding is for.
func matchResources(m *admissionv1.MatchResources, at *field.Path) (errs field.ErrorList) {
	errs = append(errs, matchPolicy(m.MatchPolicy, at.Child("matchPolicy"))...)
	errs = append(errs, selector(m.NamespaceSelector, at.Child("namespaceSelector"))...)
	errs = append(errs, selector(m.ObjectSelector, at.Child("objectSelector"))...)
	for i := range m.ResourceRules {
		errs = append(errs, namedRule(&m.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, namedRule(&m.ExcludeResourceRules[i], at.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func namedRule(r *admissionv1.NamedRuleWithOperations, at *field.Path) (errs field.ErrorList) {
	for i, name := range r.ResourceNames {
		p := at.Child("resourceNames").Index(i)
		errs = append(errs, validate.PathSegment(name, p)...)
		if slices.Contains(r.ResourceNames[:i], name) {
			errs = append(errs, field.Duplicate(p, name))
		}
	}
	return append(errs, validateRule(&r.RuleWithOperations, at)...)
}

func validateRule(r *admissionv1.RuleWithOperations, at *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	add(alone(r.Operations, at.Child("operations"), "operations")...)
	for i, o := range r.Operations {
		add(validate.Known(o, at.Child("operations").Index(i), operations...)...)
	}
	add(alone(r.APIGroups, at.Child("apiGroups"), "API groups")...)
	versions := at.Child("apiVersions")
	add(alone(r.APIVersions, versions, "API versions")...)
	for i, v := range r.APIVersions {
		add(validate.Given(v, versions.Index(i))...)
	}
	add(ruleResources(r.Resources, at.Child("resources"))...)
	if s := r.Scope; s != nil {
		add(validate.Known(*s, at.Child("scope"), admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
	}
	return errs
}

// alone checks that a list is not empty, and that "*" stands alone in it.
func alone[S ~string](list []S, at *field.Path, what string) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(at, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

// ruleResources checks resources and subresources that a rule is for, and that
// none is named that a wildcard before it covers.
func ruleResources(list []string, at *field.Path) (errs field.ErrorList) {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	whole, everySub, everyOf := false, map[string]bool{}, map[string]bool{}
	for i, name := range list {
		if name == "" {
			errs = append(errs, field.Required(at.Index(i), ""))
			continue
		}
		res, sub, ok := strings.Cut(name, "/")
		if !ok {
			whole = whole || name != "*"
			continue
		}
		if everySub[res] {
			errs = append(errs, field.Invalid(at.Index(i), name, "if '"+res+"/*' is present, must not specify "+name))
		}
		if everyOf[sub] {
			errs = append(errs, field.Invalid(at.Index(i), name, "if '*/"+sub+"' is present, must not specify "+name))
		}
		everySub[res] = everySub[res] || sub == "*"
		everyOf[sub] = everyOf[sub] || res == "*"
	}
	if len(list) > 1 && slices.Contains(list, "*/*") {
		errs = append(errs, field.Invalid(at, list, "if '*/*' is present, must not specify other resources"))
	}
	if whole && slices.Contains(list, "*") {
		errs = append(errs, field.Invalid(at, list, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

// matchConditions compiles the conditions of a webhook or a policy. They see no variables.
func matchConditions(list []admissionv1.MatchCondition, s expr.Sight, path *field.Path) (errs field.ErrorList) {
	if len(list) > maxMatchConditions {
		errs = append(errs, field.TooMany(path, len(list), maxMatchConditions))
	}
	seen := map[string]bool{}
	for i, c := range list {
		at := path.Index(i)
		if e := strings.TrimSpace(c.Expression); e == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			_, err := new(expr.Admission).Compile(e, s, expr.Bool)
			errs = append(errs, expr.Invalid(at.Child("expression"), e, err)...)
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, validate.Qualified(c.Name, at.Child("name"))...)
		if seen[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen[c.Name] = true
	}
	return errs
}
