package batch

import (
	"fmt"
	"maps"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

var specPath, statusPath = field.NewPath("spec"), field.NewPath("status")

// prepareJob gives a new job the selector that only its own pods match: by its uid.
func prepareJob(j, old *batchv1.Job) {
	if old != nil {
		j.Status = old.Status
		return
	}
	j.Status = batchv1.JobStatus{}
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector {
		return
	}
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	uid := string(j.UID)
	for k, v := range map[string]string{batchv1.ControllerUidLabel: uid, "controller-uid": uid, batchv1.JobNameLabel: j.Name, "job-name": j.Name} {
		if _, ok := t.Labels[k]; !ok {
			t.Labels[k] = v
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = uid
	}
	labelLikeTemplate(j)
}

// labelLikeTemplate gives a job without labels those of its template.
func labelLikeTemplate(j *batchv1.Job) {
	if len(j.Labels) == 0 {
		j.Labels = maps.Clone(j.Spec.Template.Labels)
	}
}

func validateJob(j, old *batchv1.Job) field.ErrorList {
	errs := validateJobName(j)
	errs = append(errs, validateGenerated(j)...)
	errs = append(errs, validateJobSpec(&j.Spec, specPath)...)
	if s := j.Spec.Selector; s == nil {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	} else {
		errs = append(errs, metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, specPath.Child("selector"))...)
		if sel, err := metav1.LabelSelectorAsSelector(s); err == nil && !sel.Matches(labels.Set(j.Spec.Template.Labels)) {
			errs = append(errs, field.Invalid(specPath.Child("template", "metadata", "labels"), j.Spec.Template.Labels, "`selector` does not match template `labels`"))
		}
	}
	if old != nil {
		errs = append(errs, validateJobUpdate(j, old)...)
	}
	return errs
}

// validateJobName leaves room for what an indexed job's pods add to the name.
func validateJobName(j *batchv1.Job) field.ErrorList {
	if !indexed(&j.Spec) || j.Spec.Completions == nil || *j.Spec.Completions <= 0 {
		return nil
	}
	return validate.Label(fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1), field.NewPath("metadata", "name"))
}

func indexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// validateGenerated checks that a generated selector is just what would be generated.
func validateGenerated(j *batchv1.Job) (errs field.ErrorList) {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector || j.Spec.Selector == nil {
		return nil
	}
	set := j.Spec.Template.Labels
	at := specPath.Child("template", "metadata", "labels")
	for _, want := range []struct{ key, value string }{{batchv1.ControllerUidLabel, string(j.UID)}, {batchv1.JobNameLabel, j.Name}} {
		if v, ok := set[want.key]; !ok || v != want.value {
			errs = append(errs, field.Invalid(at, set, fmt.Sprintf("must have value %q for label %q", want.value, want.key)))
		}
	}
	if got := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; got != string(j.UID) {
		errs = append(errs, field.Invalid(specPath.Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// maxIndexedParallelism is what an indexed job's status can still tell apart.
const maxIndexedParallelism = 100_000

func validateJobSpec(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	add(validate.CountOf(s.Parallelism, path.Child("parallelism"))...)
	add(validate.CountOf(s.Completions, path.Child("completions"))...)
	add(validate.CountOf(s.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	add(validate.CountOf(s.BackoffLimit, path.Child("backoffLimit"))...)
	add(validate.CountOf(s.TTLSecondsAfterFinished, path.Child("ttlSecondsAfterFinished"))...)
	add(validate.CountOf(s.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	if n, at := s.MaxFailedIndexes, path.Child("maxFailedIndexes"); n != nil {
		add(validate.Count(*n, at)...)
		if s.BackoffLimitPerIndex == nil {
			add(field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
		}
	}
	if m := s.CompletionMode; m != nil {
		add(validate.Known(*m, path.Child("completionMode"), batchv1.IndexedCompletion, batchv1.NonIndexedCompletion)...)
	}
	if indexed(s) {
		if s.Completions == nil {
			add(field.Required(path.Child("completions"), "when completion mode is Indexed"))
		}
		if s.Parallelism != nil && *s.Parallelism > maxIndexedParallelism {
			add(field.Invalid(path.Child("parallelism"), *s.Parallelism,
				fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexedParallelism, batchv1.IndexedCompletion)))
		}
	} else if s.BackoffLimitPerIndex != nil {
		add(field.Invalid(path.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
	}
	if m := s.ManagedBy; m != nil {
		if len(*m) > 63 {
			add(field.TooLongCharacters(path.Child("managedBy"), *m, 63))
		}
		if !strings.Contains(*m, "/") {
			add(field.Invalid(path.Child("managedBy"), *m, "must be a domain-prefixed path (such as \"acme.io/foo\")"))
		}
	}
	if p := s.PodReplacementPolicy; p != nil {
		at := path.Child("podReplacementPolicy")
		if s.PodFailurePolicy != nil {
			if *p != batchv1.Failed {
				add(field.NotSupported(at, *p, []batchv1.PodReplacementPolicy{batchv1.Failed}))
			}
		} else {
			add(validate.Known(*p, at, batchv1.Failed, batchv1.TerminatingOrFailed)...)
		}
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
	add(validateFailurePolicy(s, path.Child("podFailurePolicy"))...)
	return append(errs, validateSuccessPolicy(s, path.Child("successPolicy"))...)
}

func validateFailurePolicy(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	if s.PodFailurePolicy == nil {
		return nil
	}
	names := map[string]bool{}
	for _, c := range s.Template.Spec.InitContainers {
		names[c.Name] = true
	}
	for _, c := range s.Template.Spec.Containers {
		names[c.Name] = true
	}
	rules := path.Child("rules")
	if n := len(s.PodFailurePolicy.Rules); n > 20 {
		errs = append(errs, field.TooMany(rules, n, 20))
	}
	for i, r := range s.PodFailurePolicy.Rules {
		at := rules.Index(i)
		errs = append(errs, validate.OneOf(r.Action, at.Child("action"), batchv1.PodFailurePolicyActionCount,
			batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)...)
		if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
		}
		switch {
		case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
			errs = append(errs, field.Invalid(at, "", "specifying both OnExitCodes and OnPodConditions is not supported"))
		case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
			errs = append(errs, field.Invalid(at, "", "specifying one of OnExitCodes and OnPodConditions is required"))
		case r.OnExitCodes != nil:
			errs = append(errs, validateExitCodes(r.OnExitCodes, names, at.Child("onExitCodes"))...)
		}
		for k, c := range r.OnPodConditions {
			p := at.Child("onPodConditions").Index(k)
			errs = append(errs, validate.Qualified(string(c.Type), p.Child("type"))...)
			errs = append(errs, validate.OneOf(c.Status, p.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
	}
	return errs
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, names map[string]bool, at *field.Path) (errs field.ErrorList) {
	errs = validate.OneOf(r.Operator, at.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if r.ContainerName != nil && !names[*r.ContainerName] {
		errs = append(errs, field.Invalid(at.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := at.Child("values")
	if n := len(r.Values); n == 0 {
		errs = append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	} else if n > 255 {
		errs = append(errs, field.TooMany(values, n, 255))
	}
	seen, ordered := map[int32]bool{}, true
	for i, v := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		seen[v] = true
		ordered = ordered && (i == 0 || r.Values[i-1] <= v)
	}
	if !ordered {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	if s.SuccessPolicy == nil {
		return nil
	}
	if !indexed(s) {
		return append(errs, field.Invalid(path, s.SuccessPolicy, "requires indexed completion mode"))
	}
	rules := path.Child("rules")
	if n := len(s.SuccessPolicy.Rules); n == 0 {
		errs = append(errs, field.Required(rules, "at least one rules must be specified when the successPolicy is specified"))
	} else if n > 20 {
		errs = append(errs, field.TooMany(rules, n, 20))
	}
	for i, r := range s.SuccessPolicy.Rules {
		at := rules.Index(i)
		if r.SucceededCount == nil && r.SucceededIndexes == nil {
			errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		if n := r.SucceededCount; n != nil {
			errs = append(errs, validate.Count(*n, at.Child("succeededCount"))...)
			if s.Completions != nil && *n > *s.Completions {
				errs = append(errs, field.Invalid(at.Child("succeededCount"), *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *s.Completions)))
			}
		}
	}
	return errs
}

// validateJobUpdate checks that only parallelism, suspension and limits change;
// a job that has never started may also be placed elsewhere.
func validateJobUpdate(j, old *batchv1.Job) (errs field.ErrorList) {
	s, o := &j.Spec, &old.Spec
	same := func(v, was any, name string) { errs = append(errs, validate.Same(v, was, specPath.Child(name))...) }
	elastic := indexed(s) && s.Completions != nil && s.Parallelism != nil && *s.Completions == *s.Parallelism
	if !elastic || o.Completions == nil {
		same(s.Completions, o.Completions, "completions")
	}
	same(s.Selector, o.Selector, "selector")
	t, was := s.Template.DeepCopy(), o.Template.DeepCopy()
	if o.Suspend != nil && *o.Suspend && old.Status.StartTime == nil {
		for _, p := range []*corev1.PodTemplateSpec{t, was} {
			p.Spec.NodeSelector, p.Spec.Affinity, p.Spec.Tolerations, p.Spec.SchedulingGates = nil, nil, nil, nil
			p.Annotations, p.Labels = nil, nil
		}
	}
	if !equality.Semantic.DeepEqual(t, was) {
		errs = append(errs, field.Invalid(specPath.Child("template"), s.Template, "field is immutable"))
	}
	same(s.CompletionMode, o.CompletionMode, "completionMode")
	same(s.PodFailurePolicy, o.PodFailurePolicy, "podFailurePolicy")
	same(s.BackoffLimitPerIndex, o.BackoffLimitPerIndex, "backoffLimitPerIndex")
	same(s.ManagedBy, o.ManagedBy, "managedBy")
	same(s.SuccessPolicy, o.SuccessPolicy, "successPolicy")
	return errs
}

func validateJobStatus(j, old *batchv1.Job) (errs field.ErrorList) {
	s := &j.Status
	for _, c := range []struct {
		name string
		n    int32
	}{{"active", s.Active}, {"succeeded", s.Succeeded}, {"failed", s.Failed}} {
		errs = append(errs, validate.Count(c.n, statusPath.Child(c.name))...)
	}
	errs = append(errs, validate.CountOf(s.Ready, statusPath.Child("ready"))...)
	errs = append(errs, validate.CountOf(s.Terminating, statusPath.Child("terminating"))...)
	if s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(statusPath.Child("ready"), *s.Ready, "more ready than active pods"))
	}
	complete, failed := jobHas(j, batchv1.JobComplete), jobHas(j, batchv1.JobFailed)
	if complete && failed {
		errs = append(errs, field.Invalid(statusPath.Child("conditions"), field.OmitValueType{}, "cannot set Complete=True and Failed=true conditions"))
	}
	if (complete || failed) && s.Active > 0 {
		errs = append(errs, field.Invalid(statusPath.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if s.CompletionTime != nil && !complete {
		errs = append(errs, field.Invalid(statusPath.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	if s.CompletionTime != nil && s.StartTime != nil && s.CompletionTime.Before(s.StartTime) {
		errs = append(errs, field.Invalid(statusPath.Child("completionTime"), s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if jobHas(old, t) && !jobHas(j, t) {
			errs = append(errs, field.Invalid(statusPath.Child("conditions"), field.OmitValueType{}, fmt.Sprintf("cannot disable the terminal %s=True condition", t)))
		}
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

// maxCronJobName leaves room for the time that a job's name ends with.
const maxCronJobName = 52

func validateCronJob(c, old *batchv1.CronJob) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s := &c.Spec
	if old == nil && len(c.Name) > maxCronJobName {
		add(field.Invalid(field.NewPath("metadata").Child("name"), c.Name, fmt.Sprintf("must be no more than %d characters", maxCronJobName)))
	}
	if s.Schedule == "" {
		add(field.Required(specPath.Child("schedule"), ""))
	} else {
		add(validateSchedule(s, specPath.Child("schedule"))...)
	}
	if n := s.StartingDeadlineSeconds; n != nil {
		add(validate.Count(*n, specPath.Child("startingDeadlineSeconds"))...)
	}
	if z := s.TimeZone; z != nil {
		at := specPath.Child("timeZone")
		switch {
		case *z == "":
			add(field.Invalid(at, *z, "timeZone must be nil or non-empty string"))
		case strings.EqualFold(*z, "Local"):
			add(field.Invalid(at, *z, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
		default:
			if _, err := time.LoadLocation(*z); err != nil {
				add(field.Invalid(at, *z, err.Error()))
			}
		}
	}
	add(validate.OneOf(s.ConcurrencyPolicy, specPath.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	add(validate.CountOf(s.SuccessfulJobsHistoryLimit, specPath.Child("successfulJobsHistoryLimit"))...)
	add(validate.CountOf(s.FailedJobsHistoryLimit, specPath.Child("failedJobsHistoryLimit"))...)
	job := specPath.Child("jobTemplate", "spec")
	add(validateJobSpec(&s.JobTemplate.Spec, job)...)
	if m := s.JobTemplate.Spec.ManualSelector; m != nil && *m {
		add(field.Invalid(job.Child("manualSelector"), m, "jobs created by CronJobs can not use a manual selector"))
	}
	return errs
}
