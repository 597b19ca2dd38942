// Package node declares the kinds of node.k8s.io/v1.
package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// RuntimeClass names a way to run containers that the nodes know by its handler.
var RuntimeClass = &api.Kind[*nodev1.RuntimeClass]{
	API: "node.k8s.io/v1", Resource: "runtimeclasses", Scope: api.Cluster,
	Conditional: true,
	Columns: []api.Column[*nodev1.RuntimeClass]{
		api.Col("Handler", func(r *nodev1.RuntimeClass) string { return r.Handler }),
	},
	Validate: validateRuntimeClass,
	Warn: func(r, _ *nodev1.RuntimeClass) (out []string) {
		if r.Scheduling == nil {
			return nil
		}
		for k := range r.Scheduling.NodeSelector {
			if msg := podspec.OldNodeLabel(k); msg != "" {
				out = append(out, "scheduling.nodeSelector: "+k+" is "+msg)
			}
		}
		slices.Sort(out)
		return out
	},
}

func validateRuntimeClass(r, old *nodev1.RuntimeClass) field.ErrorList {
	handler := field.NewPath("handler")
	errs := validate.Given(r.Handler, handler)
	if r.Handler != "" {
		errs = validate.Label(r.Handler, handler)
	}
	if r.Overhead != nil {
		for name, q := range r.Overhead.PodFixed {
			errs = append(errs, podspec.Quantity(name, q, field.NewPath("overhead", "podFixed").Key(string(name)))...)
		}
	}
	if s := r.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
		errs = append(errs, podspec.ValidateTolerations(s.Tolerations, at.Child("tolerations"))...)
		for i, t := range s.Tolerations {
			if slices.ContainsFunc(s.Tolerations[:i], func(o corev1.Toleration) bool { return equality.Semantic.DeepEqual(t, o) }) {
				errs = append(errs, field.Duplicate(at.Child("tolerations").Index(i), t))
			}
		}
	}
	if old != nil {
		errs = append(errs, validate.Fixed(r.Handler, old.Handler, handler)...)
	}
	return errs
}
