package podspec

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// updatable are the fields of a pod's spec that may change after its creation.
var updatable = []string{
	"`spec.containers[*].image`",
	"`spec.initContainers[*].image`",
	"`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}

// ValidateUpdate checks that only what may change of a pod did. While it waits
// for its scheduling gates, its node selection may also become narrower.
func ValidateUpdate(p, was *corev1.Pod) (errs field.ErrorList) {
	s, old, path := &p.Spec, &was.Spec, field.NewPath("spec")
	errs = ValidateAnnotationUpdate(p, was)
	if len(s.Containers) != len(old.Containers) {
		return append(errs, field.Forbidden(path.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(s.InitContainers) != len(old.InitContainers) {
		return append(errs, field.Forbidden(path.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	if e := deadlineUpdate(s, old, path.Child("activeDeadlineSeconds")); len(e) > 0 {
		errs = append(errs, e...)
		if s.ActiveDeadlineSeconds != nil {
			return errs
		}
	}
	errs = append(errs, tolerationUpdate(s.Tolerations, old.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, gateUpdate(s, old, path.Child("schedulingGates"))...)
	if equality.Semantic.DeepEqual(s, old) {
		return errs
	}
	// What remains must be the same: take the fields that may change from old.
	rest := s.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds, rest.Tolerations, rest.SchedulingGates = old.ActiveDeadlineSeconds, old.Tolerations, old.SchedulingGates
	if len(old.SchedulingGates) > 0 {
		errs = append(errs, nodeSelectorUpdate(s.NodeSelector, old.NodeSelector, path.Child("nodeSelector"))...)
		errs = append(errs, affinityUpdate(s.Affinity, old.Affinity, path.Child("affinity", "nodeAffinity"))...)
		rest.NodeSelector = old.NodeSelector
		keepNodeAffinity(rest, old)
	}
	if g, o := rest.TerminationGracePeriodSeconds, old.TerminationGracePeriodSeconds; g != nil && o != nil && *o < 0 && *g == 1 {
		rest.TerminationGracePeriodSeconds = o
	}
	if !equality.Semantic.DeepEqual(rest, old) {
		errs = append(errs, field.Forbidden(path, "pod updates may not change fields other than "+
			strings.Join(updatable, ",")+"\n"+diff.Diff(old, rest)))
	}
	return errs
}

// ValidateAnnotationUpdate checks that the annotations that the node has acted on stay.
func ValidateAnnotationUpdate(p, old *corev1.Pod) (errs field.ErrorList) {
	at := field.NewPath("metadata", "annotations")
	check := func(k, verb string) {
		if strings.HasPrefix(k, appArmorOfContainer) {
			errs = append(errs, field.Forbidden(at.Key(k), "may not "+verb+" AppArmor annotations"))
		}
		if k == mirrorAnnotation {
			errs = append(errs, field.Forbidden(at.Key(k), "may not "+verb+" mirror pod annotation"))
		}
	}
	for k, v := range old.Annotations {
		if now, ok := p.Annotations[k]; !ok || now != v {
			check(k, "remove or update")
		}
	}
	for k := range p.Annotations {
		if _, ok := old.Annotations[k]; !ok {
			check(k, "add")
		}
	}
	return errs
}

func deadlineUpdate(s, old *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	n, o := s.ActiveDeadlineSeconds, old.ActiveDeadlineSeconds
	switch {
	case n != nil && (*n < 0 || *n > math.MaxInt32):
		errs = append(errs, field.Invalid(at, *n, validation.InclusiveRangeError(0, math.MaxInt32)))
	case n != nil && o != nil && *n > *o:
		errs = append(errs, field.Invalid(at, *n, "must be less than or equal to previous value"))
	case n == nil && o != nil:
		errs = append(errs, field.Invalid(at, n, "must not update from a positive integer to nil value"))
	}
	return errs
}

// tolerationUpdate lets tolerations be added, and only their seconds change.
func tolerationUpdate(list, old []corev1.Toleration, at *field.Path) field.ErrorList {
	for _, o := range old {
		found := false
		for _, t := range list {
			o.TolerationSeconds = t.TolerationSeconds
			if o == t {
				found = true
				break
			}
		}
		if !found {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func gateUpdate(s, old *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	had := map[string]bool{}
	for _, g := range old.SchedulingGates {
		had[g.Name] = true
	}
	for i, g := range s.SchedulingGates {
		if !had[g.Name] {
			errs = append(errs, field.Forbidden(at.Index(i).Child("name"), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'"))
		}
	}
	return errs
}

func nodeSelectorUpdate(sel, old map[string]string, at *field.Path) field.ErrorList {
	for k, v := range old {
		if now, ok := sel[k]; !ok || now != v {
			return field.ErrorList{field.Invalid(at, sel, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")}
		}
	}
	return nil
}

// affinityUpdate lets the terms of a required node affinity grow only by
// requirements, each of which narrows the term.
func affinityUpdate(a, old *corev1.Affinity, at *field.Path) (errs field.ErrorList) {
	if old == nil || old.NodeAffinity == nil || old.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	at = at.Child(requiredTerms, "nodeSelectorTerms")
	was := old.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var now []corev1.NodeSelectorTerm
	if a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		now = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(was) > 0 && len(was) != len(now) {
		return field.ErrorList{field.Invalid(at, now, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	for i := range was {
		empty := len(was[i].MatchExpressions)+len(was[i].MatchFields) == 0 // it selects nothing, and more would select something
		if empty && len(now[i].MatchExpressions)+len(now[i].MatchFields) > 0 ||
			!prefix(was[i].MatchExpressions, now[i].MatchExpressions) || !prefix(was[i].MatchFields, now[i].MatchFields) {
			errs = append(errs, field.Invalid(at.Index(i), now[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func prefix(was, now []corev1.NodeSelectorRequirement) bool {
	return len(now) >= len(was) && equality.Semantic.DeepEqual(was, now[:len(was)])
}

// keepNodeAffinity gives rest the node affinity of old.
func keepNodeAffinity(rest, old *corev1.PodSpec) {
	var was *corev1.NodeAffinity
	if old.Affinity != nil {
		was = old.Affinity.NodeAffinity
	}
	if rest.Affinity != nil {
		rest.Affinity.NodeAffinity = was
		if old.Affinity == nil && *rest.Affinity == (corev1.Affinity{}) {
			rest.Affinity = nil
		}
	} else if was != nil {
		rest.Affinity = &corev1.Affinity{NodeAffinity: was}
	}
}
