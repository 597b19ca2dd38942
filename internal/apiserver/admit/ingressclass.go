package admit

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"

	"proa/internal/api"
	"proa/internal/kinds/networking"
)

// defaultIngressClass gives an Ingress that names no class the default one: the
// newest of those that are marked so, of several made at once the first by name.
var defaultIngressClass = &Step{
	Name: "DefaultIngressClass", For: []string{"ingresses.networking.k8s.io"}, Verbs: []api.Verb{api.Create},
	Mutate: func(_ context.Context, a *Attributes) error {
		i := a.New.(*networkingv1.Ingress)
		if _, named := i.Annotations[networking.ClassAnnotation]; named || i.Spec.IngressClassName != nil {
			return nil
		}
		var best *networkingv1.IngressClass
		for o := range a.State.Objects(networkingv1.Resource("ingressclasses"), "") {
			c, ok := o.(*networkingv1.IngressClass)
			if ok && c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" && (best == nil || newer(c, best)) {
				best = c
			}
		}
		if best != nil {
			i.Spec.IngressClassName = new(best.Name) // the class is shared
		}
		return nil
	},
}

func newer(a, b *networkingv1.IngressClass) bool {
	if t, u := a.CreationTimestamp, b.CreationTimestamp; !t.Equal(&u) {
		return u.Before(&t)
	}
	return a.Name < b.Name
}
