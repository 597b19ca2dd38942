package batch

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// maxCronJobName leaves room for the time that a job's name ends with.
const maxCronJobName = 52

func validateCronJob(c, old *batchv1.CronJob) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s := &c.Spec
	var was *batchv1.CronJobSpec
	if old != nil {
		was = &old.Spec
	} else if len(c.Name) > maxCronJobName {
		add(field.Invalid(field.NewPath("metadata").Child("name"), c.Name, fmt.Sprintf("must be no more than %d characters", maxCronJobName)))
	}
	if s.Schedule == "" {
		add(field.Required(specPath.Child("schedule"), ""))
	} else {
		add(validateSchedule(s, was, specPath.Child("schedule"))...)
	}
	add(validate.CountOf(s.StartingDeadlineSeconds, specPath.Child("startingDeadlineSeconds"))...)
	if z := s.TimeZone; z != nil && (was == nil || was.TimeZone == nil || *was.TimeZone != *z) {
		if why := badTimeZone(*z); why != "" {
			add(field.Invalid(specPath.Child("timeZone"), *z, why))
		}
	}
	add(validate.OneOf(s.ConcurrencyPolicy, specPath.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	add(validateJobTemplate(&s.JobTemplate, specPath.Child("jobTemplate"))...)
	add(validate.CountOf(s.SuccessfulJobsHistoryLimit, specPath.Child("successfulJobsHistoryLimit"))...)
	return append(errs, validate.CountOf(s.FailedJobsHistoryLimit, specPath.Child("failedJobsHistoryLimit"))...)
}

// validateJobTemplate checks what jobs are made from: each gets a selector of its own.
func validateJobTemplate(t *batchv1.JobTemplateSpec, path *field.Path) field.ErrorList {
	at := path.Child("spec")
	errs := validateJobSpec(&t.Spec, at)
	if t.Spec.Selector != nil {
		errs = append(errs, field.Invalid(at.Child("selector"), t.Spec.Selector, "`selector` will be auto-generated"))
	}
	if m := t.Spec.ManualSelector; m != nil && *m {
		errs = append(errs, field.NotSupported(at.Child("manualSelector"), m, []string{"nil", "false"}))
	}
	return errs
}

// badTimeZone says what is wrong with the name of a time zone, or nothing. The
// names are those of files, so they must not lead elsewhere
// (https://data.iana.org/time-zones/theory.html#naming).
func badTimeZone(z string) string {
	if z == "" {
		return "timeZone must be nil or non-empty string"
	}
	for _, part := range strings.Split(z, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart(part) {
			return "unknown time zone " + z
		}
	}
	if strings.EqualFold(z, "Local") {
		return "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
	}
	if _, err := time.LoadLocation(z); err != nil {
		return err.Error()
	}
	return ""
}

// zonePart says whether s is 1 to 14 letters, digits and ".-_+".
func zonePart(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(".-_+", c) < 0 {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 14
}
