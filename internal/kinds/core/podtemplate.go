package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/podspec"
)

// PodTemplate is a pod template for others to copy.
var PodTemplate = &api.Kind[*corev1.PodTemplate]{
	API: "v1", Resource: "podtemplates", Scope: api.Namespaced,
	Whole:   true,
	Columns: podTemplateColumns(),
	Default: func(t *corev1.PodTemplate) { podspec.DefaultTemplate(&t.Template) },
	Warn: func(t, _ *corev1.PodTemplate) []string {
		return podspec.WarnTemplateAt(&t.Template, field.NewPath("template"))
	},
	Validate: func(t, _ *corev1.PodTemplate) field.ErrorList {
		return podspec.ValidateTemplate(&t.Template, field.NewPath("template"))
	},
}

func podTemplateColumns() []api.Column[*corev1.PodTemplate] {
	cols := []api.Column[*corev1.PodTemplate]{column.Name(column.Plain[*corev1.PodTemplate])}
	for _, c := range column.Workload(func(t *corev1.PodTemplate) *corev1.PodSpec { return &t.Template.Spec }) {
		c.Wide = false
		cols = append(cols, c)
	}
	return append(cols, api.Col("Pod Labels", func(t *corev1.PodTemplate) string { return labels.FormatLabels(t.Template.Labels) }))
}
