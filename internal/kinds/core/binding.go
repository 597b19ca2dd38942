package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// Binding puts the pod that it has the name of on a node. It is the older form
// of the subresource pods/binding.
var Binding = &api.Kind[*corev1.Binding]{
	API: "v1", Resource: "bindings", Scope: api.Namespaced, Virtual: true,
	Validate: func(b, _ *corev1.Binding) field.ErrorList { return validateBinding(b) },
	Do: func(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
		pod := *r
		pod.Resource, pod.Sub = Pod.Def(), "binding"
		if b, ok := r.Object.(*corev1.Binding); ok {
			pod.Name = b.Name
		}
		return bind(ctx, env, &pod)
	},
}

func validateBinding(b *corev1.Binding) (errs field.ErrorList) {
	target := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(target.Child("name"), ""))
	}
	return errs
}
