package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
)

// CronJob makes jobs at the times of a schedule.
var CronJob = &api.Kind[*batchv1.CronJob]{
	API: "batch/v1", Resource: "cronjobs", Scope: api.Namespaced, Short: []string{"cj"}, Categories: []string{"all"},
	Columns: append([]api.Column[*batchv1.CronJob]{
		api.Col("Schedule", func(c *batchv1.CronJob) string { return c.Spec.Schedule }),
		api.Col("Timezone", func(c *batchv1.CronJob) string {
			if c.Spec.TimeZone == nil {
				return "<none>"
			}
			return *c.Spec.TimeZone
		}),
		{Name: "Suspend", Type: "boolean", Cell: func(c *batchv1.CronJob) any { return c.Spec.Suspend != nil && *c.Spec.Suspend }},
		api.Col("Active", func(c *batchv1.CronJob) int { return len(c.Status.Active) }),
		api.Col("Last Schedule", func(c *batchv1.CronJob) string {
			if c.Status.LastScheduleTime == nil {
				return "<none>"
			}
			return api.Age(*c.Status.LastScheduleTime)
		}),
	}, append(column.Workload(func(c *batchv1.CronJob) *corev1.PodSpec { return &c.Spec.JobTemplate.Spec.Template.Spec }),
		column.Selector(func(c *batchv1.CronJob) *metav1.LabelSelector { return c.Spec.JobTemplate.Spec.Selector }))...),
	Default: func(c *batchv1.CronJob) {
		fill.Zero(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
		fill.Nil(&c.Spec.Suspend, false)
		fill.Nil(&c.Spec.SuccessfulJobsHistoryLimit, 3)
		fill.Nil(&c.Spec.FailedJobsHistoryLimit, 1)
		defaultJobTemplate(&c.Spec.JobTemplate.Spec)
	},
	Prepare: func(c, old *batchv1.CronJob) {
		c.Status = batchv1.CronJobStatus{}
		if old != nil {
			c.Status = old.Status
		}
	},
	Validate:      validateCronJob,
	Warn:          warnCronJob,
	Status:        true,
	PrepareStatus: func(c, old *batchv1.CronJob) { c.Spec = old.Spec },
}

// defaultJobTemplate fills in only the pod template: a cron job's other job
// fields are defaulted when the job is made.
func defaultJobTemplate(s *batchv1.JobSpec) { podspec.DefaultTemplate(&s.Template) }
