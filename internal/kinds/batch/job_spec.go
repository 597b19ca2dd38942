package batch

import (
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// What an indexed job's status can still tell apart, and above how many
// completions only part of that.
const (
	maxIndexed         = 100_000
	manyCompletions    = 100_000
	maxIndexedWithMany = 10_000
)

func validateJobSpec(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	add(validate.CountOf(s.Parallelism, path.Child("parallelism"))...)
	add(validate.CountOf(s.Completions, path.Child("completions"))...)
	add(validate.CountOf(s.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	add(validate.CountOf(s.BackoffLimit, path.Child("backoffLimit"))...)
	add(validate.CountOf(s.TTLSecondsAfterFinished, path.Child("ttlSecondsAfterFinished"))...)
	add(validate.CountOf(s.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	if n := s.MaxFailedIndexes; n != nil {
		add(validate.Count(*n, path.Child("maxFailedIndexes"))...)
		if s.BackoffLimitPerIndex == nil {
			add(field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
		}
	}
	if m := s.ManagedBy; m != nil {
		at := path.Child("managedBy")
		add(validation.IsDomainPrefixedPath(at, *m)...)
		if len(*m) > 63 {
			add(field.TooLong(at, *m, 63))
		}
	}
	if m := s.CompletionMode; m != nil {
		add(validate.Known(*m, path.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	}
	if indexed(s) {
		add(validateIndexed(s, path)...)
	} else if s.CompletionMode == nil || *s.CompletionMode == batchv1.NonIndexedCompletion {
		const why = "requires indexed completion mode"
		if n := s.BackoffLimitPerIndex; n != nil {
			add(field.Invalid(path.Child("backoffLimitPerIndex"), *n, why))
		}
		if n := s.MaxFailedIndexes; n != nil {
			add(field.Invalid(path.Child("maxFailedIndexes"), *n, why))
		}
	}
	if s.PodFailurePolicy != nil {
		add(validateFailurePolicy(s, path.Child("podFailurePolicy"))...)
	}
	if s.SuccessPolicy != nil {
		if indexed(s) {
			add(validateSuccessPolicy(s, path.Child("successPolicy"))...)
		} else {
			add(field.Invalid(path.Child("successPolicy"), s.SuccessPolicy, "requires indexed completion mode"))
		}
	}
	if p, at := s.PodReplacementPolicy, path.Child("podReplacementPolicy"); p != nil {
		if s.PodFailurePolicy != nil {
			add(validate.Known(*p, at, batchv1.Failed)...)
		} else {
			add(validate.Known(*p, at, batchv1.Failed, batchv1.TerminatingOrFailed)...)
		}
	}
	if s.Scheduling != nil {
		add(field.Forbidden(path.Child("scheduling"), "")) // the feature WorkloadWithJob is off
	}
	add(podspec.ValidateTemplate(&s.Template, path.Child("template"))...)
	restart := path.Child("template", "spec", "restartPolicy")
	switch p := s.Template.Spec.RestartPolicy; {
	case p == "" || p == corev1.RestartPolicyAlways:
		add(field.Required(restart, "valid values: \"OnFailure\", \"Never\""))
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		add(field.NotSupported(restart, p, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case s.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		add(field.Invalid(restart, p, "only \"Never\" is supported when podFailurePolicy is specified"))
	}
	return errs
}

// validateIndexed checks the numbers of an indexed job.
func validateIndexed(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	completions := path.Child("completions")
	if s.Completions == nil {
		errs = append(errs, field.Required(completions, "when completion mode is Indexed"))
	}
	atMost := func(n *int32, max int32, name, when string) {
		if n != nil && *n > max {
			errs = append(errs, field.Invalid(path.Child(name), *n, fmt.Sprintf("must be less than or equal to %d%s", max, when)))
		}
	}
	atMost(s.Parallelism, maxIndexed, "parallelism", " when completion mode is Indexed")
	if n := s.MaxFailedIndexes; n != nil && s.Completions != nil && *n > *s.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *n, "must be less than or equal to completions"))
	}
	atMost(s.MaxFailedIndexes, maxIndexed, "maxFailedIndexes", "")
	if s.Completions == nil || *s.Completions <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return errs
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
	}
	when := fmt.Sprintf(" when completions are above %d and used with backoff limit per index", manyCompletions)
	atMost(s.Parallelism, maxIndexedWithMany, "parallelism", when)
	atMost(s.MaxFailedIndexes, maxIndexedWithMany, "maxFailedIndexes", when)
	return errs
}

// warnJob warns of a job whose status may not be able to tell all indexes
// apart, and of its template.
func warnJob(j, old *batchv1.Job) (out []string) {
	return append(warnIndexes(&j.Spec), podspec.WarnWorkload(j.Name, &j.Spec.Template, old != nil)...)
}

func warnIndexes(s *batchv1.JobSpec) (out []string) {
	if indexed(s) && s.Completions != nil && *s.Completions > 100_000 && s.Parallelism != nil && *s.Parallelism > 10_000 {
		out = append(out, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return out
}

func warnCronJob(c, old *batchv1.CronJob) (out []string) {
	if old == nil {
		out = podspec.WarnName(c.Name, "Pod names and hostnames")
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		out = append(out, "cannot use TZ or CRON_TZ in "+specPath.Child("schedule").String()+", use timeZone field instead")
	}
	return append(append(out, warnIndexes(&c.Spec.JobTemplate.Spec)...), podspec.WarnTemplateAt(&c.Spec.JobTemplate.Spec.Template, specPath.Child("jobTemplate", "spec", "template"))...)
}
