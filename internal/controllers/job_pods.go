package controllers

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"proa/internal/control"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/core"
)

// Pauses after a pod of a job has failed: the first, and the most.
const (
	jobFirstPause = 10 * time.Second
	jobMostPause  = 10 * time.Minute
)

func (r *run) indexed() bool {
	m := r.job.Spec.CompletionMode
	return m != nil && *m == batchv1.IndexedCompletion
}

// policyFails is why the pod failure policy ends the job, or empty.
func (r *run) policyFails() string {
	for _, p := range r.pods {
		i, rule := r.failureRule(p)
		if rule == nil || rule.Action != batchv1.PodFailurePolicyActionFailJob {
			continue
		}
		if rule.OnExitCodes != nil {
			for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				if t := s.State.Terminated; t != nil && t.ExitCode != 0 && exitCodeMatches(p, rule.OnExitCodes) {
					return fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d matching FailJob rule at index %d", s.Name, p.Namespace, p.Name, t.ExitCode, i)
				}
			}
		}
		for _, want := range rule.OnPodConditions {
			if c := core.PodCondition(p, want.Type); c != nil && c.Status == want.Status {
				return fmt.Sprintf("Pod %s/%s has condition %s matching FailJob rule at index %d", p.Namespace, p.Name, want.Type, i)
			}
		}
	}
	return ""
}

// fill starts pods that are missing and ends those that are too many.
func (r *run) fill(ctx context.Context) (again time.Duration, err error) {
	if r.late() {
		return time.Millisecond, nil // count it first: its place is taken
	}
	if extra := r.surplus(); len(extra) > 0 {
		return 0, r.dismiss(ctx, extra[:min(len(extra), burst)])
	}
	n := r.wanted() - len(r.active)
	if r.waitsForFailed() {
		n -= int(*r.status.Terminating)
	}
	if n <= 0 {
		return 0, nil
	}
	var streaks map[int]*streak
	if r.perIndex() {
		streaks = r.streaks()
	} else if wait := r.pause(); wait > 0 {
		return wait, nil
	}
	n = min(n, burst)
	var free []int
	if r.indexed() {
		if free, again = r.freeIndexes(n, streaks); len(free) == 0 {
			return again, nil
		}
		n = len(free)
	}
	ref := control.OwnerRef(batch.Job, r.job)
	_, err = createPods(ctx, r.c, r.job, n, func(i int) *corev1.Pod {
		p := fromTemplate(&r.job.Spec.Template, r.job, ref)
		track(p)
		if free != nil {
			setIndex(p, r.job.Name, free[i])
			if streaks != nil {
				annotateStreak(p, streaks[free[i]])
			}
		}
		return p
	})
	return again, err
}

// late says whether a pod has ended since they were counted.
func (r *run) late() bool {
	return slices.ContainsFunc(r.pods, func(p *corev1.Pod) bool {
		ended, _ := r.ended(p)
		return ended && tracked(p) && !r.held[p.UID]
	})
}

// wanted is how many pods are to run now.
func (r *run) wanted() int {
	parallel := int(*r.job.Spec.Parallelism)
	if c := r.job.Spec.Completions; c != nil {
		return max(min(int(*c-r.succeeded())-len(r.failed), parallel), 0)
	}
	if r.succeeded() > 0 { // the work queue is empty: let the others finish
		return min(len(r.active), parallel)
	}
	return parallel
}

// surplus are the active pods that should not be: of an index twice or out of
// range, or more than wanted.
func (r *run) surplus() (out []*corev1.Pod) {
	keep := slices.Clone(r.active)
	leastUseful(keep, func(*corev1.Pod) int { return 0 }, r.now)
	if r.indexed() {
		slices.Reverse(keep) // the most useful of an index stays
		seen := map[int]bool{}
		keep = slices.DeleteFunc(keep, func(p *corev1.Pod) bool {
			i := indexOf(p)
			bad := i < 0 || i >= int(*r.job.Spec.Completions) || seen[i] || r.done[i] || r.failed[i]
			seen[i] = true
			if bad {
				out = append(out, p)
			}
			return bad
		})
		slices.Reverse(keep)
	}
	if n := len(keep) - r.wanted(); n > 0 {
		out = append(out, keep[:n]...)
	}
	return out
}

// pause is the time left until a pod may be started after others have failed:
// it doubles with every failure since the last success.
func (r *run) pause() time.Duration {
	var success, last time.Time
	for _, p := range r.pods {
		if p.Status.Phase == corev1.PodSucceeded {
			if t := endOf(p); t.After(success) {
				success = t
			}
		}
	}
	n := 0
	for _, p := range r.pods {
		if ended, failed := r.ended(p); ended && failed && !r.ignores(p) {
			if t := endOf(p); t.After(success) {
				n++
				if t.After(last) {
					last = t
				}
			}
		}
	}
	if n == 0 {
		return 0
	}
	return last.Add(pauseAfter(n)).Sub(r.now)
}

// pauseAfter is the pause after a number of failures in a row, at least one.
func pauseAfter(n int) time.Duration {
	if n > 10 {
		return jobMostPause
	}
	return min(jobFirstPause<<(n-1), jobMostPause)
}

// endOf is when a pod ended, as far as it tells.
func endOf(p *corev1.Pod) (end time.Time) {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	if end.IsZero() && p.DeletionTimestamp != nil {
		end = p.DeletionTimestamp.Time
		if g := p.DeletionGracePeriodSeconds; g != nil {
			end = end.Add(-time.Duration(*g) * time.Second)
		}
	}
	if end.IsZero() {
		if c := core.PodCondition(p, corev1.PodReady); c != nil {
			end = c.LastTransitionTime.Time
		}
	}
	if end.IsZero() {
		end = p.CreationTimestamp.Time
	}
	return end
}

// freeIndexes are the first n indexes that may have a pod now; if some may
// only later, again is when the next of them may.
func (r *run) freeIndexes(n int, streaks map[int]*streak) (free []int, again time.Duration) {
	taken := map[int]bool{}
	for _, p := range r.pods {
		if active(p) || r.waitsForFailed() && !core.PodFinished(p) {
			taken[indexOf(p)] = true
		}
	}
	for i := 0; i < int(*r.job.Spec.Completions) && len(free) < n; i++ {
		if taken[i] || r.done[i] || r.failed[i] {
			continue
		}
		if wait := streaks[i].rest(r.now); wait <= 0 {
			free = append(free, i)
		} else {
			again = sooner(again, wait)
		}
	}
	return free, again
}

func indexOf(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil {
		return -1
	}
	return i
}

// setIndex makes p the job's pod of an index: by name, hostname, label,
// annotation and environment.
func setIndex(p *corev1.Pod, job string, i int) {
	index := strconv.Itoa(i)
	p.GenerateName = podPrefix(job + "-" + index)
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Annotations[batchv1.JobCompletionIndexAnnotation] = index
	p.Labels[batchv1.JobCompletionIndexAnnotation] = index
	if name := job + "-" + index; len(name) <= 63 {
		p.Spec.Hostname = name
	}
	const variable = "JOB_COMPLETION_INDEX"
	set := func(c *corev1.Container) {
		if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == variable }) {
			return
		}
		c.Env = append(c.Env, corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
			FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation),
		}}})
	}
	for i := range p.Spec.InitContainers {
		set(&p.Spec.InitContainers[i])
	}
	for i := range p.Spec.Containers {
		set(&p.Spec.Containers[i])
	}
}

// indexes is a set of completion indexes; its text is like "1,3-5,7".
type indexes map[int]bool

// parseIndexes reads such a text. What is not below the limit is left out: the
// job may have become smaller.
func parseIndexes(text string, limit int32) indexes {
	out := indexes{}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := a; i <= b && i < int(limit); i++ {
			out[i] = true
		}
	}
	return out
}

func (x indexes) add(i int, limit int32) bool {
	if i < 0 || i >= int(limit) || x[i] {
		return false
	}
	x[i] = true
	return true
}

func (x indexes) String() string {
	all := make([]int, 0, len(x))
	for i := range x {
		all = append(all, i)
	}
	slices.Sort(all)
	var parts []string
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1] == all[j]+1 {
			j++
		}
		switch {
		case j == i:
			parts = append(parts, strconv.Itoa(all[i]))
		case j == i+1:
			parts = append(parts, strconv.Itoa(all[i]), strconv.Itoa(all[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", all[i], all[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}
