// Package batch declares the kinds of the batch group, v1.
package batch

import (
	"fmt"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
)

// Job runs pods until enough of them have succeeded.
var Job = &api.Kind[*batchv1.Job]{
	API: "batch/v1", Resource: "jobs", Scope: api.Namespaced, Categories: []string{"all"},
	Columns: append([]api.Column[*batchv1.Job]{
		column.Doc(api.Col("Status", jobStatus), "Status of the job."),
		api.Col("Completions", jobCompletions),
		column.Doc(api.Col("Duration", jobDuration), "Time required to complete the job."),
	}, append(column.Workload(func(j *batchv1.Job) *corev1.PodSpec { return &j.Spec.Template.Spec }),
		column.Selector(func(j *batchv1.Job) *metav1.LabelSelector { return j.Spec.Selector }))...),
	Fields: map[string]func(*batchv1.Job) string{
		"status.successful": func(j *batchv1.Job) string { return strconv.Itoa(int(j.Status.Succeeded)) },
	},
	Default:        defaultJob,
	Prepare:        prepareJob,
	Validate:       validateJob,
	Warn:           warnJob,
	Status:         true,
	PrepareStatus:  func(j, old *batchv1.Job) { j.Spec = old.Spec },
	ValidateStatus: validateJobStatus,
	Propagation:    metav1.DeletePropagationOrphan,
}

func jobStatus(j *batchv1.Job) string {
	has := func(t batchv1.JobConditionType) bool { return jobHas(j, t) }
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(batchv1.JobSuspended):
		return "Suspended"
	case has(batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func jobCompletions(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if n := column.Replicas(j.Spec.Parallelism); n > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, n)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(time.Since(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

func defaultJob(j *batchv1.Job) {
	labelLikeTemplate(j)
	defaultJobSpec(&j.Spec)
}

func defaultJobSpec(s *batchv1.JobSpec) {
	podspec.DefaultTemplate(&s.Template)
	if s.Completions == nil && s.Parallelism == nil {
		fill.Nil(&s.Completions, 1)
		fill.Nil(&s.Parallelism, 1)
	}
	fill.Nil(&s.Parallelism, 1)
	if s.BackoffLimit == nil {
		n := int32(6)
		if s.BackoffLimitPerIndex != nil {
			n = 1<<31 - 1
		}
		s.BackoffLimit = &n
	}
	fill.Nil(&s.CompletionMode, batchv1.NonIndexedCompletion)
	fill.Nil(&s.Suspend, false)
	if s.PodReplacementPolicy == nil {
		p := batchv1.TerminatingOrFailed
		if s.PodFailurePolicy != nil {
			p = batchv1.Failed
		}
		s.PodReplacementPolicy = &p
	}
	fill.Nil(&s.ManualSelector, false)
	if f := s.PodFailurePolicy; f != nil {
		for i := range f.Rules {
			for k := range f.Rules[i].OnPodConditions {
				fill.Zero(&f.Rules[i].OnPodConditions[k].Status, corev1.ConditionTrue)
			}
		}
	}
}
