package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"proa/internal/kinds/podspec"
)

// Covers says whether a quota is about an object: all its scopes must be.
func Covers(q *corev1.ResourceQuota, obj any) bool {
	for _, s := range q.Spec.Scopes {
		if !in(obj, corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists}) {
			return false
		}
	}
	if q.Spec.ScopeSelector == nil {
		return true
	}
	for _, r := range q.Spec.ScopeSelector.MatchExpressions {
		if !in(obj, r) {
			return false
		}
	}
	return true
}

// in says whether an object is in a scope. Of what scopes are not made for nothing is.
func in(obj any, r corev1.ScopedResourceSelectorRequirement) bool {
	switch o := obj.(type) {
	case *corev1.Pod:
		return podIn(o, r)
	case *corev1.PersistentVolumeClaim:
		if r.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
			return false
		}
		name := ""
		if n := o.Spec.VolumeAttributesClassName; n != nil {
			name = *n
		}
		return named(name, r) || o.Status.CurrentVolumeAttributesClassName != nil && named(*o.Status.CurrentVolumeAttributesClassName, r)
	}
	return false
}

func podIn(p *corev1.Pod, r corev1.ScopedResourceSelectorRequirement) bool {
	ends := p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
	bestEffort := podspec.QOS(&p.Spec) == corev1.PodQOSBestEffort
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return ends
	case corev1.ResourceQuotaScopeNotTerminating:
		return !ends
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		return named(p.Spec.PriorityClassName, r)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crosses(p)
	}
	return false
}

// named says whether a name of a class, which may be empty, is one that is selected.
func named(name string, r corev1.ScopedResourceSelectorRequirement) bool {
	switch r.Operator {
	case corev1.ScopeSelectorOpExists:
		return name != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return name == ""
	case corev1.ScopeSelectorOpIn:
		return name != "" && slices.Contains(r.Values, name)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(r.Values, name)
	}
	return false
}

// crosses says whether a pod's affinity looks at pods of other namespaces.
func crosses(p *corev1.Pod) bool {
	a := p.Spec.Affinity
	if a == nil {
		return false
	}
	far := func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	weighed := func(t corev1.WeightedPodAffinityTerm) bool { return far(t.PodAffinityTerm) }
	if b := a.PodAffinity; b != nil && (slices.ContainsFunc(b.RequiredDuringSchedulingIgnoredDuringExecution, far) ||
		slices.ContainsFunc(b.PreferredDuringSchedulingIgnoredDuringExecution, weighed)) {
		return true
	}
	b := a.PodAntiAffinity
	return b != nil && (slices.ContainsFunc(b.RequiredDuringSchedulingIgnoredDuringExecution, far) ||
		slices.ContainsFunc(b.PreferredDuringSchedulingIgnoredDuringExecution, weighed))
}

// mustSay are the resources that every container has to speak of if a quota bounds them.
var mustSay = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory}

// Unsaid tells what containers of a pod leave out that the quota bounds; it is
// empty if that is nothing. What is said for the pod as a whole counts for all.
func Unsaid(q *corev1.ResourceQuota, p *corev1.Pod) string {
	whole := corev1.ResourceList{}
	if r := p.Spec.Resources; r != nil && resourcehelper.IsPodLevelResourcesSet(p) {
		compute(whole, r.Requests, r.Limits)
	}
	var out []string
	for _, name := range mustSay {
		if _, bounded := q.Spec.Hard[name]; !bounded {
			continue
		}
		if _, said := whole[name]; said {
			continue
		}
		var silent []string
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				use := corev1.ResourceList{}
				compute(use, list[i].Resources.Requests, list[i].Resources.Limits)
				if _, said := use[name]; !said {
					silent = append(silent, list[i].Name)
				}
			}
		}
		if len(silent) > 0 {
			slices.Sort(silent)
			out = append(out, fmt.Sprintf("%s for: %s", name, strings.Join(silent, ",")))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}
