package why

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"proa/internal/kinds/batch"
	"proa/internal/kinds/core"
)

func (a *asker) job(j *batchv1.Job) *Cause {
	me, st := "job/"+j.Name, &j.Status
	want := 1
	if j.Spec.Completions != nil {
		want = int(*j.Spec.Completions)
	}
	c := is(me, "%d of %d pods succeeded, %d failed", st.Succeeded, want, st.Failed)
	c.as(a.leaving(j))
	for _, cond := range st.Conditions {
		if cond.Status != corev1.ConditionTrue {
			continue
		}
		switch at := cond.LastTransitionTime.Time; cond.Type {
		case batchv1.JobComplete:
			return fine(me, "it is complete: %s", c.Text).since(at)
		case batchv1.JobFailed, batchv1.JobFailureTarget:
			if len(c.Causes) == 0 || cond.Type == batchv1.JobFailed {
				c.Causes = nil
				c.as(a.jobFailed(j, &cond).since(at))
			}
		case batchv1.JobSuspended:
			if j.Spec.Suspend == nil || !*j.Spec.Suspend {
				c.as(is("", "it is being resumed"))
			}
		}
	}
	if j.Spec.Suspend != nil && *j.Spec.Suspend {
		s := is("", "it is suspended: no pod of it runs").help(`resume it: kubectl patch job %s%s -p '{"spec":{"suspend":false}}'`, j.Name, a.inNamespace())
		for _, cond := range st.Conditions {
			if cond.Type == batchv1.JobSuspended {
				s.since(cond.LastTransitionTime.Time)
			}
		}
		c.as(s)
	}
	if len(c.Causes) > 0 {
		return c
	}
	pods := owned(a, core.Pod, j.UID)
	live := slices.DeleteFunc(slices.Clone(pods), core.PodFinished)
	c.as(a.pods(live, 0)...)
	if len(live) == 0 {
		if b := a.lastFailure(pods); b != nil {
			c.as(is("", "the next try comes after a pause: %d of at most %d tries have failed (backoffLimit)", st.Failed, number6(j.Spec.BackoffLimit)+1).as(b))
		} else {
			c.as(is("", "its pods are still to be made").as(a.refusal(j)))
		}
	}
	if len(c.Causes) == 0 {
		out := fine(me, "all is well: %s %s, %s", count(len(live), "pod"), verb(len(live), "runs", "run"), c.Text)
		if st.StartTime != nil {
			out.since(st.StartTime.Time)
		}
		return out
	}
	return c
}

// number6 is a back-off limit, of which the default is 6.
func number6(n *int32) int {
	if n == nil {
		return 6
	}
	return int(*n)
}

// jobFailed explains the end of a job by the end of its last pod that failed.
func (a *asker) jobFailed(j *batchv1.Job, cond *batchv1.JobCondition) *Cause {
	c := is("", "it has failed%s", said(cond.Message))
	switch cond.Reason {
	case batchv1.JobReasonBackoffLimitExceeded:
		c = is("", "it has failed: more pods failed than are tried again (backoffLimit: %d)", number6(j.Spec.BackoffLimit)).
			help("mend the cause and make the job anew; its template cannot be changed")
	case batchv1.JobReasonDeadlineExceeded:
		limit := "it may"
		if s := j.Spec.ActiveDeadlineSeconds; s != nil {
			limit = fmt.Sprintf("%ds", *s)
		}
		c = is("", "it has failed: it took longer than %s (activeDeadlineSeconds)", limit).help("make the job anew with more time (activeDeadlineSeconds), or find out what takes so long")
	case batchv1.JobReasonPodFailurePolicy:
		c.help("see the rule of its podFailurePolicy; mend the cause and make the job anew")
	}
	return c.as(a.lastFailure(owned(a, core.Pod, j.UID)))
}

// lastFailure explains the pod that failed last; nil if none is there.
func (a *asker) lastFailure(pods []*corev1.Pod) *Cause {
	var last *corev1.Pod
	at := time.Time{}
	for _, p := range pods {
		if t := endOf(p); p.Status.Phase == corev1.PodFailed && (last == nil || t.After(at)) {
			last, at = p, t
		}
	}
	if last == nil {
		return nil
	}
	return a.pod(last)
}

// endOf is when a pod's last container ended.
func endOf(p *corev1.Pod) time.Time {
	at := p.CreationTimestamp.Time
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.FinishedAt.After(at) {
			at = t.FinishedAt.Time
		}
	}
	return at
}

func (a *asker) cronJob(j *batchv1.CronJob) *Cause {
	me := "cronjob/" + j.Name
	c := is(me, "its schedule is %q", j.Spec.Schedule)
	c.as(a.leaving(j))
	if j.Spec.Suspend != nil && *j.Spec.Suspend {
		c.as(is("", "it is suspended: it starts no job").help(`resume it: kubectl patch cronjob %s%s -p '{"spec":{"suspend":false}}'`, j.Name, a.inNamespace()))
	}
	e := a.last(j.UID, reasons("SuccessfulCreate", "FailedCreate", "TooManyMissedTimes", "MissSchedule", "JobAlreadyActive", "UnknownTimeZone", "UnparseableSchedule"))
	if e != nil && e.Reason != "SuccessfulCreate" {
		b := is("", "the last job was not started%s", said(e.Message)).since(lastSeen(e))
		switch e.Reason {
		case "FailedCreate":
			b = a.refused("its jobs are refused", e.Message).since(firstSeen(e))
		case "JobAlreadyActive":
			b.help("wait for the job that runs, or change concurrencyPolicy")
		case "UnknownTimeZone", "UnparseableSchedule":
			b.help("change the schedule or the time zone")
		default:
			b.help("give it more time to start in (startingDeadlineSeconds)")
		}
		c.as(b)
	}
	jobs := owned(a, batch.Job, j.UID)
	slices.SortFunc(jobs, func(x, y *batchv1.Job) int { return y.CreationTimestamp.Compare(x.CreationTimestamp.Time) })
	if len(jobs) > 0 {
		c.as(a.job(jobs[0]))
	}
	if len(c.Causes) > 0 {
		return c
	}
	if j.Status.LastScheduleTime == nil {
		return fine(me, "all is well: %s, and it was never due yet", c.Text)
	}
	return fine(me, "all is well: %s, and it was last due at %s", c.Text, j.Status.LastScheduleTime.UTC().Format(time.RFC3339))
}
