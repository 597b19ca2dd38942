// Package apiregistration declares the kind of apiregistration.k8s.io/v1.
package apiregistration

import (
	"fmt"
	"strings"

	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/validate"
)

// An APIService says who serves a group and version: the server itself, or
// another API server behind a Service.
var APIService = &api.Kind[*apiregistrationv1.APIService]{
	API: "apiregistration.k8s.io/v1", Resource: "apiservices", Scope: api.Cluster,
	Categories: []string{"api-extensions"},
	Columns: []api.Column[*apiregistrationv1.APIService]{
		column.Doc(api.Col("Service", serviceOf), "The reference to the service that hosts this API endpoint."),
		column.Doc(api.Col("Available", availability), "Whether this service is available."),
	},
	Name: pathvalidation.ValidatePathSegmentName,
	Default: func(a *apiregistrationv1.APIService) {
		if s := a.Spec.Service; s != nil {
			fill.Nil(&s.Port, 443)
		}
	},
	Prepare: func(a, old *apiregistrationv1.APIService) {
		if old != nil {
			return
		}
		a.Status = apiregistrationv1.APIServiceStatus{}
		if a.Spec.Service == nil {
			a.Status.Conditions = []apiregistrationv1.APIServiceCondition{Local(a.CreationTimestamp)}
		}
	},
	Tidy:        true,
	Validate:    validateAPIService,
	Conditional: true,
	Status:      true,
	Ungenerated: true,
	PrepareStatus: func(a, old *apiregistrationv1.APIService) {
		metav1.ResetObjectMetaForStatus(a, old)
	},
	ValidateStatus: validateStatus,
	Types:          types,
}

// Local is the condition of what the server serves itself.
func Local(since metav1.Time) apiregistrationv1.APIServiceCondition {
	return apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue,
		LastTransitionTime: since, Reason: "Local", Message: "Local APIServices are always available"}
}

// Available returns the condition of this name, or nil.
func Available(a *apiregistrationv1.APIService) *apiregistrationv1.APIServiceCondition {
	for i := range a.Status.Conditions {
		if c := &a.Status.Conditions[i]; c.Type == apiregistrationv1.Available {
			return c
		}
	}
	return nil
}

func serviceOf(a *apiregistrationv1.APIService) string {
	if s := a.Spec.Service; s != nil {
		return s.Namespace + "/" + s.Name
	}
	return "Local"
}

func availability(a *apiregistrationv1.APIService) string {
	switch c := Available(a); {
	case c == nil:
		return string(apiregistrationv1.ConditionUnknown)
	case c.Status == apiregistrationv1.ConditionTrue || c.Reason == "":
		return string(c.Status)
	default:
		return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
	}
}

var spec = field.NewPath("spec")

func validateAPIService(a, _ *apiregistrationv1.APIService) (errs field.ErrorList) {
	s := &a.Spec
	if want := s.Version + "." + s.Group; a.Name != want && len(pathvalidation.IsValidPathSegmentName(a.Name)) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), a.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)))
	}
	switch {
	case s.Group != "":
		errs = append(errs, validate.Subdomain(s.Group, spec.Child("group"))...)
	case s.Version != "v1":
		errs = append(errs, field.Required(spec.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	errs = append(errs, validate.Messages(spec.Child("version"), s.Version, validation.IsDNS1035Label(s.Version))...)
	if p := s.GroupPriorityMinimum; p <= 0 || p > 20000 {
		errs = append(errs, field.Invalid(spec.Child("groupPriorityMinimum"), p, "must be positive and less than 20000"))
	}
	if p := s.VersionPriority; p <= 0 || p > 1000 {
		errs = append(errs, field.Invalid(spec.Child("versionPriority"), p, "must be positive and less than 1000"))
	}
	if s.Service == nil {
		return append(errs, validateLocal(s)...)
	}
	return append(errs, validateRemote(s)...)
}

// validateLocal checks that nothing says how to reach what is not elsewhere.
func validateLocal(s *apiregistrationv1.APIServiceSpec) (errs field.ErrorList) {
	if n := len(s.CABundle); n != 0 {
		errs = append(errs, field.Invalid(spec.Child("caBundle"), fmt.Sprintf("%d bytes", n), "local APIServices may not have a caBundle"))
	}
	if s.InsecureSkipTLSVerify {
		errs = append(errs, field.Invalid(spec.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"))
	}
	return errs
}

func validateRemote(s *apiregistrationv1.APIServiceSpec) field.ErrorList {
	at := spec.Child("service")
	errs := append(validate.Given(s.Service.Namespace, at.Child("namespace")), validate.Given(s.Service.Name, at.Child("name"))...)
	var port int32
	if s.Service.Port != nil {
		port = *s.Service.Port
	}
	if msgs := validation.IsValidPortNum(int(port)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(at.Child("port"), port, "port is not valid: "+strings.Join(msgs, ", ")))
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		errs = append(errs, field.Invalid(spec.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"))
	}
	return errs
}

func validateStatus(a, _ *apiregistrationv1.APIService) (errs field.ErrorList) {
	at := field.NewPath("status", "conditions")
	for i := range a.Status.Conditions {
		errs = append(errs, validate.Known(a.Status.Conditions[i].Status, at.Index(i).Child("status"),
			apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown)...)
	}
	return errs
}
