// Package scheduling declares the kinds of scheduling.k8s.io/v1.
package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
)

// HighestUserPriority is the largest value that a class of a user may have.
const HighestUserPriority = 1_000_000_000

// systemPriority are the values of the classes that only the system makes.
var systemPriority = map[string]int32{"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}

// PriorityClass is a name for a pod priority.
var PriorityClass = &api.Kind[*schedulingv1.PriorityClass]{
	API: "scheduling.k8s.io/v1", Resource: "priorityclasses", Scope: api.Cluster, Short: []string{"pc"},
	Whole: true,
	Columns: []api.Column[*schedulingv1.PriorityClass]{
		column.Name(column.Plain[*schedulingv1.PriorityClass]),
		api.Col("Value", func(p *schedulingv1.PriorityClass) int32 { return p.Value }),
		api.Col("Global-Default", func(p *schedulingv1.PriorityClass) bool { return p.GlobalDefault }),
		column.Age[*schedulingv1.PriorityClass](),
		api.Col("PreemptionPolicy", func(p *schedulingv1.PriorityClass) string {
			if p.PreemptionPolicy == nil {
				return "<unset>"
			}
			return string(*p.PreemptionPolicy)
		}),
	},
	Default: func(p *schedulingv1.PriorityClass) { fill.Nil(&p.PreemptionPolicy, corev1.PreemptLowerPriority) },
	Prepare: func(p, old *schedulingv1.PriorityClass) {
		p.Generation = 1
		if old != nil {
			p.Generation = old.Generation
		}
	},
	Validate: validatePriorityClass,
}

func validatePriorityClass(p, old *schedulingv1.PriorityClass) (errs field.ErrorList) {
	if strings.HasPrefix(p.Name, "system-") {
		want, known := systemPriority[p.Name]
		switch {
		case !known:
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+
				fmt.Sprintf("%v is not a known system priority class", p.Name)))
		case p.Value != want:
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+
				fmt.Sprintf("value of %v PriorityClass must be %v", p.Name, want)))
		}
	} else if p.Value > HighestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"),
			fmt.Sprintf("maximum allowed value of a user defined priority is %v", HighestUserPriority)))
	}
	if v := p.PreemptionPolicy; v != nil && *v != corev1.PreemptNever && *v != corev1.PreemptLowerPriority {
		errs = append(errs, field.NotSupported(field.NewPath("preemptionPolicy"), *v,
			[]corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
	}
	if old != nil {
		if p.Value != old.Value {
			errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
		}
		errs = append(errs, apivalidation.ValidateImmutableField(p.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	}
	return errs
}
