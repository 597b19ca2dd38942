package sched

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// Terms are a pod's affinity and anti-affinity to other pods.
type Terms struct {
	Near   []Term // required
	Apart  []Term // required
	Prefer []Term // of either kind; a negative weight keeps apart
	Broken string // why a required term can not be read
}

// A Term selects pods, and a topology key by which being near them is meant.
type Term struct {
	Key    string
	Weight int64
	names  []string // of namespaces
	spaces labels.Selector
	all    bool // every namespace
	pods   labels.Selector
}

// Empty says whether there is no term at all.
func (t *Terms) Empty() bool { return len(t.Near)+len(t.Apart)+len(t.Prefer) == 0 }

func newTerms(p *corev1.Pod) *Terms {
	t := &Terms{}
	if p.Spec.Affinity == nil {
		return t
	}
	required := func(in []corev1.PodAffinityTerm) (out []Term) {
		for i := range in {
			term, err := newTerm(p, &in[i])
			if err != nil {
				t.Broken = err.Error()
				continue
			}
			out = append(out, term)
		}
		return out
	}
	preferred := func(in []corev1.WeightedPodAffinityTerm, sign int64) {
		for i := range in {
			if term, err := newTerm(p, &in[i].PodAffinityTerm); err == nil {
				term.Weight = sign * int64(in[i].Weight)
				t.Prefer = append(t.Prefer, term)
			}
		}
	}
	if a := p.Spec.Affinity.PodAffinity; a != nil {
		t.Near = required(a.RequiredDuringSchedulingIgnoredDuringExecution)
		preferred(a.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if a := p.Spec.Affinity.PodAntiAffinity; a != nil {
		t.Apart = required(a.RequiredDuringSchedulingIgnoredDuringExecution)
		preferred(a.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	return t
}

func newTerm(owner *corev1.Pod, in *corev1.PodAffinityTerm) (t Term, err error) {
	t.Key = in.TopologyKey
	if t.pods, err = metav1.LabelSelectorAsSelector(in.LabelSelector); err != nil {
		return t, err
	}
	if t.pods, err = WithKeys(t.pods, owner, in.MatchLabelKeys, selection.In); err != nil {
		return t, err
	}
	if t.pods, err = WithKeys(t.pods, owner, in.MismatchLabelKeys, selection.NotIn); err != nil {
		return t, err
	}
	t.names = in.Namespaces
	if in.NamespaceSelector != nil {
		if t.spaces, err = metav1.LabelSelectorAsSelector(in.NamespaceSelector); err != nil {
			return t, err
		}
		t.all = t.spaces.Empty()
	} else if len(t.names) == 0 {
		t.names = []string{owner.Namespace}
	}
	return t, nil
}

// WithKeys narrows a selector to pods that have the owner's values of its labels
// with these keys, or that have not, as op says.
func WithKeys(sel labels.Selector, owner *corev1.Pod, keys []string, op selection.Operator) (labels.Selector, error) {
	for _, key := range keys {
		if v, ok := owner.Labels[key]; ok {
			r, err := labels.NewRequirement(key, op, []string{v})
			if err != nil {
				return nil, err
			}
			sel = sel.Add(*r)
		}
	}
	return sel, nil
}

// Matches says whether a pod with these labels in this namespace is selected.
func (t *Term) Matches(s *State, namespace string, l labels.Set) bool {
	if !t.all && !slices.Contains(t.names, namespace) && (t.spaces == nil || !t.spaces.Matches(labels.Set(s.NamespaceLabels(namespace)))) {
		return false
	}
	return t.pods.Matches(l)
}

// MatchesAll says whether there are terms and all select the pod.
func MatchesAll(all []Term, s *State, namespace string, l labels.Set) bool {
	for i := range all {
		if !all[i].Matches(s, namespace, l) {
			return false
		}
	}
	return len(all) > 0
}
