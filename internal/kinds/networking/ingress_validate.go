package networking

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

var spec = field.NewPath("spec")

func validateIngress(i, old *networkingv1.Ingress) (errs field.ErrorList) {
	s := &i.Spec
	if class, ok := i.Annotations[ClassAnnotation]; ok && old == nil && s.IngressClassName != nil {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(ClassAnnotation), class, "can not be set when the class field is also set"))
	}
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(spec, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, spec.Child("defaultBackend"))...)
	}
	for n := range s.Rules {
		errs = append(errs, validateRule(&s.Rules[n], spec.Child("rules").Index(n))...)
	}
	for n, t := range s.TLS {
		at := spec.Child("tls").Index(n)
		for m, host := range t.Hosts {
			errs = append(errs, validateHost(host, at.Child("hosts").Index(m))...)
		}
		if t.SecretName != "" {
			errs = append(errs, validate.Subdomain(t.SecretName, at.Child("secretName"))...)
		}
	}
	if s.IngressClassName != nil {
		errs = append(errs, validate.Subdomain(*s.IngressClassName, spec.Child("ingressClassName"))...)
	}
	return errs
}

// validateHost checks a host name, whose first label may be a star.
func validateHost(host string, at *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return validate.Messages(at, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return validate.Subdomain(host, at)
}

func validateRule(r *networkingv1.IngressRule, at *field.Path) (errs field.ErrorList) {
	if r.Host != "" {
		if isAddress(r.Host) {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateHost(r.Host, at.Child("host"))...)
	}
	if r.HTTP == nil {
		return errs
	}
	paths := at.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, validatePath(&r.HTTP.Paths[i], paths.Index(i))...)
	}
	return errs
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// What a path that is compared element by element may not hold, or end with.
var (
	badSequences = []string{"//", "/./", "/../", "%2f", "%2F"}
	badEnds      = []string{"/..", "/."}
)

func validatePath(p *networkingv1.HTTPIngressPath, at *field.Path) (errs field.ErrorList) {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	bad := func(msg string) { errs = append(errs, field.Invalid(at.Child("path"), p.Path, msg)) }
	absolute := strings.HasPrefix(p.Path, "/")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !absolute {
			bad("must be an absolute path")
		}
		for _, s := range badSequences {
			if strings.Contains(p.Path, s) {
				bad("must not contain '" + s + "'")
			}
		}
		for _, s := range badEnds {
			if strings.HasSuffix(p.Path, s) {
				bad("cannot end with '" + s + "'")
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !absolute {
			bad("must be an absolute path")
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	return append(errs, validateBackend(&p.Backend, at.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateResource(b.Resource, at.Child("resource"))
	case b.Service != nil:
		return validateServiceBackend(b.Service, at)
	}
	return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
}

func validateServiceBackend(s *networkingv1.IngressServiceBackend, at *field.Path) (errs field.ErrorList) {
	name, port := at.Child("service", "name"), at.Child("service", "port")
	if s.Name == "" {
		errs = append(errs, field.Required(name, ""))
	} else {
		errs = append(errs, validate.Messages(name, s.Name, apivalidation.NameIsDNSLabel(s.Name, false))...)
	}
	switch p := s.Port; {
	case p.Name != "" && p.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case p.Name != "":
		errs = append(errs, validate.Messages(port.Child("name"), p.Name, validation.IsValidPortName(p.Name))...)
	case p.Number != 0:
		errs = append(errs, validate.Port(p.Number, port.Child("number"))...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}

func validateResource(r *corev1.TypedLocalObjectReference, at *field.Path) field.ErrorList {
	return validateReference(r.APIGroup, r.Kind, r.Name, "kind is required", "name is required", at)
}

// validateReference checks a reference to an object of any kind; noKind and
// noName are said where one is missing.
func validateReference(group *string, kind, name, noKind, noName string, at *field.Path) (errs field.ErrorList) {
	if group != nil {
		errs = append(errs, validate.Subdomain(*group, at.Child("apiGroup"))...)
	}
	errs = append(errs, requiredSegment(kind, noKind, at.Child("kind"))...)
	return append(errs, requiredSegment(name, noName, at.Child("name"))...)
}

// requiredSegment checks that v is there and can be part of a URL's path.
func requiredSegment(v, missing string, at *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(at, missing)}
	}
	return validate.Messages(at, v, pathvalidation.IsValidPathSegmentName(v))
}

func validateIngressStatus(i, old *networkingv1.Ingress) (errs field.ErrorList) {
	path := field.NewPath("status", "loadBalancer", "ingress")
	var had []string // addresses of older, looser writing stay
	for _, p := range old.Status.LoadBalancer.Ingress {
		had = append(had, p.IP)
	}
	for n, p := range i.Status.LoadBalancer.Ingress {
		at := path.Index(n)
		if p.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), p.IP, true, had)...)
		}
		if p.Hostname != "" {
			errs = append(errs, validate.Subdomain(p.Hostname, at.Child("hostname"))...)
			if isAddress(p.Hostname) {
				errs = append(errs, field.Invalid(at.Child("hostname"), p.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
