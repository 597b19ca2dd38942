package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")

	verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
)

func validateSchema(s, _ *flowcontrolv1.FlowSchema) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	spec, precedence := &s.Spec, specPath.Child("matchingPrecedence")
	switch n := spec.MatchingPrecedence; {
	case n <= 0:
		add(field.Invalid(precedence, n, "must be a positive value"))
	case n > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		add(field.Invalid(precedence, n, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	case n == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt:
		add(field.Invalid(precedence, n, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := spec.DistinguisherMethod; m != nil {
		add(validate.Known(m.Type, specPath.Child("distinguisherMethod", "type"),
			flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
	}
	if level := specPath.Child("priorityLevelConfiguration", "name"); spec.PriorityLevelConfiguration.Name == "" {
		add(field.Required(level, "must reference a priority level"))
	} else {
		add(validate.Subdomain(spec.PriorityLevelConfiguration.Name, level)...)
	}
	for i := range spec.Rules {
		add(validateRules(&spec.Rules[i], specPath.Child("rules").Index(i))...)
	}
	if want := mandatorySchema(s.Name); want != nil && !equality.Semantic.DeepEqual(want.Spec, *spec) {
		add(field.Invalid(specPath, *spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
	}
	return errs
}

func validateRules(r *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) (errs field.ErrorList) {
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], at.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validateURLRule(&r.NonResourceRules[i], at.Child("nonResourceRules").Index(i))...)
	}
	return errs
}

// validateSubject checks that a subject is of one kind, and is well named.
func validateSubject(s *flowcontrolv1.Subject, at *field.Path) (errs field.ErrorList) {
	all := []struct {
		kind  flowcontrolv1.SubjectKind
		name  string
		given bool
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil},
	}
	if errs = validate.Known(s.Kind, at.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser); errs != nil {
		return errs
	}
	for _, k := range all {
		switch mine := k.kind == s.Kind; {
		case mine && !k.given:
			errs = append(errs, field.Required(at.Child(k.name), fmt.Sprintf("%s is required when subject kind is '%s'", k.name, k.kind)))
		case !mine && k.given:
			errs = append(errs, field.Forbidden(at.Child(k.name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", k.name, k.kind)))
		}
	}
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		errs = append(errs, validate.Given(s.User.Name, at.Child("user", "name"))...)
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		errs = append(errs, validate.Given(s.Group.Name, at.Child("group", "name"))...)
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		errs = append(errs, validateAccount(s.ServiceAccount, at.Child("serviceAccount"))...)
	}
	return errs
}

func validateAccount(a *flowcontrolv1.ServiceAccountSubject, at *field.Path) (errs field.ErrorList) {
	name, namespace := at.Child("name"), at.Child("namespace")
	if errs = validate.Given(a.Name, name); a.Name != "" && a.Name != flowcontrolv1.NameAll {
		errs = validate.Messages(name, a.Name, apivalidation.ValidateServiceAccountName(a.Name, false))
	}
	if a.Namespace == "" {
		return append(errs, field.Required(namespace, "must specify namespace for service account"))
	}
	return append(errs, validate.Label(a.Namespace, namespace)...)
}

// list checks a list that may not be empty, and in which "*" stands alone.
// It says whether the list names single things.
func list(of []string, at *field.Path, missing, alone string) (named bool, errs field.ErrorList) {
	switch star := slices.Contains(of, "*"); {
	case len(of) == 0:
		return false, field.ErrorList{field.Required(at, missing)}
	case star && len(of) > 1:
		return false, field.ErrorList{field.Invalid(at, of, "if '*' is present, must not specify other "+alone)}
	default:
		return !star, nil
	}
}

func validateVerbs(of []string, at *field.Path) field.ErrorList {
	named, errs := list(of, at, "verbs must contain at least one value", "verbs")
	if named && slices.ContainsFunc(of, func(v string) bool { return !slices.Contains(verbs, v) }) {
		errs = append(errs, field.NotSupported(at, of, verbs))
	}
	return errs
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, at *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, at.Child("verbs"))
	_, more := list(r.APIGroups, at.Child("apiGroups"), "resource rules must supply at least one api group", "api groups")
	errs = append(errs, more...)
	_, more = list(r.Resources, at.Child("resources"), "resource rules must supply at least one resource", "resources")
	errs = append(errs, more...)
	if r.ClusterScope && len(r.Namespaces) == 0 {
		return errs
	}
	namespaces := at.Child("namespaces")
	named, more := list(r.Namespaces, namespaces, "resource rules that are not cluster scoped must supply at least one namespace", "namespaces")
	if errs = append(errs, more...); named {
		for i, ns := range r.Namespaces {
			for _, msg := range apivalidation.ValidateNamespaceName(ns, false) {
				errs = append(errs, field.Invalid(namespaces.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+msg))
			}
		}
	}
	return errs
}

func validateURLRule(r *flowcontrolv1.NonResourcePolicyRule, at *field.Path) field.ErrorList {
	errs, urls := validateVerbs(r.Verbs, at.Child("verbs")), at.Child("nonResourceURLs")
	named, more := list(r.NonResourceURLs, urls, "nonResourceURLs must contain at least one value", "non-resource URLs")
	if errs = append(errs, more...); named {
		for i, u := range r.NonResourceURLs {
			if why := badURL(u); why != "" {
				errs = append(errs, field.Invalid(urls.Index(i), u, why))
			}
		}
	}
	return errs
}

// badURL is what is wrong with a path, or "".
func badURL(u string) string {
	switch stars := strings.Count(u, "*"); {
	case u == "":
		return "must not be empty"
	case u == "/":
		return ""
	case u[0] != '/':
		return "must start with slash"
	case strings.Contains(u, " "):
		return "must not contain white-space"
	case strings.Contains(u, "//"):
		return "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(u, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}

// conditions checks that each type of condition has a name and is there once.
func conditions[T any, S ~string](of []T, kind func(T) S) (errs field.ErrorList) {
	seen := map[S]bool{}
	for i, c := range of {
		at, typ := statusPath.Child("conditions").Index(i).Child("type"), kind(c)
		if seen[typ] {
			errs = append(errs, field.Duplicate(at, typ))
		}
		seen[typ] = true
		if typ == "" {
			errs = append(errs, field.Required(at, "must not be empty"))
		}
	}
	return errs
}

func validateSchemaStatus(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
	return conditions(s.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) flowcontrolv1.FlowSchemaConditionType { return c.Type })
}
