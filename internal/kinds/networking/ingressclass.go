package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/validate"
)

// maxController is how long the name of an Ingress controller may be.
const maxController = 250

// IngressClass says which controller answers for the Ingresses that name it.
var IngressClass = &api.Kind[*networkingv1.IngressClass]{
	API: "networking.k8s.io/v1", Resource: "ingressclasses", Scope: api.Cluster,
	Columns: []api.Column[*networkingv1.IngressClass]{
		column.Doc(api.Col("Controller", func(c *networkingv1.IngressClass) string { return c.Spec.Controller }),
			"Controller that is responsible for handling this class"),
		column.Doc(api.Col("Parameters", classParameters), "A reference to a resource with additional parameters"),
	},
	Default: func(c *networkingv1.IngressClass) {
		if p := c.Spec.Parameters; p != nil {
			fill.Nil(&p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
		}
	},
	Prepare: func(c, old *networkingv1.IngressClass) {
		c.Generation = grown(old, func() bool { return !equality.Semantic.DeepEqual(c.Spec, old.Spec) })
	},
	Validate: validateIngressClass,
}

// grown is the generation of an object of a kind that keeps one without having
// a status.
func grown[T interface {
	comparable
	api.Object
}](old T, changed func() bool) int64 {
	var none T
	switch {
	case old == none:
		return 1
	case changed():
		return old.GetGeneration() + 1
	}
	return old.GetGeneration()
}

func classParameters(c *networkingv1.IngressClass) string {
	p := c.Spec.Parameters
	if p == nil {
		return "<none>"
	}
	kind := p.Kind
	if p.APIGroup != nil {
		kind += "." + *p.APIGroup
	}
	return kind + "/" + p.Name
}

func validateIngressClass(c, old *networkingv1.IngressClass) (errs field.ErrorList) {
	at := spec.Child("controller")
	if n := len(c.Spec.Controller); n > maxController {
		errs = append(errs, field.TooLong(at, c.Spec.Controller, maxController))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	if c.Spec.Parameters != nil {
		errs = append(errs, validateParameters(c.Spec.Parameters, spec.Child("parameters"))...)
	}
	if old != nil {
		errs = append(errs, validate.Same(c.Spec.Controller, old.Spec.Controller, at)...)
	}
	return errs
}

func validateParameters(p *networkingv1.IngressClassParametersReference, at *field.Path) field.ErrorList {
	errs := validateReference(p.APIGroup, p.Kind, p.Name, "", "", at)
	scope, namespace := at.Child("scope"), at.Child("namespace")
	const cluster, namespaced = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	if p.Scope == nil {
		return append(errs, field.Required(scope, ""))
	}
	errs = append(errs, validate.Known(*p.Scope, scope, cluster, namespaced)...)
	switch *p.Scope {
	case namespaced:
		if p.Namespace == nil {
			errs = append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
		} else {
			errs = append(errs, validate.Label(*p.Namespace, namespace)...)
		}
	case cluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))
		}
	}
	return errs
}
