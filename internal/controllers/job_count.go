package controllers

import (
	"context"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

func tracked(p *corev1.Pod) bool {
	return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
}

// track has a pod carry the job's finalizer, so that its end is counted.
func track(p *corev1.Pod) {
	if !tracked(p) {
		p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	}
}

// untrack takes the job's finalizer off a pod.
func untrack(ctx context.Context, c *control.Cluster, p *corev1.Pod) error {
	next := api.Clone(p)
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
	_, err := core.Pod.Update(ctx, c, next)
	if apierrors.IsConflict(err) { // the node agent writes it too: look again
		var now *corev1.Pod
		if now, err = core.Pod.Get(ctx, c, p.Namespace, p.Name); err == nil && now.UID == p.UID && tracked(now) {
			next = api.Clone(now)
			next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
			_, err = core.Pod.Update(ctx, c, next)
		}
	}
	return ignoreNotFound(err)
}

func untrackAll(ctx context.Context, c *control.Cluster, pods []*corev1.Pod) error {
	pods = slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return !tracked(p) })
	return c.Each(len(pods), func(i int) error { return untrack(ctx, c, pods[i]) })
}

// dismiss removes pods that are not wanted now, so that they do not count as failed.
func (r *run) dismiss(ctx context.Context, pods []*corev1.Pod) error {
	if err := untrackAll(ctx, r.c, pods); err != nil {
		return err
	}
	return deletePods(ctx, r.c, r.job, pods)
}

// ended says whether a pod of the job has ended, and whether it failed. A pod
// on its way out counts as failed unless the job waits for its real end.
func (r *run) ended(p *corev1.Pod) (ended, failed bool) {
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		return true, false
	case p.Status.Phase == corev1.PodFailed:
		return true, true
	case p.DeletionTimestamp != nil && !r.waitsForFailed():
		return true, true
	}
	return false, false
}

// waitsForFailed says whether a pod is only replaced once it has really failed.
func (r *run) waitsForFailed() bool {
	if p := r.job.Spec.PodReplacementPolicy; p != nil {
		return *p == batchv1.Failed
	}
	return r.job.Spec.PodFailurePolicy != nil
}

// count takes pods that have ended into the status, in the steps that [Job] shows.
func (r *run) count(ctx context.Context) error {
	s := r.status
	if s.UncountedTerminatedPods == nil {
		s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	r.settle()
	r.held = r.failIndexes()
	var release []*corev1.Pod
	noted := false
	u := s.UncountedTerminatedPods
	for _, p := range r.pods {
		ended, failed := r.ended(p)
		switch {
		case !tracked(p) || !ended || r.held[p.UID]:
			continue
		case r.indexed() && !failed:
			if i := indexOf(p); !r.failed[i] {
				noted = r.done.add(i, *r.job.Spec.Completions) || noted
			}
		case !failed:
			noted = note(&u.Succeeded, p.UID) || noted
		case !r.ignores(p):
			noted = note(&u.Failed, p.UID) || noted
		}
		release = append(release, p)
	}
	if r.indexed() {
		s.Succeeded = int32(len(r.done))
	}
	if len(release) == 0 {
		return nil
	}
	if noted {
		r.look()
		if target := r.judge(); target != nil && jobCondition(s, target.Type) == nil {
			s.Conditions = append(s.Conditions, *target) // the pods that show why may go
		}
		if err := r.write(ctx); err != nil {
			return err
		}
	}
	if err := untrackAll(ctx, r.c, release); err != nil {
		return err
	}
	r.pods = control.Owned(r.c, core.Pod, r.job.UID)
	r.settle()
	return nil
}

func note(list *[]types.UID, uid types.UID) bool {
	if slices.Contains(*list, uid) {
		return false
	}
	*list = append(*list, uid)
	return true
}

// settle counts the noted pods that carry no finalizer any more.
func (r *run) settle() {
	carrying := map[types.UID]bool{}
	for _, p := range r.pods {
		carrying[p.UID] = tracked(p)
	}
	take := func(list []types.UID, n *int32) []types.UID {
		return slices.DeleteFunc(list, func(uid types.UID) bool {
			if !carrying[uid] {
				*n++
			}
			return !carrying[uid]
		})
	}
	u := r.status.UncountedTerminatedPods
	u.Succeeded = take(u.Succeeded, &r.status.Succeeded)
	u.Failed = take(u.Failed, &r.status.Failed)
}

type tally struct{ succeeded, failed, total int32 }

// uncounted is how many pods are noted and not yet counted.
func (r *run) uncounted() (t tally) {
	if u := r.status.UncountedTerminatedPods; u != nil {
		t.succeeded, t.failed = int32(len(u.Succeeded)), int32(len(u.Failed))
	}
	t.total = t.succeeded + t.failed
	return t
}

func (r *run) succeeded() int32 {
	if r.indexed() {
		return int32(len(r.done))
	}
	return r.status.Succeeded + r.uncounted().succeeded
}

// restartedTooOften counts restarts in place against the back-off limit.
func (r *run) restartedTooOften() bool {
	if r.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	n := int32(0)
	for _, p := range r.active {
		if p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodPending {
			for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				n += s.RestartCount
			}
		}
	}
	limit := *r.job.Spec.BackoffLimit
	return n > 0 && n >= limit
}

// failureRule is the first rule of the job's pod failure policy that matches a failed pod.
func (r *run) failureRule(p *corev1.Pod) (n int, rule *batchv1.PodFailurePolicyRule) {
	policy := r.job.Spec.PodFailurePolicy
	if policy == nil || p.Status.Phase != corev1.PodFailed {
		return 0, nil
	}
	for i := range policy.Rules {
		rule := &policy.Rules[i]
		if e := rule.OnExitCodes; e != nil && exitCodeMatches(p, e) {
			return i, rule
		}
		for _, want := range rule.OnPodConditions {
			if c := core.PodCondition(p, want.Type); c != nil && c.Status == want.Status {
				return i, rule
			}
		}
	}
	return 0, nil
}

func exitCodeMatches(p *corev1.Pod, e *batchv1.PodFailurePolicyOnExitCodesRequirement) bool {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		t := s.State.Terminated
		if t == nil || t.ExitCode == 0 || e.ContainerName != nil && *e.ContainerName != s.Name {
			continue
		}
		if slices.Contains(e.Values, t.ExitCode) == (e.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return true
		}
	}
	return false
}

// ignores says whether a failed pod does not count.
func (r *run) ignores(p *corev1.Pod) bool {
	_, rule := r.failureRule(p)
	return rule != nil && rule.Action == batchv1.PodFailurePolicyActionIgnore
}
