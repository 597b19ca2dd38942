package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/batch"
)

// manyMissed is how many missed times are worth a warning.
const manyMissed = 100

// CronJob makes a job at each time of a schedule. Of times that were missed
// only the latest is made up for.
var CronJob = &control.Controller[*batchv1.CronJob]{
	Name:      "cronjob",
	For:       batch.CronJob,
	Owns:      []api.Definition{batch.Job},
	Writes:    []api.Definition{batch.Job},
	Reconcile: reconcileCronJob,
}

// A cronRun is one look at a cron job.
type cronRun struct {
	c      *control.Cluster
	cj     *batchv1.CronJob
	status *batchv1.CronJobStatus // as it is to be
	now    time.Time
}

func reconcileCronJob(ctx context.Context, c *control.Cluster, cj *batchv1.CronJob) (time.Duration, error) {
	r := &cronRun{c: c, cj: cj, status: cj.Status.DeepCopy(), now: c.Now()}
	if err := r.look(ctx); err != nil {
		return 0, err
	}
	again, failed := time.Duration(0), error(nil)
	if cj.DeletionTimestamp == nil {
		again, failed = r.advance(ctx)
	}
	if _, err := control.SetStatus(ctx, c, batch.CronJob, cj, func(cj *batchv1.CronJob) { cj.Status = *r.status }); err != nil {
		return 0, ignoreNotFound(err)
	}
	if failed != nil || cj.DeletionTimestamp != nil {
		return 0, ignoreTerminating(failed)
	}
	return again, r.forget(ctx)
}

// look brings the list of active jobs up to date with what there is.
func (r *cronRun) look(ctx context.Context) error {
	known := map[types.UID]bool{}
	for _, j := range control.Owned(r.c, batch.Job, r.cj.UID) {
		known[j.UID] = true
		listed, end := r.listed(j.UID), outcome(j)
		switch {
		case end == nil && !listed:
			at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
			if err != nil || j.Name != cronJobName(r.cj, at) {
				r.c.Eventf(r.cj, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
				continue
			}
			r.started(j, at) // but there was no time to write that down
		case end != nil && listed:
			r.unlist(j.UID)
			r.c.Eventf(r.cj, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %s", j.Name, end.Type)
		}
		if t := j.Status.CompletionTime; end != nil && end.Type == batchv1.JobComplete && t != nil && (r.status.LastSuccessfulTime == nil || r.status.LastSuccessfulTime.Before(t)) {
			r.status.LastSuccessfulTime = t.DeepCopy()
		}
	}
	for _, ref := range slices.Clone(r.status.Active) {
		if known[ref.UID] {
			continue
		}
		j, err := batch.Job.Get(ctx, r.c, r.cj.Namespace, ref.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if err == nil && j.UID == ref.UID {
			continue // the watch has not shown it yet
		}
		r.unlist(ref.UID)
		r.c.Eventf(r.cj, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %s", ref.Name)
	}
	return nil
}

func (r *cronRun) listed(uid types.UID) bool {
	return slices.ContainsFunc(r.status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

func (r *cronRun) unlist(uid types.UID) {
	r.status.Active = slices.DeleteFunc(r.status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

// started notes a job that was made for a time of the schedule.
func (r *cronRun) started(j *batchv1.Job, at time.Time) {
	if !r.listed(j.UID) {
		r.status.Active = append(r.status.Active, corev1.ObjectReference{
			APIVersion: "batch/v1", Kind: "Job", Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: j.ResourceVersion})
	}
	if t := r.status.LastScheduleTime; t == nil || t.Time.Before(at) {
		r.status.LastScheduleTime = &metav1.Time{Time: at}
	}
}

// advance starts the job that is due, and says when the next will be.
func (r *cronRun) advance(ctx context.Context) (again time.Duration, err error) {
	spec := &r.cj.Spec
	if spec.Suspend != nil && *spec.Suspend {
		return 0, nil
	}
	s := r.schedule()
	if s == nil {
		return 0, nil
	}
	due, missed := r.due(s)
	again = r.next(s)
	if due.IsZero() {
		return again, nil
	}
	if missed > manyMissed {
		r.c.Eventf(r.cj, corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if d := spec.StartingDeadlineSeconds; d != nil && due.Add(time.Duration(*d)*time.Second).Before(r.now) {
		r.c.Eventf(r.cj, corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
		return again, nil
	}
	switch {
	case spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(r.status.Active) > 0:
		r.c.Eventf(r.cj, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return again, nil
	case spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, ref := range slices.Clone(r.status.Active) {
			if err := r.remove(ctx, ref.Name, ref.UID); err != nil {
				return 0, err
			}
			r.unlist(ref.UID)
		}
	}
	return again, r.start(ctx, due)
}

// schedule reads the schedule; nil if it makes no sense, which a user is told.
func (r *cronRun) schedule() cron.Schedule {
	text := r.cj.Spec.Schedule
	switch zone := r.cj.Spec.TimeZone; {
	case strings.Contains(text, "TZ"):
		r.c.Eventf(r.cj, corev1.EventTypeWarning, "UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, use .spec.timeZone", text)
	case zone != nil:
		if _, err := time.LoadLocation(*zone); err != nil {
			r.c.Eventf(r.cj, corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *zone, err)
			return nil
		}
		text = fmt.Sprintf("TZ=%s %s", *zone, text)
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		r.c.Eventf(r.cj, corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", r.cj.Spec.Schedule, err)
		return nil
	}
	return s
}

// since is from when on times of the schedule count.
func (r *cronRun) since() time.Time {
	if t := r.status.LastScheduleTime; t != nil {
		return t.Time
	}
	return r.cj.CreationTimestamp.Time
}

// due is the latest time of the schedule that no job was made for, and how many
// there are within the starting deadline, counted as far as it matters; zero if
// there is none.
func (r *cronRun) due(s cron.Schedule) (at time.Time, missed int) {
	at, missed = latest(s, r.since(), r.now)
	if d := r.cj.Spec.StartingDeadlineSeconds; d != nil && missed > manyMissed {
		if from := r.now.Add(-time.Duration(*d) * time.Second); from.After(r.since()) {
			_, missed = latest(s, from, r.now)
		}
	}
	return at, missed
}

// latest is the last time of a schedule after from that is not after now, and
// how many such times there are, of which no more than manyMissed+1 are counted.
func latest(s cron.Schedule, from, now time.Time) (at time.Time, n int) {
	for t := s.Next(from); !t.IsZero() && !t.After(now) && n <= manyMissed; t = s.Next(t) {
		at = t
		n++
	}
	if n <= manyMissed {
		return at, n
	}
	if every, ok := s.(cron.ConstantDelaySchedule); ok {
		return at.Add(now.Sub(at).Truncate(every.Delay)), n
	}
	// Next(low) is not after now, Next(high) is.
	low, high := at.Add(-time.Nanosecond), now
	for high.Sub(low) > time.Second {
		middle := low.Add(high.Sub(low) / 2)
		if t := s.Next(middle); !t.IsZero() && !t.After(now) {
			low = middle
		} else {
			high = middle
		}
	}
	return s.Next(low), n
}

// next is how long it is until the schedule's next time.
func (r *cronRun) next(s cron.Schedule) time.Duration {
	at := r.now
	if _, every := s.(cron.ConstantDelaySchedule); every {
		at = r.since()
		if last, _ := latest(s, at, r.now); !last.IsZero() {
			at = last
		}
	}
	t := s.Next(at)
	if t.IsZero() {
		return 0
	}
	return max(t.Sub(r.now), time.Millisecond)
}

// cronJobName is the name of the job of a time: whoever makes it, it is made once.
func cronJobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}

// start makes the job of a time.
func (r *cronRun) start(ctx context.Context, at time.Time) error {
	t := r.cj.Spec.JobTemplate.DeepCopy()
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: cronJobName(r.cj, at), Namespace: r.cj.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			OwnerReferences: []metav1.OwnerReference{control.OwnerRef(batch.CronJob, r.cj)},
		},
		Spec: t.Spec,
	}
	stamp := at
	if zone := r.cj.Spec.TimeZone; zone != nil {
		if loc, err := time.LoadLocation(*zone); err == nil {
			stamp = at.In(loc)
		}
	}
	metav1.SetMetaDataAnnotation(&j.ObjectMeta, batchv1.CronJobScheduledTimestampAnnotation, stamp.Format(time.RFC3339))
	got, err := batch.Job.Create(ctx, r.c, j)
	switch {
	case apierrors.IsAlreadyExists(err):
		there, geterr := batch.Job.Get(ctx, r.c, j.Namespace, j.Name)
		if geterr != nil {
			return geterr
		}
		if !metav1.IsControlledBy(there, r.cj) {
			r.c.Eventf(r.cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
			return nil // the name is somebody else's; the next time has another one
		}
		if r.started(there, at); outcome(there) != nil {
			r.unlist(there.UID)
		}
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		r.c.Eventf(r.cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return err
	}
	r.started(got, at)
	r.c.Eventf(r.cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %s", got.Name)
	return nil
}

func (r *cronRun) remove(ctx context.Context, name string, uid types.UID) error {
	background := metav1.DeletePropagationBackground
	err := batch.Job.Delete(ctx, r.c, r.cj.Namespace, name, api.Options{UID: &uid, Propagation: &background})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		r.c.Eventf(r.cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return err
	}
	r.c.Eventf(r.cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %s", name)
	return nil
}

// forget removes the oldest finished jobs beyond the limits.
func (r *cronRun) forget(ctx context.Context) error {
	var done, failed []*batchv1.Job
	for _, j := range control.Owned(r.c, batch.Job, r.cj.UID) {
		end := outcome(j)
		switch {
		case end == nil || j.DeletionTimestamp != nil:
		case end.Type == batchv1.JobComplete:
			done = append(done, j)
		default:
			failed = append(failed, j)
		}
	}
	trim := func(all []*batchv1.Job, limit *int32) error {
		if limit == nil {
			return nil
		}
		slices.SortFunc(all, func(a, b *batchv1.Job) int {
			return cmp.Or(startOf(a).Compare(startOf(b)), cmp.Compare(a.Name, b.Name))
		})
		for _, j := range all[:max(len(all)-int(*limit), 0)] {
			if err := r.remove(ctx, j.Name, j.UID); err != nil {
				return err
			}
		}
		return nil
	}
	if err := trim(done, r.cj.Spec.SuccessfulJobsHistoryLimit); err != nil {
		return err
	}
	return trim(failed, r.cj.Spec.FailedJobsHistoryLimit)
}

func startOf(j *batchv1.Job) time.Time {
	if t := j.Status.StartTime; t != nil {
		return t.Time
	}
	return j.CreationTimestamp.Time
}
