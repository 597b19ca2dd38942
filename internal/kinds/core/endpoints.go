package core

import (
	"fmt"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
)

// Endpoints are the addresses behind a service, in the form that came before EndpointSlice.
var Endpoints = &api.Kind[*corev1.Endpoints]{
	API: "v1", Resource: "endpoints", Singular: "endpoints", Scope: api.Namespaced, Short: []string{"ep"},
	Columns: []api.Column[*corev1.Endpoints]{
		column.Doc(api.Col("Endpoints", endpointsText), "Addresses and ports of the endpoints."),
	},
	Default:        defaultEndpoints,
	Validate:       validateEndpoints,
	CreateOnUpdate: true,
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
