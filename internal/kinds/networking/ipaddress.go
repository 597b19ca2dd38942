package networking

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/validate"
)

// IPAddress says what an address, its name, is given to.
var IPAddress = &api.Kind[*networkingv1.IPAddress]{
	API: "networking.k8s.io/v1", Resource: "ipaddresses", Scope: api.Cluster, Short: []string{"ip"},
	Columns: []api.Column[*networkingv1.IPAddress]{
		column.Doc(api.Col("ParentRef", parentOf), networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
	},
	Name:     addressName,
	Validate: validateIPAddress,
}

// parentOf shows what an address belongs to, as resource[.group][/namespace]/name.
func parentOf(a *networkingv1.IPAddress) string {
	p := a.Spec.ParentRef
	if p == nil {
		return "<none>"
	}
	out := p.Resource
	if p.Group != "" {
		out += "." + p.Group
	}
	if p.Namespace != "" {
		out += "/" + p.Namespace
	}
	return out + "/" + p.Name
}

// addressName checks that a name is an address, written the one right way.
func addressName(name string, prefix bool) []string {
	if prefix {
		return nil // whatever is appended to it makes the name
	}
	a, err := netip.ParseAddr(name)
	switch {
	case err != nil:
		return []string{err.Error()}
	case a.String() != name:
		return []string{"must be a canonical format IP address"}
	}
	return nil
}

func validateIPAddress(a, old *networkingv1.IPAddress) (errs field.ErrorList) {
	at := spec.Child("parentRef")
	if p := a.Spec.ParentRef; p == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		if p.Group != "" {
			errs = append(errs, validate.Subdomain(p.Group, at.Child("group"))...)
		}
		errs = append(errs, requiredSegment(p.Resource, "", at.Child("resource"))...)
		errs = append(errs, requiredSegment(p.Name, "", at.Child("name"))...)
		if p.Namespace != "" {
			errs = append(errs, validate.Messages(at.Child("namespace"), p.Namespace, pathvalidation.IsValidPathSegmentName(p.Namespace))...)
		}
	}
	if old != nil {
		errs = append(errs, validate.Fixed(a.Spec.ParentRef, old.Spec.ParentRef, at)...)
	}
	return errs
}
