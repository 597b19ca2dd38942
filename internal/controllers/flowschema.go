package controllers

import (
	"context"
	"fmt"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/flowcontrol"
)

// FlowSchema says of each flow schema whether the priority level that it names
// is there (condition Dangling).
var FlowSchema = &control.Controller[*flowcontrolv1.FlowSchema]{
	Name: "flowschema",
	For:  flowcontrol.FlowSchema,
	Watches: []control.Watch{control.On(flowcontrol.PriorityLevelConfiguration,
		func(c *control.Cluster, l *flowcontrolv1.PriorityLevelConfiguration) (keys []control.Key) {
			for _, s := range control.All(c, flowcontrol.FlowSchema, "") {
				if s.Spec.PriorityLevelConfiguration.Name == l.Name {
					keys = append(keys, control.KeyOf(s))
				}
			}
			return keys
		})},
	Writes: []api.Definition{flowcontrol.FlowSchema},
	Reconcile: func(ctx context.Context, c *control.Cluster, s *flowcontrolv1.FlowSchema) (time.Duration, error) {
		_, there := control.Get(c, flowcontrol.PriorityLevelConfiguration, "", s.Spec.PriorityLevelConfiguration.Name)
		_, err := control.SetStatus(ctx, c, flowcontrol.FlowSchema, s, func(s *flowcontrolv1.FlowSchema) {
			setDangling(s, there, metav1.NewTime(c.Now()).Rfc3339Copy())
		})
		return 0, ignoreNotFound(err)
	},
}

// setDangling sets the condition, and its time if it has changed.
func setDangling(s *flowcontrolv1.FlowSchema, there bool, now metav1.Time) {
	level := s.Spec.PriorityLevelConfiguration.Name
	next := flowcontrolv1.FlowSchemaCondition{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", level), LastTransitionTime: now}
	if !there {
		next.Status, next.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		next.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", level)
	}
	for i := range s.Status.Conditions {
		if have := &s.Status.Conditions[i]; have.Type == next.Type {
			if have.Status == next.Status {
				next.LastTransitionTime = have.LastTransitionTime
			}
			*have = next
			return
		}
	}
	s.Status.Conditions = append(s.Status.Conditions, next)
}
