package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"proa/internal/api"
	"proa/internal/kinds/fill"
)

// PriorityLevelConfiguration says how many requests of a priority run at once,
// and what becomes of the others.
var PriorityLevelConfiguration = &api.Kind[*flowcontrolv1.PriorityLevelConfiguration]{
	API: group, Resource: "prioritylevelconfigurations", Scope: api.Cluster,
	Columns: []api.Column[*flowcontrolv1.PriorityLevelConfiguration]{
		api.Col("Type", func(p *flowcontrolv1.PriorityLevelConfiguration) string { return string(p.Spec.Type) }),
		number("NominalConcurrencyShares", func(p *flowcontrolv1.PriorityLevelConfiguration) *int32 {
			if l := p.Spec.Limited; l != nil {
				return l.NominalConcurrencyShares
			}
			return nil
		}),
		queueing("Queues", func(q *flowcontrolv1.QueuingConfiguration) *int32 { return &q.Queues }),
		queueing("HandSize", func(q *flowcontrolv1.QueuingConfiguration) *int32 { return &q.HandSize }),
		queueing("QueueLengthLimit", func(q *flowcontrolv1.QueuingConfiguration) *int32 { return &q.QueueLengthLimit }),
	},
	Default: defaultLevel,
	Prepare: func(p, old *flowcontrolv1.PriorityLevelConfiguration) {
		p.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
		if old != nil {
			p.Status = old.Status
		}
	},
	Validate: validateLevel,
	Status:   true,
	PrepareStatus: func(p, old *flowcontrolv1.PriorityLevelConfiguration) {
		p.Spec = old.Spec
		keepMeta(&p.ObjectMeta, &old.ObjectMeta)
	},
	ValidateStatus: validateLevelStatus,
}

// number is a column of a number that may be missing.
func number(name string, f func(*flowcontrolv1.PriorityLevelConfiguration) *int32) api.Column[*flowcontrolv1.PriorityLevelConfiguration] {
	return api.Column[*flowcontrolv1.PriorityLevelConfiguration]{Name: name, Type: "string", Cell: func(p *flowcontrolv1.PriorityLevelConfiguration) any {
		if n := f(p); n != nil {
			return int64(*n)
		}
		return "<none>"
	}}
}

func queueing(name string, f func(*flowcontrolv1.QueuingConfiguration) *int32) api.Column[*flowcontrolv1.PriorityLevelConfiguration] {
	return number(name, func(p *flowcontrolv1.PriorityLevelConfiguration) *int32 {
		if l := p.Spec.Limited; l != nil && l.LimitResponse.Queuing != nil {
			return f(l.LimitResponse.Queuing)
		}
		return nil
	})
}

func defaultLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if l := p.Spec.Limited; l != nil {
		fill.Nil(&l.NominalConcurrencyShares, 30)
		fill.Nil(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			fill.Zero(&q.Queues, 64)
			fill.Zero(&q.HandSize, 8)
			fill.Zero(&q.QueueLengthLimit, 50)
		}
	}
	if e := p.Spec.Exempt; e != nil {
		fill.Nil(&e.NominalConcurrencyShares, 0)
		fill.Nil(&e.LendablePercent, 0)
	}
}
