package controllers

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/types"
)

// downWindow is for how long the target does not become smaller than it was
// to be, if nothing else is said.
const downWindow = 300

// A scalePast is what an autoscaler remembers: what it found lately and what it did.
type scalePast struct {
	uid        types.UID
	looked     time.Time
	generation int64
	found      []sized // sizes that metrics asked for
	done       []sized // changes, up or down
}

type sized struct {
	at time.Time
	n  int32
}

// scaled notes a change of size.
func (p *scalePast) scaled(from, to int32, now time.Time) {
	p.done = append(slices.DeleteFunc(p.done, func(s sized) bool { return now.Sub(s.at) > time.Hour }), sized{now, to - from})
}

// since is the size at the beginning of a period, from the one of now.
func (p *scalePast) since(current int32, seconds int32, now time.Time) int32 {
	for _, s := range p.done {
		if now.Sub(s.at) < time.Duration(seconds)*time.Second {
			current -= s.n
		}
	}
	return current
}

// rulesOf are the rules for one direction, with what holds if they are left out.
func rulesOf(h *autoscalingv2.HorizontalPodAutoscaler, up bool) autoscalingv2.HPAScalingRules {
	var out autoscalingv2.HPAScalingRules
	if b := h.Spec.Behavior; b != nil && up && b.ScaleUp != nil {
		out = *b.ScaleUp
	} else if b != nil && !up && b.ScaleDown != nil {
		out = *b.ScaleDown
	}
	if out.StabilizationWindowSeconds == nil && !up {
		out.StabilizationWindowSeconds = new(int32(downWindow))
	}
	if out.Policies == nil {
		out.Policies = []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}}
		if up {
			out.Policies = append(out.Policies, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15})
		}
	}
	return out
}

// stabilize keeps within what was found lately: no more than the least of the
// window for going up, no less than the most of the window for going down.
func (p *scalePast) stabilize(h *autoscalingv2.HorizontalPodAutoscaler, current, proposed int32, now time.Time) (n int32) {
	if len(p.found) == 0 {
		p.found = []sized{{now, current}} // it was as it was for a reason
	}
	window := func(up bool) time.Duration {
		if s := rulesOf(h, up).StabilizationWindowSeconds; s != nil {
			return time.Duration(*s) * time.Second
		}
		return 0
	}
	low, high := proposed, proposed
	for _, f := range p.found {
		if now.Sub(f.at) < window(true) {
			low = min(low, f.n)
		}
		if now.Sub(f.at) < window(false) {
			high = max(high, f.n)
		}
	}
	p.found = append(slices.DeleteFunc(p.found, func(f sized) bool { return now.Sub(f.at) > max(window(true), window(false)) }), sized{now, proposed})
	return min(max(current, low), high)
}

// pace is how far the policies let the size go in one direction.
func (p *scalePast) pace(r autoscalingv2.HPAScalingRules, current int32, up bool, now time.Time) int32 {
	if r.SelectPolicy != nil && *r.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	widest := r.SelectPolicy == nil || *r.SelectPolicy == autoscalingv2.MaxChangePolicySelect
	out := current
	for i, policy := range r.Policies {
		start := p.since(current, policy.PeriodSeconds, now)
		to := start
		switch {
		case policy.Type == autoscalingv2.PodsScalingPolicy && up:
			to += policy.Value
		case policy.Type == autoscalingv2.PodsScalingPolicy:
			to -= policy.Value
		case up:
			to = int32(min(math.Ceil(float64(start)*(1+float64(policy.Value)/100)), math.MaxInt32))
		default:
			to = int32(float64(start) * (1 - float64(policy.Value)/100))
		}
		if i == 0 || (up == widest) == (to > out) {
			out = to
		}
	}
	if up {
		return max(out, current)
	}
	return min(out, current)
}

// limit makes of what the metrics ask for what is done now.
func (r *autoscale) limit(current, proposed, least, most int32) int32 {
	n := r.past.stabilize(r.hpa, current, proposed, r.now)
	switch {
	case n > proposed:
		r.condition(autoscalingv2.AbleToScale, true, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	case n < proposed:
		r.condition(autoscalingv2.AbleToScale, true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	default:
		r.condition(autoscalingv2.AbleToScale, true, "ReadyForNewScale", "recommended size matches current size")
	}
	limited := func(to int32, reason, message string) int32 {
		r.condition(autoscalingv2.ScalingLimited, true, reason, "%s", message)
		return to
	}
	up := n > current
	pace := r.past.pace(rulesOf(r.hpa, up), current, up, r.now)
	switch {
	case up && n > min(most, pace):
		if pace < most {
			return limited(pace, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
		}
		return limited(most, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
	case n < current && n < max(least, pace):
		if pace > least {
			return limited(pace, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
		}
		return limited(least, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
	}
	r.condition(autoscalingv2.ScalingLimited, false, "DesiredWithinRange", "the desired count is within the acceptable range")
	return n
}
