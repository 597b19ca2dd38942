// Package flowcontrol declares the kinds of flowcontrol.apiserver.k8s.io/v1 and
// the objects of it that every cluster has.
package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
)

const group = "flowcontrol.apiserver.k8s.io/v1"

// defaultPrecedence is the matching precedence of a schema that names none.
const defaultPrecedence = 1000

// FlowSchema says which requests belong to which priority level.
var FlowSchema = &api.Kind[*flowcontrolv1.FlowSchema]{
	API: group, Resource: "flowschemas", Scope: api.Cluster,
	Whole: true,
	Columns: []api.Column[*flowcontrolv1.FlowSchema]{
		column.Name(column.Plain[*flowcontrolv1.FlowSchema]),
		api.Col("PriorityLevel", func(s *flowcontrolv1.FlowSchema) string { return s.Spec.PriorityLevelConfiguration.Name }),
		{Name: "MatchingPrecedence", Type: "string", Cell: func(s *flowcontrolv1.FlowSchema) any { return int64(s.Spec.MatchingPrecedence) }},
		api.Col("DistinguisherMethod", func(s *flowcontrolv1.FlowSchema) string {
			if m := s.Spec.DistinguisherMethod; m != nil {
				return string(m.Type)
			}
			return "<none>"
		}),
		column.Age[*flowcontrolv1.FlowSchema](),
		column.Doc(api.Col("MissingPL", dangling), "references a broken or non-existent PriorityLevelConfiguration"),
	},
	Default: func(s *flowcontrolv1.FlowSchema) { fill.Zero(&s.Spec.MatchingPrecedence, defaultPrecedence) },
	Prepare: func(s, old *flowcontrolv1.FlowSchema) {
		s.Status = flowcontrolv1.FlowSchemaStatus{}
		if old != nil {
			s.Status = old.Status
		}
	},
	Validate:       validateSchema,
	Status:         true,
	PrepareStatus:  func(s, old *flowcontrolv1.FlowSchema) { s.Spec = old.Spec; keepMeta(&s.ObjectMeta, &old.ObjectMeta) },
	ValidateStatus: validateSchemaStatus,
}

// keepMeta puts back the metadata, which no write of a status changes here.
func keepMeta(m, old *metav1.ObjectMeta) {
	owners := m.ManagedFields
	old.DeepCopyInto(m)
	m.ManagedFields = owners
}

// dangling is the state of the condition that a schema's priority level is not there.
func dangling(s *flowcontrolv1.FlowSchema) string {
	for _, c := range s.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			return string(c.Status)
		}
	}
	return "?"
}
