package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// validateJobStatus checks that a status fits together, and does not undo what
// has happened. A status that stays as it is is fine.
func validateJobStatus(j, old *batchv1.Job) (errs field.ErrorList) {
	if equality.Semantic.DeepEqual(&j.Status, &old.Status) {
		return nil
	}
	errs = validateCounts(&j.Status)
	errs = append(errs, validateConditions(j)...)
	if jobHas(j, batchv1.JobComplete) || jobHas(j, batchv1.JobFailed) {
		errs = append(errs, validateFinished(j)...)
	}
	errs = append(errs, validateStatusIndexes(j)...)
	return append(errs, validateStatusUpdate(j, old)...)
}

func validateCounts(s *batchv1.JobStatus) (errs field.ErrorList) {
	for _, c := range [...]struct {
		name string
		n    int32
	}{{"active", s.Active}, {"succeeded", s.Succeeded}, {"failed", s.Failed}} {
		errs = append(errs, validate.Count(c.n, statusPath.Child(c.name))...)
	}
	errs = append(errs, validate.CountOf(s.Ready, statusPath.Child("ready"))...)
	errs = append(errs, validate.CountOf(s.Terminating, statusPath.Child("terminating"))...)
	if u := s.UncountedTerminatedPods; u != nil {
		seen := map[types.UID]bool{}
		errs = append(errs, validateUncounted(u.Succeeded, seen, statusPath.Child("uncountedTerminatedPods", "succeeded"))...)
		errs = append(errs, validateUncounted(u.Failed, seen, statusPath.Child("uncountedTerminatedPods", "failed"))...)
	}
	if s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(statusPath.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	return errs
}

func validateUncounted(list []types.UID, seen map[types.UID]bool, path *field.Path) (errs field.ErrorList) {
	for i, uid := range list {
		switch {
		case uid == "":
			errs = append(errs, field.Invalid(path.Index(i), uid, "must not be empty"))
		case seen[uid]:
			errs = append(errs, field.Duplicate(path.Index(i), uid))
		}
		seen[uid] = true
	}
	return errs
}

func aboutConditions(text string) *field.Error {
	return field.Invalid(statusPath.Child("conditions"), field.OmitValueType{}, text)
}

// validateConditions checks which conditions and times are there together.
func validateConditions(j *batchv1.Job) (errs field.ErrorList) {
	s, complete, met := &j.Status, jobHas(j, batchv1.JobComplete), jobHas(j, batchv1.JobSuccessCriteriaMet)
	failed, failing := jobHas(j, batchv1.JobFailed), jobHas(j, batchv1.JobFailureTarget)
	add := func(e *field.Error) { errs = append(errs, e) }
	if complete && failed {
		add(aboutConditions("cannot set Complete=True and Failed=true conditions"))
	}
	if complete && failing {
		add(aboutConditions("cannot set Complete=True and FailureTarget=true conditions"))
	}
	if met && failed {
		add(aboutConditions("cannot set SuccessCriteriaMet=True and Failed=true conditions"))
	}
	if met && failing {
		add(aboutConditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"))
	}
	if j.Spec.SuccessPolicy != nil && complete && !met {
		add(aboutConditions("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"))
	}
	switch at := statusPath.Child("completionTime"); {
	case s.CompletionTime == nil && complete:
		add(field.Required(at, "completionTime is required for Complete jobs"))
	case s.CompletionTime != nil && !complete:
		add(field.Invalid(at, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	if s.CompletionTime != nil && s.StartTime != nil && s.CompletionTime.Before(s.StartTime) {
		add(field.Invalid(statusPath.Child("completionTime"), s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	return errs
}

// validateFinished checks that nothing is left to do of a job that is over.
func validateFinished(j *batchv1.Job) (errs field.ErrorList) {
	s := &j.Status
	neverRan := j.Spec.Suspend != nil && *j.Spec.Suspend && j.Spec.Completions != nil && *j.Spec.Completions == 0
	if s.StartTime == nil && !neverRan {
		errs = append(errs, field.Required(statusPath.Child("startTime"), "startTime is required for finished job"))
	}
	if s.Active > 0 {
		errs = append(errs, field.Invalid(statusPath.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if n := s.Terminating; n != nil && *n > 0 {
		errs = append(errs, field.Invalid(statusPath.Child("terminating"), *n, "terminating>0 is invalid for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
		errs = append(errs, field.Invalid(statusPath.Child("uncountedTerminatedPods"), u, "uncountedTerminatedPods needs to be empty for finished job"))
	}
	return errs
}

// validateStatusIndexes checks the lists of completed and failed indexes.
func validateStatusIndexes(j *batchv1.Job) (errs field.ErrorList) {
	s, spec := &j.Status, &j.Spec
	add := func(name, value, text string) {
		errs = append(errs, field.Invalid(statusPath.Child(name), value, text))
	}
	var done, failed spans
	var err error
	if spec.Completions != nil {
		if done, err = parseIndexes(s.CompletedIndexes, *spec.Completions); err != nil {
			add("completedIndexes", s.CompletedIndexes, "error parsing completedIndexes: "+err.Error())
		}
	}
	if f := s.FailedIndexes; f != nil && spec.Completions != nil && spec.BackoffLimitPerIndex != nil {
		if failed, err = parseIndexes(*f, *spec.Completions); err != nil {
			add("failedIndexes", *f, "error parsing failedIndexes: "+err.Error())
		}
	}
	if s.CompletedIndexes != "" && !indexed(spec) {
		add("completedIndexes", s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if s.FailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		add("failedIndexes", *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	}
	if both, ok := done.common(failed); ok {
		add("failedIndexes", *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", both))
	}
	return errs
}

// validateStatusUpdate checks that what has happened stays so.
func validateStatusUpdate(j, old *batchv1.Job) (errs field.ErrorList) {
	s, o := &j.Status, &old.Status
	add := func(e *field.Error) { errs = append(errs, e) }
	for _, t := range [...]batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if jobHas(old, t) && !jobHas(j, t) {
			add(aboutConditions(fmt.Sprintf("cannot disable the terminal %s=True condition", t)))
		}
	}
	if s.Failed < o.Failed {
		add(field.Invalid(statusPath.Child("failed"), s.Failed, "cannot decrease the failed counter"))
	}
	elastic := indexed(&j.Spec) && j.Spec.Completions != nil && j.Spec.Parallelism != nil && *j.Spec.Completions == *j.Spec.Parallelism
	if s.Succeeded < o.Succeeded && !elastic {
		add(field.Invalid(statusPath.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter"))
	}
	if s.CompletionTime != nil && o.CompletionTime != nil && !s.CompletionTime.Equal(o.CompletionTime) {
		add(field.Invalid(statusPath.Child("completionTime"), s.CompletionTime, "completionTime cannot be mutated"))
	}
	// A job that is just resumed starts anew.
	running := (j.Spec.Suspend == nil || !*j.Spec.Suspend) && !jobHas(old, batchv1.JobSuspended)
	if o.StartTime != nil && !o.StartTime.Equal(s.StartTime) && running {
		add(field.Required(statusPath.Child("startTime"), "startTime cannot be removed for unsuspended job"))
	}
	switch was, is := jobHas(old, batchv1.JobSuccessCriteriaMet), jobHas(j, batchv1.JobSuccessCriteriaMet); {
	case was && !is:
		add(aboutConditions("cannot disable the SuccessCriteriaMet=True condition"))
	case is && !was && jobHas(old, batchv1.JobComplete):
		add(aboutConditions("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"))
	}
	return errs
}

func jobHas(j *batchv1.Job, t batchv1.JobConditionType) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == t && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
