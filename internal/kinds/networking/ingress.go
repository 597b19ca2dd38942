// Package networking declares the kinds of networking.k8s.io/v1.
package networking

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
)

// ClassAnnotation named an Ingress's class before spec.ingressClassName did.
const ClassAnnotation = "kubernetes.io/ingress.class"

// Ingress says which services answer for which hosts and paths from outside.
var Ingress = &api.Kind[*networkingv1.Ingress]{
	API: "networking.k8s.io/v1", Resource: "ingresses", Scope: api.Namespaced, Short: []string{"ing"},
	Columns: []api.Column[*networkingv1.Ingress]{
		column.Doc(api.Col("Class", func(i *networkingv1.Ingress) string {
			if i.Spec.IngressClassName == nil {
				return "<none>"
			}
			return *i.Spec.IngressClassName
		}), "The name of the IngressClass resource that should be used for additional configuration"),
		column.Doc(api.Col("Hosts", ingressHosts), "Hosts that incoming requests are matched against before the ingress rule"),
		column.Doc(api.Col("Address", ingressAddress), "Address is a list containing ingress points for the load-balancer"),
		column.Doc(api.Col("Ports", func(i *networkingv1.Ingress) string {
			if len(i.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}), "Ports of TLS configurations that open"),
	},
	Validate:       validateIngress,
	Warn:           warnIngress,
	Status:         true,
	ValidateStatus: validateIngressStatus,
}

// ingressHosts shows the first three hosts of an Ingress's rules.
func ingressHosts(i *networkingv1.Ingress) string {
	var hosts []string
	for _, r := range i.Spec.Rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	switch n := len(hosts); {
	case n == 0:
		return "*"
	case n > 3:
		return fmt.Sprintf("%s + %d more...", strings.Join(hosts[:3], ","), n-3)
	}
	return strings.Join(hosts, ",")
}

// ingressAddress shows every address at which an Ingress is reached, in order.
func ingressAddress(i *networkingv1.Ingress) string {
	var out []string
	for _, p := range i.Status.LoadBalancer.Ingress {
		switch {
		case p.IP != "":
			out = append(out, p.IP)
		case p.Hostname != "":
			out = append(out, p.Hostname)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}

func warnIngress(i, old *networkingv1.Ingress) []string {
	if _, ok := i.Annotations[ClassAnnotation]; ok && old == nil && i.Spec.IngressClassName == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", ClassAnnotation)}
	}
	return nil
}
