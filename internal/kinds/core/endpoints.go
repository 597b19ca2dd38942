//lint:file-ignore SA1019 Endpoints is deprecated, and served all the same

package core

import (
	"fmt"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/validate"
)

// Endpoints are the addresses behind a service, in the form that came before EndpointSlice.
var Endpoints = &api.Kind[*corev1.Endpoints]{
	API: "v1", Resource: "endpoints", Singular: "endpoints", Scope: api.Namespaced, Short: []string{"ep"},
	Columns: []api.Column[*corev1.Endpoints]{
		column.Doc(api.Col("Endpoints", endpointsText), "Addresses and ports of the endpoints."),
	},
	Default:        defaultEndpoints,
	Validate:       validateEndpoints,
	Warn:           warnEndpoints,
	CreateOnUpdate: true,
}

func warnEndpoints(e, _ *corev1.Endpoints) (out []string) {
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for j, a := range s.Addresses {
			out = append(out, validation.GetWarningsForIP(at.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range s.NotReadyAddresses {
			out = append(out, validation.GetWarningsForIP(at.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return out
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
		}
	}
}

// endpointsText shows up to three ready addresses.
func endpointsText(e *corev1.Endpoints) string {
	var out []string
	n := 0
	add := func(s string) {
		if n++; n <= 3 {
			out = append(out, s)
		}
	}
	for _, s := range e.Subsets {
		for _, a := range s.Addresses {
			if len(s.Ports) == 0 {
				add(a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				add(net.JoinHostPort(a.IP, fmt.Sprint(p.Port)))
			}
		}
	}
	text := strings.Join(out, ",")
	if n > 3 {
		text += fmt.Sprintf(" + %d more...", n-3)
	}
	return orNone(text)
}

func validateEndpoints(e, old *corev1.Endpoints) (errs field.ErrorList) {
	var was []string // what was allowed once may stay
	if old != nil {
		for _, s := range old.Subsets {
			for _, a := range slices.Concat(s.Addresses, s.NotReadyAddresses) {
				was = append(was, a.IP)
			}
		}
	}
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for name, list := range map[string][]corev1.EndpointAddress{"addresses": s.Addresses, "notReadyAddresses": s.NotReadyAddresses} {
			for j := range list {
				errs = append(errs, validateEndpointAddress(&list[j], was, at.Child(name).Index(j))...)
			}
		}
		for j, p := range s.Ports {
			pp := at.Child("ports").Index(j)
			if p.Name == "" && len(s.Ports) > 1 {
				errs = append(errs, field.Required(pp.Child("name"), ""))
			} else if p.Name != "" {
				errs = append(errs, validate.Label(p.Name, pp.Child("name"))...)
			}
			errs = append(errs, validate.Port(p.Port, pp.Child("port"))...)
			errs = append(errs, validate.OneOf(p.Protocol, pp.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
			if p.AppProtocol != nil {
				errs = append(errs, validate.Qualified(*p.AppProtocol, pp.Child("appProtocol"))...)
			}
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, was []string, at *field.Path) (errs field.ErrorList) {
	errs = validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, was)
	if len(errs) == 0 && !slices.Contains(was, a.IP) {
		errs = NonSpecialIP(a.IP, at.Child("ip"))
	}
	if a.Hostname != "" {
		errs = append(errs, validate.Label(a.Hostname, at.Child("hostname"))...)
	}
	if a.NodeName != nil {
		for _, msg := range validation.IsDNS1123Subdomain(*a.NodeName) {
			errs = append(errs, field.Invalid(at.Child("nodeName"), *a.NodeName, msg))
		}
	}
	return errs
}
