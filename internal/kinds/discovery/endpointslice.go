// Package discovery declares the kinds of discovery.k8s.io/v1.
package discovery

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/fill"
)

// EndpointSlice is some of the endpoints behind a service.
var EndpointSlice = &api.Kind[*discoveryv1.EndpointSlice]{
	API: "discovery.k8s.io/v1", Resource: "endpointslices", Scope: api.Namespaced,
	Columns: []api.Column[*discoveryv1.EndpointSlice]{
		api.Col("AddressType", func(e *discoveryv1.EndpointSlice) string { return string(e.AddressType) }),
		api.Col("Ports", slicePorts),
		api.Col("Endpoints", sliceEndpoints),
	},
	Default:  defaultSlice,
	Prepare:  prepareSlice,
	Validate: validateSlice,
	Warn:     warnSlice,
}

func defaultSlice(e *discoveryv1.EndpointSlice) {
	for i := range e.Ports {
		fill.Nil(&e.Ports[i].Name, "")
		fill.Nil(&e.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// prepareSlice keeps metadata.generation: it grows with every change of
// anything but metadata. What v1beta1 called topology cannot be written any more.
func prepareSlice(e, old *discoveryv1.EndpointSlice) {
	for i := range e.Endpoints {
		e.Endpoints[i].DeprecatedTopology = nil
	}
	if old == nil {
		e.Generation = 1
		return
	}
	e.Generation = old.Generation
	same := equality.Semantic.DeepEqual
	if !same(e.Endpoints, old.Endpoints) || !same(e.Ports, old.Ports) || !same(e.Labels, old.Labels) || e.AddressType != old.AddressType {
		e.Generation++
	}
}

// ours is what the managed-by label says of slices that come from our own
// controllers, whose addresses are in order.
var ours = []string{"endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"}

func warnSlice(e, _ *discoveryv1.EndpointSlice) (out []string) {
	if e.AddressType == discoveryv1.AddressTypeFQDN {
		return []string{"spec.addressType: FQDN endpoints are deprecated"}
	}
	if slices.Contains(ours, e.Labels[discoveryv1.LabelManagedBy]) {
		return nil
	}
	for i := range e.Endpoints {
		for j, a := range e.Endpoints[i].Addresses {
			out = append(out, validation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return out
}

func slicePorts(e *discoveryv1.EndpointSlice) string {
	var out []string
	for _, p := range e.Ports {
		if p.Port != nil {
			out = append(out, fmt.Sprint(*p.Port))
		} else {
			out = append(out, "*")
		}
	}
	if len(out) == 0 {
		return "<unset>"
	}
	return firstThree(out)
}

func sliceEndpoints(e *discoveryv1.EndpointSlice) string {
	var out []string
	for _, p := range e.Endpoints {
		out = append(out, p.Addresses...)
	}
	if len(out) == 0 {
		return "<unset>"
	}
	return firstThree(out)
}

func firstThree(s []string) string {
	if len(s) <= 3 {
		return strings.Join(s, ",")
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(s[:3], ","), len(s)-3)
}
