package batch

import (
	"fmt"
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

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
	errs := validateJobName(j, old)
	errs = append(errs, validateGenerated(j)...)
	errs = append(errs, validateJobSpec(&j.Spec, specPath)...)
	if s := j.Spec.Selector; s == nil {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	} else {
		errs = append(errs, validate.Selector(s, specPath.Child("selector"))...)
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
func validateJobName(j, old *batchv1.Job) field.ErrorList {
	if old != nil || !indexed(&j.Spec) || j.Spec.Completions == nil || *j.Spec.Completions <= 0 {
		return nil
	}
	if last := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1); !validate.IsLabel(last) {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+last)}
	}
	return nil
}

func indexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// validateGenerated checks that a generated selector is just what would be
// generated, and that the template has all labels that a job's pods have.
func validateGenerated(j *batchv1.Job) (errs field.ErrorList) {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector || j.Spec.Selector == nil {
		return nil
	}
	meta, uid := specPath.Child("template", "metadata"), string(j.UID)
	want := labels.Set{}
	for _, l := range [...]struct{ key, value string }{{"controller-uid", uid}, {"job-name", j.Name},
		{batchv1.ControllerUidLabel, uid}, {batchv1.JobNameLabel, j.Name}} {
		at, must := meta.Child("labels").Key(l.key), fmt.Sprintf("must be '%s'", l.value)
		if have, ok := j.Spec.Template.Labels[l.key]; !ok {
			errs = append(errs, field.Required(at, must))
		} else if have != l.value {
			errs = append(errs, field.Invalid(at, j.Spec.Template.Labels, must))
		}
		want[l.key] = l.value
	}
	if sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !sel.Matches(want) {
		errs = append(errs, field.Invalid(specPath.Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}
