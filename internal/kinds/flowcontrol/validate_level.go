package flowcontrol

import (
	"fmt"
	"math"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxQueues   = 10_000_000
	maxHashBits = 60 // of the hash of a flow that choose its queues
)

func validateLevel(p, _ *flowcontrolv1.PriorityLevelConfiguration) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s, kind, limited, exempt := &p.Spec, specPath.Child("type"), specPath.Child("limited"), specPath.Child("exempt")
	if (p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		add(field.Invalid(kind, s.Type, "type must be 'Exempt' if and only if name is 'exempt'"))
	}
	if s.Limited != nil && s.Type != flowcontrolv1.PriorityLevelEnablementLimited {
		add(field.Forbidden(limited, ""))
	}
	if s.Exempt != nil && s.Type != flowcontrolv1.PriorityLevelEnablementExempt {
		add(field.Forbidden(exempt, ""))
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if e := s.Exempt; e != nil {
			add(shares(e.NominalConcurrencyShares, exempt)...)
			add(lendable(e.LendablePercent, exempt)...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Limited == nil {
			add(field.Required(limited, ""))
		} else {
			add(validateLimited(s.Limited, limited)...)
		}
	case "":
		add(field.Required(kind, ""))
	default:
		add(field.NotSupported(kind, s.Type, []flowcontrolv1.PriorityLevelEnablement{
			flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	return append(errs, validateMandatoryLevel(p)...)
}

// validateMandatoryLevel checks that a level that every cluster has is as it must be.
func validateMandatoryLevel(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	want := mandatoryLevel(p.Name)
	if want == nil {
		return nil
	}
	have, but := p.Spec, ""
	if p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
		have.Exempt, want.Spec.Exempt = nil, nil
		but = " except the 'spec.exempt' field"
	}
	if equality.Semantic.DeepEqual(have, want.Spec) {
		return nil
	}
	return field.ErrorList{field.Invalid(specPath, p.Spec, fmt.Sprintf("spec of '%s'%s must equal the fixed value", p.Name, but))}
}

func shares(n *int32, at *field.Path) field.ErrorList {
	if n != nil && *n < 0 {
		return field.ErrorList{field.Invalid(at.Child("nominalConcurrencyShares"), *n, "must be a non-negative integer")}
	}
	return nil
}

func lendable(n *int32, at *field.Path) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(at.Child("lendablePercent"), *n, "must be between 0 and 100, inclusive")}
	}
	return nil
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, at *field.Path) field.ErrorList {
	errs := append(shares(l.NominalConcurrencyShares, at), lendable(l.LendablePercent, at)...)
	if n := l.BorrowingLimitPercent; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer"))
	}
	response := at.Child("limitResponse")
	q := l.LimitResponse.Queuing
	if q != nil && l.LimitResponse.Type != flowcontrolv1.LimitResponseTypeQueue {
		errs = append(errs, field.Forbidden(response.Child("queuing"), ""))
	}
	switch l.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
	case flowcontrolv1.LimitResponseTypeQueue:
		if q == nil {
			errs = append(errs, field.Required(response.Child("queuing"), ""))
		} else {
			errs = append(errs, validateQueuing(q, response.Child("queuing"))...)
		}
	case "":
		errs = append(errs, field.Required(response.Child("type"), ""))
	default:
		errs = append(errs, field.NotSupported(response.Child("type"), l.LimitResponse.Type,
			[]flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject}))
	}
	return errs
}

// validateQueuing checks that a hand of queues can be dealt from a flow's hash.
func validateQueuing(q *flowcontrolv1.QueuingConfiguration, at *field.Path) (errs field.ErrorList) {
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	switch queues := at.Child("queues"); {
	case q.Queues <= 0:
		errs = append(errs, field.Invalid(queues, q.Queues, "must be positive"))
	case q.Queues > maxQueues:
		errs = append(errs, field.Invalid(queues, q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	switch hand := at.Child("handSize"); {
	case q.HandSize <= 0:
		errs = append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	case math.Ceil(math.Log2(float64(q.Queues))*float64(q.HandSize)) > maxHashBits:
		errs = append(errs, field.Invalid(hand, q.HandSize,
			fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxHashBits)))
	}
	return errs
}

func validateLevelStatus(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return conditions(p.Status.Conditions, func(c flowcontrolv1.PriorityLevelConfigurationCondition) flowcontrolv1.PriorityLevelConfigurationConditionType {
		return c.Type
	})
}
