package admission

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/expr"
	"proa/internal/kinds/validate"
)

func validateMutating(c, old *admissionv1.MutatingWebhookConfiguration) (errs field.ErrorList) {
	names, path := map[string]bool{}, field.NewPath("webhooks")
	for i := range c.Webhooks {
		var was []admissionv1.MatchCondition
		if old != nil && i < len(old.Webhooks) {
			was = old.Webhooks[i].MatchConditions
		}
		w, at := &c.Webhooks[i], path.Index(i)
		errs = append(errs, validateHook(w, was, names, at)...)
		if p := w.ReinvocationPolicy; p != nil {
			errs = append(errs, validate.Known(*p, at.Child("reinvocationPolicy"), admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
		}
	}
	return errs
}

func validateValidating(c, old *admissionv1.ValidatingWebhookConfiguration) (errs field.ErrorList) {
	names := map[string]bool{}
	for i := range c.Webhooks {
		var was []admissionv1.MatchCondition
		if old != nil && i < len(old.Webhooks) {
			was = old.Webhooks[i].MatchConditions
		}
		w := &c.Webhooks[i]
		errs = append(errs, validateHook(&admissionv1.MutatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		}, was, names, field.NewPath("webhooks").Index(i))...)
	}
	return errs
}

// validateHook checks what the webhooks of both kinds have. names are those of
// the webhooks before it; was are its old match conditions.
func validateHook(w *admissionv1.MutatingWebhook, was []admissionv1.MatchCondition, names map[string]bool, at *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	add(validation.IsFullyQualifiedName(at.Child("name"), w.Name)...)
	if w.Name != "" && names[w.Name] {
		add(field.Duplicate(at.Child("name"), w.Name))
	}
	names[w.Name] = true
	for i := range w.Rules {
		add(validateRule(&w.Rules[i], at.Child("rules").Index(i))...)
	}
	add(failurePolicy(w.FailurePolicy, at.Child("failurePolicy"))...)
	add(matchPolicy(w.MatchPolicy, at.Child("matchPolicy"))...)
	if s := w.SideEffects; s == nil {
		add(field.Required(at.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		add(validate.Known(*s, at.Child("sideEffects"), admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)...)
	}
	if n := w.TimeoutSeconds; n != nil && (*n < 1 || *n > 30) {
		add(field.Invalid(at.Child("timeoutSeconds"), *n, "the timeout value must be between 1 and 30 seconds"))
	}
	add(selector(w.NamespaceSelector, at.Child("namespaceSelector"))...)
	add(selector(w.ObjectSelector, at.Child("objectSelector"))...)
	add(validateClient(&w.ClientConfig, at.Child("clientConfig"))...)
	add(reviewVersions(w.AdmissionReviewVersions, at.Child("admissionReviewVersions"))...)
	if !equality.Semantic.DeepEqual(was, w.MatchConditions) {
		add(matchConditions(w.MatchConditions, expr.Sight{Authorizer: true}, at.Child("matchConditions"))...)
	}
	return errs
}

// reviewVersions checks that a webhook and this server have a version of AdmissionReview in common.
func reviewVersions(list []string, at *field.Path) (errs field.ErrorList) {
	known := []string{"v1", "v1beta1"}
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of "+strings.Join(known, ", "))}
	}
	common := false
	for i, v := range list {
		if slices.Contains(list[:i], v) {
			errs = append(errs, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		errs = append(errs, validate.Messages(at.Index(i), v, validation.IsDNS1035Label(v))...)
		common = common || slices.Contains(known, v)
	}
	if !common {
		errs = append(errs, field.Invalid(at, list, "must include at least one of "+strings.Join(known, ", ")))
	}
	return errs
}

// validateClient checks how a webhook is reached: by one URL, or one service.
func validateClient(c *admissionv1.WebhookClientConfig, at *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		return validateURL(*c.URL, at.Child("url"))
	}
	return validateService(c.Service, at.Child("service"))
}

func validateURL(text string, at *field.Path) (errs field.ErrorList) {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(at, "url must be a valid URL: "+err.Error()+form)}
	}
	if u.Scheme != "https" {
		errs = append(errs, field.Invalid(at, u.Scheme, "'https' is the only allowed URL scheme"+form))
	}
	if u.Host == "" {
		errs = append(errs, field.Invalid(at, u.Host, "host must be specified"+form))
	}
	if u.User != nil {
		errs = append(errs, field.Invalid(at, u.User.String(), "user information is not permitted in the URL"))
	}
	if u.Fragment != "" {
		errs = append(errs, field.Invalid(at, u.Fragment, "fragments are not permitted in the URL"))
	}
	if u.RawQuery != "" {
		errs = append(errs, field.Invalid(at, u.RawQuery, "query parameters are not permitted in the URL"))
	}
	return errs
}

func validateService(s *admissionv1.ServiceReference, at *field.Path) (errs field.ErrorList) {
	errs = append(errs, validate.Given(s.Name, at.Child("name"))...)
	errs = append(errs, validate.Given(s.Namespace, at.Child("namespace"))...)
	if s.Port != nil {
		if msgs := validation.IsValidPortNum(int(*s.Port)); msgs != nil {
			errs = append(errs, field.Invalid(at.Child("port"), *s.Port, "port is not valid: "+strings.Join(msgs, ", ")))
		}
	}
	if s.Path == nil || *s.Path == "" || *s.Path == "/" {
		return errs
	}
	path := at.Child("path")
	rest, ok := strings.CutPrefix(*s.Path, "/")
	if !ok {
		errs = append(errs, field.Invalid(path, *s.Path, "must start with a '/'"))
	}
	for i, step := range strings.Split(strings.TrimSuffix(rest, "/"), "/") {
		if step == "" {
			errs = append(errs, field.Invalid(path, *s.Path, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, msg := range validation.IsDNS1123Subdomain(step) {
			errs = append(errs, field.Invalid(path, *s.Path, fmt.Sprintf("segment[%d]: %v", i, msg)))
		}
	}
	return errs
}
