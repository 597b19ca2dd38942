package core

import (
	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
)

// ComponentStatus tells how a part of the control plane is. It is not stored:
// reads are answered by the server, which knows.
var ComponentStatus = &api.Kind[*corev1.ComponentStatus]{
	API: "v1", Resource: "componentstatuses", Scope: api.Cluster, Short: []string{"cs"},
	Virtual: true, Verbs: []api.Verb{api.Get, api.List},
	Whole: true,
	Columns: []api.Column[*corev1.ComponentStatus]{
		column.Name(column.Plain[*corev1.ComponentStatus]),
		column.Doc(api.Col("Status", func(c *corev1.ComponentStatus) string {
			switch healthy(c).Status {
			case corev1.ConditionTrue:
				return "Healthy"
			case "":
				return "Unknown"
			}
			return "Unhealthy"
		}), "Status of the component conditions"),
		column.Doc(api.Col("Message", func(c *corev1.ComponentStatus) string { return healthy(c).Message }), "Message of the component conditions"),
		column.Doc(api.Col("Error", func(c *corev1.ComponentStatus) string { return healthy(c).Error }), "Error of the component conditions"),
	},
}

func healthy(c *corev1.ComponentStatus) corev1.ComponentCondition {
	for _, k := range c.Conditions {
		if k.Type == corev1.ComponentHealthy {
			return k
		}
	}
	return corev1.ComponentCondition{}
}
