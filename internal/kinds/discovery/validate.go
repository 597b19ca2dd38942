package discovery

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/core"
	"proa/internal/kinds/validate"
)

// The limits of one slice.
const (
	MaxEndpoints = 1000
	maxAddresses = 100
	maxPorts     = 20_000
	maxHints     = 8
)

func validateSlice(e, old *discoveryv1.EndpointSlice) (errs field.ErrorList) {
	errs = validate.OneOf(e.AddressType, field.NewPath("addressType"),
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	path := field.NewPath("endpoints")
	if n := len(e.Endpoints); n > MaxEndpoints {
		return append(errs, field.TooMany(path, n, MaxEndpoints))
	}
	was := map[string]bool{} // what was allowed once may stay
	if old != nil {
		for i := range old.Endpoints {
			for _, a := range old.Endpoints[i].Addresses {
				was[a] = true
			}
		}
	}
	for i := range e.Endpoints {
		errs = append(errs, validateEndpoint(&e.Endpoints[i], e.AddressType, was, path.Index(i))...)
	}
	errs = append(errs, validatePorts(e.Ports, field.NewPath("ports"))...)
	if old != nil {
		errs = append(errs, validate.Fixed(e.AddressType, old.AddressType, field.NewPath("addressType"))...)
	}
	return errs
}

func validateEndpoint(e *discoveryv1.Endpoint, family discoveryv1.AddressType, was map[string]bool, at *field.Path) (errs field.ErrorList) {
	add := func(list ...*field.Error) { errs = append(errs, list...) }
	addresses := at.Child("addresses")
	if len(e.Addresses) == 0 {
		add(field.Required(addresses, ""))
	} else if n := len(e.Addresses); n > maxAddresses {
		add(field.TooMany(addresses, n, maxAddresses))
	}
	for i, a := range e.Addresses {
		p := addresses.Index(i)
		if was[a] {
			continue
		}
		if family == discoveryv1.AddressTypeFQDN {
			add(validation.IsFullyQualifiedDomainName(p, a)...)
			continue
		}
		if bad := validation.IsValidIPForLegacyField(p, a, true, nil); len(bad) > 0 {
			add(bad...)
			continue
		}
		ip, err := netip.ParseAddr(a)
		switch {
		case err == nil && family == discoveryv1.AddressTypeIPv4 && !ip.Unmap().Is4():
			add(field.Invalid(p, a, "must be an IPv4 address"))
		case err == nil && family == discoveryv1.AddressTypeIPv6 && ip.Unmap().Is4():
			add(field.Invalid(p, a, "must be an IPv6 address"))
		case err == nil:
			add(core.NonSpecialIP(a, p)...)
		}
	}
	if n := e.NodeName; n != nil {
		add(validate.Subdomain(*n, at.Child("nodeName"))...)
	}
	if z := e.Zone; z != nil {
		add(validate.Messages(at.Child("zone"), *z, validation.IsValidLabelValue(*z))...)
	}
	if h := e.Hostname; h != nil {
		add(validate.Label(*h, at.Child("hostname"))...)
	}
	if h := e.Hints; h != nil {
		var zones, nodes []string
		for _, z := range h.ForZones {
			zones = append(zones, z.Name)
		}
		for _, n := range h.ForNodes {
			nodes = append(nodes, n.Name)
		}
		add(validateHints(zones, validation.IsValidLabelValue, at.Child("hints", "forZones"))...)
		add(validateHints(nodes, validation.IsDNS1123Subdomain, at.Child("hints", "forNodes"))...)
	}
	return errs
}

// validateHints checks the names of the zones, or nodes, that should use an endpoint.
func validateHints(names []string, rule func(string) []string, path *field.Path) (errs field.ErrorList) {
	if n := len(names); n > maxHints {
		return append(errs, field.TooMany(path, n, maxHints))
	}
	for i, n := range names {
		at := path.Index(i).Child("name")
		if slices.Contains(names[:i], n) {
			errs = append(errs, field.Duplicate(at, n))
		}
		errs = append(errs, validate.Messages(at, n, rule(n))...)
	}
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) (errs field.ErrorList) {
	if n := len(ports); n > maxPorts {
		return append(errs, field.TooMany(path, n, maxPorts))
	}
	names := map[string]bool{}
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != nil {
			if *p.Name != "" {
				errs = append(errs, validate.Label(*p.Name, at.Child("name"))...)
			}
			if names[*p.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), *p.Name))
			}
			names[*p.Name] = true
		}
		if p.Port != nil {
			errs = append(errs, validate.Port(*p.Port, at.Child("port"))...)
		}
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, validate.OneOf(*p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, validate.Qualified(*p.AppProtocol, at.Child("appProtocol"))...)
		}
	}
	return errs
}
