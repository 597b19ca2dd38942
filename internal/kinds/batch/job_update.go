package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// validateJobUpdate checks that only parallelism, suspension and limits change;
// a suspended job may also be placed elsewhere and get other resources.
func validateJobUpdate(j, old *batchv1.Job) (errs field.ErrorList) {
	s, o := &j.Spec, &old.Spec
	same := func(v, was any, name string) { errs = append(errs, validate.Same(v, was, specPath.Child(name))...) }
	completions := func(n *int32) bool { return n != nil && s.Completions != nil && *n == *s.Completions }
	switch unchanged := completions(o.Completions); {
	case !indexed(s):
		same(s.Completions, o.Completions, "completions")
	case !unchanged && !completions(s.Parallelism):
		at := specPath.Child("completions")
		errs = append(errs, field.Invalid(at, s.Completions, "can only be modified in tandem with "+specPath.Child("parallelism").String()))
	}
	same(s.Selector, o.Selector, "selector")
	was := &o.Template
	if o.Suspend != nil && *o.Suspend && atRest(old) {
		was = o.Template.DeepCopy()
		allowPlacing(was, &s.Template)
		allowResources(was.Spec.Containers, s.Template.Spec.Containers)
		allowResources(was.Spec.InitContainers, s.Template.Spec.InitContainers)
	}
	same(&s.Template, was, "template")
	same(s.CompletionMode, o.CompletionMode, "completionMode")
	same(s.PodFailurePolicy, o.PodFailurePolicy, "podFailurePolicy")
	same(s.BackoffLimitPerIndex, o.BackoffLimitPerIndex, "backoffLimitPerIndex")
	same(s.ManagedBy, o.ManagedBy, "managedBy")
	same(s.SuccessPolicy, o.SuccessPolicy, "successPolicy")
	return errs
}

// atRest says whether a suspended job has not started, or has no pods any more.
func atRest(j *batchv1.Job) bool {
	return j.Status.StartTime == nil || jobHas(j, batchv1.JobSuspended) && j.Status.Active == 0
}

// allowPlacing gives a template what says where the pods of another go.
func allowPlacing(t, now *corev1.PodTemplateSpec) {
	s, n := &t.Spec, &now.Spec
	switch {
	case s.Affinity != nil && n.Affinity != nil:
		s.Affinity.NodeAffinity = n.Affinity.NodeAffinity
	case s.Affinity != nil:
		s.Affinity.NodeAffinity = nil
		if *s.Affinity == (corev1.Affinity{}) {
			s.Affinity = nil
		}
	case n.Affinity != nil:
		s.Affinity = &corev1.Affinity{NodeAffinity: n.Affinity.NodeAffinity}
	}
	s.NodeSelector, s.Tolerations, s.SchedulingGates = n.NodeSelector, n.Tolerations, n.SchedulingGates
	t.Labels, t.Annotations = now.Labels, now.Annotations
}

// allowResources gives containers the resources of others of the same names.
func allowResources(list, now []corev1.Container) {
	for i := range list {
		if i < len(now) && now[i].Name == list[i].Name {
			list[i].Resources = now[i].Resources
		}
	}
}
