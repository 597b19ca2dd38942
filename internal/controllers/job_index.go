package controllers

import (
	"fmt"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// perIndex says whether every index of the job has a back-off limit of its own.
func (r *run) perIndex() bool { return r.indexed() && r.job.Spec.BackoffLimitPerIndex != nil }

// over says whether the job's end is decided.
func (r *run) over() bool {
	return jobCondition(r.status, batchv1.JobFailureTarget) != nil || jobCondition(r.status, batchv1.JobSuccessCriteriaMet) != nil
}

// A streak is how often an index has failed. A pod carries in its annotations
// what came before it.
type streak struct {
	counted, ignored int32
	last             *corev1.Pod // the failed pod that tells
	running          bool        // a pod of the index has not ended
}

// streaks are those of all indexes that have had a pod.
func (r *run) streaks() map[int]*streak {
	out := map[int]*streak{}
	for _, p := range r.pods {
		i := indexOf(p)
		if i < 0 {
			continue
		}
		s := out[i]
		if s == nil {
			s = &streak{}
			out[i] = s
		}
		ended, failed := r.ended(p)
		if !ended {
			s.running = true
		}
		if !failed || p.Status.Phase != corev1.PodFailed && !tracked(p) { // it was dismissed
			continue
		}
		counted, _ := number(p, batchv1.JobIndexFailureCountAnnotation)
		ignored, _ := number(p, batchv1.JobIndexIgnoredFailureCountAnnotation)
		if r.ignores(p) {
			ignored++
		} else {
			counted++
		}
		if s.last == nil || counted+ignored > s.counted+s.ignored {
			s.counted, s.ignored, s.last = counted, ignored, p
		}
	}
	return out
}

// failIndexes notes the indexes that are not tried again, and returns the failed
// pods that have to stay until their successor is there: only they know how
// often their index has failed.
func (r *run) failIndexes() (held map[types.UID]bool) {
	if !r.perIndex() || r.over() { // what is stopped now has not failed by itself
		return nil
	}
	held = map[types.UID]bool{}
	for _, p := range r.pods {
		if _, rule := r.failureRule(p); rule != nil && rule.Action == batchv1.PodFailurePolicyActionFailIndex && !r.done[indexOf(p)] {
			r.failed.add(indexOf(p), *r.job.Spec.Completions)
		}
	}
	for i, s := range r.streaks() {
		switch {
		case s.last == nil || r.done[i]:
		case s.counted > *r.job.Spec.BackoffLimitPerIndex:
			r.failed.add(i, *r.job.Spec.Completions)
		case !s.running && !r.failed[i]:
			held[s.last.UID] = true
		}
	}
	return held
}

// rest is the time left until an index may be tried again.
func (s *streak) rest(now time.Time) time.Duration {
	if s == nil || s.last == nil {
		return 0
	}
	return endOf(s.last).Add(pauseAfter(int(s.counted + s.ignored))).Sub(now)
}

// annotateStreak gives the next pod of an index what it has to carry on.
func annotateStreak(p *corev1.Pod, s *streak) {
	if s == nil {
		s = &streak{}
	}
	p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(s.counted))
	if s.ignored > 0 {
		p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(s.ignored))
	}
}

// satisfied is the rule of the success policy that is met, in words; empty if none is.
func (r *run) satisfied() string {
	policy := r.job.Spec.SuccessPolicy
	if policy == nil || !r.indexed() {
		return ""
	}
	for n, rule := range policy.Rules {
		have, need := len(r.done), 0
		if rule.SucceededIndexes != nil {
			asked := parseIndexes(*rule.SucceededIndexes, *r.job.Spec.Completions)
			have, need = 0, len(asked)
			for i := range asked {
				if r.done[i] {
					have++
				}
			}
		}
		if rule.SucceededCount != nil {
			need = int(*rule.SucceededCount)
		}
		if need > 0 && have >= need {
			return fmt.Sprintf("Matched rules at index %d", n)
		}
	}
	return ""
}
