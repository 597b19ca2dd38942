package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/core"
)

// Job runs pods until enough of them have succeeded. A pod carries a finalizer
// until its end has been counted, so that none is counted twice or not at all:
//
//	ended ──> its UID in status.uncountedTerminatedPods ──> finalizer removed ──> UID out, count up
var Job = &control.Controller[*batchv1.Job]{
	Name: "job",
	For:  batch.Job,
	Owns: []api.Definition{core.Pod},
	Watches: []control.Watch{
		matching(batch.Job, core.Pod, func(j *batchv1.Job) *metav1.LabelSelector { return j.Spec.Selector }),
		roomFor(batch.Job, func(j *batchv1.Job) bool { return outcome(j) == nil && j.Status.Active < *j.Spec.Parallelism }),
	},
	Writes:    []api.Definition{core.Pod},
	Reconcile: reconcileJob,
}

// JobOrphans lets go of the pods whose job is gone.
var JobOrphans = &control.Sweep{
	Name:  "job-orphans",
	Kinds: control.Fixed(core.Pod.Def(), batch.Job.Def()),
	Changed: func(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
		if kind == core.Pod.Def() {
			if new != nil && slices.Contains(new.GetFinalizers(), batchv1.JobTrackingFinalizer) && jobOf(c, new) == nil {
				keys = append(keys, control.KeyOf(new))
			}
			return keys
		}
		if new == nil {
			for _, p := range control.Owned(c, core.Pod, old.GetUID()) {
				keys = append(keys, control.KeyOf(p))
			}
		}
		return keys
	},
	Reconcile: func(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
		p, ok := control.Get(c, core.Pod, key.Namespace, key.Name)
		if !ok || !tracked(p) || jobOf(c, p) != nil {
			return 0, nil
		}
		if ref := metav1.GetControllerOfNoCopy(p); ref != nil && ref.Kind == "Job" {
			j, err := batch.Job.Get(ctx, c, p.Namespace, ref.Name)
			if err == nil && j.UID == ref.UID {
				return time.Second, nil // the watch has not shown it yet
			}
			if err != nil && !apierrors.IsNotFound(err) {
				return 0, err
			}
		}
		return 0, untrack(ctx, c, p)
	},
}

func jobOf(c *control.Cluster, p api.Object) *batchv1.Job {
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil || ref.Kind != "Job" {
		return nil
	}
	j, ok := control.Get(c, batch.Job, p.GetNamespace(), ref.Name)
	if !ok || j.UID != ref.UID {
		return nil
	}
	return j
}

// A run is one look at a job and its pods.
type run struct {
	c      *control.Cluster
	job    *batchv1.Job
	status *batchv1.JobStatus // as it is to be
	pods   []*corev1.Pod
	active []*corev1.Pod
	done   indexes            // completed, of an Indexed job
	failed indexes            // given up, of a job with backoffLimitPerIndex
	held   map[types.UID]bool // ended pods that are counted later: see failIndexes
	now    time.Time
}

func reconcileJob(ctx context.Context, c *control.Cluster, j *batchv1.Job) (time.Duration, error) {
	if by := j.Spec.ManagedBy; by != nil && *by != batchv1.JobControllerName {
		return expireJob(ctx, c, j) // that much is for all
	}
	if outcome(j) != nil {
		return retireJob(ctx, c, j)
	}
	sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return 0, nil
	}
	pods, err := claimMarking(ctx, c, batch.Job, core.Pod, j, sel, track)
	if err != nil {
		return 0, err
	}
	if j.DeletionTimestamp != nil {
		return 0, untrackAll(ctx, c, pods)
	}
	r := &run{c: c, job: j, status: j.Status.DeepCopy(), pods: pods, now: c.Now()}
	if r.indexed() {
		r.done = parseIndexes(r.status.CompletedIndexes, *j.Spec.Completions)
		r.failed = indexes{}
		if text := r.status.FailedIndexes; text != nil {
			r.failed = parseIndexes(*text, *j.Spec.Completions)
		}
	}
	again, failed := r.advance(ctx)
	if err := r.write(ctx); err != nil {
		return 0, ignoreNotFound(err)
	}
	if apierrors.HasStatusCause(failed, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	return again, failed
}

// advance counts what ended, and starts or ends pods.
func (r *run) advance(ctx context.Context) (again time.Duration, err error) {
	s := r.status
	if s.StartTime == nil && !suspended(r.job) {
		s.StartTime = &metav1.Time{Time: r.now}
	}
	if err := r.count(ctx); err != nil {
		return 0, err
	}
	r.look()
	if cond := r.judge(); cond != nil {
		if err := r.end(ctx, cond); err != nil {
			return 0, err
		}
		return 0, nil
	}
	if suspended(r.job) {
		r.setSuspended(true)
		err = r.dismiss(ctx, r.active)
	} else {
		r.setSuspended(false)
		again, err = r.fill(ctx)
	}
	r.pods = control.Owned(r.c, core.Pod, r.job.UID)
	r.look()
	if d := r.job.Spec.ActiveDeadlineSeconds; d != nil && s.StartTime != nil {
		left := s.StartTime.Add(time.Duration(*d) * time.Second).Sub(r.now)
		again = sooner(again, max(left, time.Millisecond))
	}
	return again, err
}

// look fills in the numbers of pods that have not ended.
func (r *run) look() {
	var readyPods, terminating int32
	r.active = r.active[:0]
	for _, p := range r.pods {
		switch {
		case active(p):
			r.active = append(r.active, p)
			if core.PodReady(p) {
				readyPods++
			}
		case p.DeletionTimestamp != nil && !core.PodFinished(p):
			terminating++
		}
	}
	r.status.Active, r.status.Ready, r.status.Terminating = int32(len(r.active)), &readyPods, &terminating
}

// judge decides whether the job is over, and how; nil if it goes on.
func (r *run) judge() *batchv1.JobCondition {
	for _, typ := range []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if c := jobCondition(r.status, typ); c != nil && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	target := func(typ batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
		now := metav1.NewTime(r.now)
		return &batchv1.JobCondition{Type: typ, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	}
	s, spec := r.status, &r.job.Spec
	if message := r.policyFails(); message != "" {
		return target(batchv1.JobFailureTarget, batchv1.JobReasonPodFailurePolicy, message)
	}
	if s.Failed+r.uncounted().failed > *spec.BackoffLimit || r.restartedTooOften() {
		return target(batchv1.JobFailureTarget, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	}
	if d := spec.ActiveDeadlineSeconds; d != nil && s.StartTime != nil && !suspended(r.job) && r.now.Sub(s.StartTime.Time) >= time.Duration(*d)*time.Second {
		return target(batchv1.JobFailureTarget, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	}
	if most := spec.MaxFailedIndexes; most != nil && len(r.failed) > int(*most) {
		return target(batchv1.JobFailureTarget, batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	}
	met := r.satisfied()
	if len(r.failed) > 0 && len(r.failed)+len(r.done) >= int(*spec.Completions) && met == "" {
		return target(batchv1.JobFailureTarget, batchv1.JobReasonFailedIndexes, "Job has failed indexes")
	}
	if met != "" {
		return target(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, met)
	}
	succeeded := r.succeeded()
	if spec.Completions == nil && succeeded > 0 && s.Active == 0 || spec.Completions != nil && succeeded >= *spec.Completions && s.Active == 0 {
		if spec.Completions != nil && *spec.Completions == 0 && suspended(r.job) {
			return nil
		}
		return target(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	}
	return nil
}

// end stops what still runs, and says that the job is over once nothing does
// and everything is counted.
func (r *run) end(ctx context.Context, target *batchv1.JobCondition) error {
	if jobCondition(r.status, target.Type) == nil {
		r.status.Conditions = append(r.status.Conditions, *target)
	}
	err := deletePods(ctx, r.c, r.job, r.active)
	r.pods = control.Owned(r.c, core.Pod, r.job.UID)
	if err == nil {
		err = r.count(ctx)
	}
	r.look()
	if err != nil || r.status.Active > 0 || *r.status.Terminating > 0 || r.uncounted().total > 0 {
		return err
	}
	last := *target
	last.LastProbeTime, last.LastTransitionTime = metav1.NewTime(r.now), metav1.NewTime(r.now)
	if target.Type == batchv1.JobFailureTarget {
		last.Type = batchv1.JobFailed
		r.c.Eventf(r.job, corev1.EventTypeWarning, last.Reason, "%s", last.Message)
	} else {
		last.Type = batchv1.JobComplete
		r.status.CompletionTime = &last.LastTransitionTime
		r.c.Eventf(r.job, corev1.EventTypeNormal, "Completed", "Job completed")
	}
	r.status.Conditions = append(r.status.Conditions, last)
	return nil
}

func (r *run) setSuspended(now bool) {
	cond := jobCondition(r.status, batchv1.JobSuspended)
	if cond == nil && !now || cond != nil && (cond.Status == corev1.ConditionTrue) == now {
		return
	}
	t := metav1.NewTime(r.now)
	next := batchv1.JobCondition{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue, Reason: "JobSuspended", Message: "Job suspended", LastProbeTime: t, LastTransitionTime: t}
	if now {
		r.c.Eventf(r.job, corev1.EventTypeNormal, "Suspended", "Job suspended")
	} else {
		next.Status, next.Reason, next.Message = corev1.ConditionFalse, "JobResumed", "Job resumed"
		r.status.StartTime = &t
		r.c.Eventf(r.job, corev1.EventTypeNormal, "Resumed", "Job resumed")
	}
	if cond != nil {
		*cond = next
	} else {
		r.status.Conditions = append(r.status.Conditions, next)
	}
}

func (r *run) write(ctx context.Context) error {
	if r.indexed() {
		r.status.CompletedIndexes = r.done.String()
	}
	if r.perIndex() {
		text := r.failed.String()
		r.status.FailedIndexes = &text
	}
	if equality.Semantic.DeepEqual(&r.job.Status, r.status) {
		return nil
	}
	next := api.Clone(r.job)
	next.Status = *r.status.DeepCopy()
	got, err := batch.Job.UpdateStatus(ctx, r.c, next)
	if err == nil {
		r.job = got
	}
	return err
}

func suspended(j *batchv1.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

func jobCondition(s *batchv1.JobStatus, typ batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == typ {
			return &s.Conditions[i]
		}
	}
	return nil
}

// outcome is the condition that says how the job ended, or nil.
func outcome(j *batchv1.Job) *batchv1.JobCondition {
	for _, typ := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if c := jobCondition(&j.Status, typ); c != nil && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// retireJob lets go of the pods of a job that has ended, and removes it when
// its time is over.
func retireJob(ctx context.Context, c *control.Cluster, j *batchv1.Job) (time.Duration, error) {
	if err := untrackAll(ctx, c, control.Owned(c, core.Pod, j.UID)); err != nil {
		return 0, err
	}
	return expireJob(ctx, c, j)
}

// expireJob removes a job some time after it ended (spec.ttlSecondsAfterFinished).
func expireJob(ctx context.Context, c *control.Cluster, j *batchv1.Job) (time.Duration, error) {
	ttl, end := j.Spec.TTLSecondsAfterFinished, outcome(j)
	if ttl == nil || end == nil || j.DeletionTimestamp != nil {
		return 0, nil
	}
	if left := end.LastTransitionTime.Add(time.Duration(*ttl) * time.Second).Sub(c.Now()); left > 0 {
		return left, nil
	}
	foreground := metav1.DeletePropagationForeground
	err := batch.Job.Delete(ctx, c, j.Namespace, j.Name, api.Options{UID: &j.UID, ResourceVersion: &j.ResourceVersion, Propagation: &foreground})
	if err := ignoreNotFound(err); err != nil {
		return 0, fmt.Errorf("remove a finished job: %w", err)
	}
	return 0, nil
}
