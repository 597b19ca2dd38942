package admit

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	resourcehelper "k8s.io/component-helpers/resource"

	"proa/internal/api"
)

// filledResources is the annotation of a pod that says what its namespace's
// LimitRanges filled in.
const filledResources = "kubernetes.io/limit-ranger"

// limitRanger gives containers the requests and limits that the LimitRanges of
// their namespace have as defaults, and refuses pods and claims that are out of
// bounds. A pod is looked at when it is made and when it is resized, for nothing
// else of it that counts can change; a claim with every write.
func limitRanger() *Step {
	l := &limitRanges{by: map[string][]*corev1.LimitRange{}}
	return &Step{
		Name: "LimitRanger", For: []string{"pods", "persistentvolumeclaims"}, Verbs: []api.Verb{api.Create, api.Update}, Subs: []string{"resize"},
		WildFor: func(a *Attributes) bool { return len(l.of(a)) > 0 },
		Mutate: func(_ context.Context, a *Attributes) error {
			if pod, ok := a.New.(*corev1.Pod); ok {
				for _, r := range l.of(a) {
					fillResources(pod, r)
				}
			}
			return nil
		},
		Validate: func(_ context.Context, a *Attributes) error {
			for _, r := range l.of(a) {
				if err := withinLimits(a.New, r); err != nil {
					return forbidden(a, err)
				}
			}
			return nil
		},
		Follow: map[schema.GroupResource]func(old, new api.Object){corev1.Resource("limitranges"): l.follow},
	}
}

// limitRanges knows the LimitRanges of each namespace, by name.
type limitRanges struct {
	mu sync.RWMutex
	by map[string][]*corev1.LimitRange // not changed in place
}

func (l *limitRanges) follow(old, new api.Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change := func(o api.Object, add []*corev1.LimitRange) {
		ns := o.GetNamespace()
		rest := slices.DeleteFunc(slices.Clone(l.by[ns]), func(r *corev1.LimitRange) bool { return r.Name == o.GetName() })
		rest = append(rest, add...)
		slices.SortFunc(rest, func(a, b *corev1.LimitRange) int { return cmp.Compare(a.Name, b.Name) })
		if l.by[ns] = rest; len(rest) == 0 {
			delete(l.by, ns)
		}
	}
	switch {
	case new != nil:
		change(new, []*corev1.LimitRange{new.(*corev1.LimitRange)})
	case old != nil:
		change(old, nil)
	}
}

// of are the LimitRanges that a write must respect.
func (l *limitRanges) of(a *Attributes) []*corev1.LimitRange {
	_, pod := a.New.(*corev1.Pod)
	if pod != (a.Sub == "resize") && a.Verb == api.Update || a.Old != nil && a.Old.GetDeletionTimestamp() != nil {
		return nil
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.by[a.New.GetNamespace()]
}

// fillResources gives a pod's containers what a LimitRange has as defaults, and
// says so in an annotation.
func fillResources(pod *corev1.Pod, r *corev1.LimitRange) {
	var requests, limits corev1.ResourceList
	for i := range r.Spec.Limits {
		if item := &r.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			requests, limits = item.DefaultRequest, item.Default
		}
	}
	var said []string
	for _, list := range []struct {
		of   string
		here []corev1.Container
	}{{"container", pod.Spec.Containers}, {"init container", pod.Spec.InitContainers}} {
		for i := range list.here {
			c := &list.here[i]
			if names := fillList(&c.Resources.Requests, requests); names != "" {
				said = append(said, fmt.Sprintf("%s request for %s %s", names, list.of, c.Name))
			}
			if names := fillList(&c.Resources.Limits, limits); names != "" {
				said = append(said, fmt.Sprintf("%s limit for %s %s", names, list.of, c.Name))
			}
		}
	}
	if len(said) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[filledResources] = "LimitRanger plugin set: " + strings.Join(said, "; ")
	}
}

// fillList adds what is missing, and returns the names of that.
func fillList(to *corev1.ResourceList, from corev1.ResourceList) string {
	var names []string
	for name, q := range from {
		if _, ok := (*to)[name]; !ok {
			if *to == nil {
				*to = corev1.ResourceList{}
			}
			(*to)[name] = q.DeepCopy()
			names = append(names, string(name))
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// withinLimits says what of a pod or claim is out of the bounds of a LimitRange.
func withinLimits(o api.Object, r *corev1.LimitRange) error {
	var errs []error
	for i := range r.Spec.Limits {
		b := bounds{&r.Spec.Limits[i], &errs}
		switch o := o.(type) {
		case *corev1.PersistentVolumeClaim:
			if b.Type == corev1.LimitTypePersistentVolumeClaim {
				b.claim(o.Spec.Resources.Requests)
			}
		case *corev1.Pod:
			switch b.Type {
			case corev1.LimitTypeContainer:
				for _, list := range [][]corev1.Container{o.Spec.Containers, o.Spec.InitContainers} {
					for i := range list {
						b.check(list[i].Resources.Requests, list[i].Resources.Limits)
					}
				}
			case corev1.LimitTypePod:
				b.check(resourcehelper.PodRequests(o, ofContainers), resourcehelper.PodLimits(o, ofContainers))
			}
		}
	}
	return utilerrors.NewAggregate(errs)
}

// ofContainers is what a pod's containers ask for together, or the pod as a
// whole where it says so.
var ofContainers = resourcehelper.PodResourcesOptions{ExcludeOverhead: true}

// bounds are the bounds for one type of things, and what is found to be wrong.
type bounds struct {
	*corev1.LimitRangeItem
	errs *[]error
}

func (b bounds) refuse(format string, args ...any) {
	*b.errs = append(*b.errs, fmt.Errorf(format, args...))
}

// each calls f for the resources of a list in order, with a text for the bound.
func (b bounds) each(list corev1.ResourceList, text string, f func(name corev1.ResourceName, bound resource.Quantity, is string)) {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		bound := list[name]
		f(name, bound, fmt.Sprintf(text, name, b.Type, bound.String()))
	}
}

const (
	leastText = "minimum %s usage per %s is %s"
	mostText  = "maximum %s usage per %s is %s"
	ratioText = "%s max limit to request ratio per %s is %s"
)

// check compares requests and limits with the bounds.
func (b bounds) check(requests, limits corev1.ResourceList) {
	b.least(requests, limits)
	b.each(b.Max, mostText, func(name corev1.ResourceName, bound resource.Quantity, is string) {
		req, requested := requests[name]
		lim, limited := limits[name]
		switch {
		case !limited:
			b.refuse("%s.  No limit is specified", is)
		case lim.Cmp(bound) > 0:
			b.refuse("%s, but limit is %s", is, lim.String())
		case requested && req.Cmp(bound) > 0:
			b.refuse("%s, but request is %s", is, req.String())
		}
	})
	b.each(b.MaxLimitRequestRatio, ratioText, func(name corev1.ResourceName, bound resource.Quantity, is string) {
		req, lim := requests[name], limits[name]
		switch ratio := thousandths(lim) / thousandths(req); {
		case req.IsZero():
			b.refuse("%s, but no request is specified or request is 0", is)
		case lim.IsZero():
			b.refuse("%s, but no limit is specified or limit is 0", is)
		case ratio*1000 > thousandths(bound):
			b.refuse("%s, but provided ratio is %f", is, ratio)
		}
	})
}

func (b bounds) least(requests, limits corev1.ResourceList) {
	b.each(b.Min, leastText, func(name corev1.ResourceName, bound resource.Quantity, is string) {
		req, requested := requests[name]
		lim, limited := limits[name]
		switch {
		case !requested:
			b.refuse("%s.  No request is specified", is)
		case req.Cmp(bound) < 0:
			b.refuse("%s, but request is %s", is, req.String())
		case limited && lim.Cmp(bound) < 0:
			b.refuse("%s, but limit is %s", is, lim.String())
		}
	})
}

// claim compares what a claim requests with the bounds. Claims have no limits that count.
func (b bounds) claim(requests corev1.ResourceList) {
	b.least(requests, nil)
	b.each(b.Max, mostText, func(name corev1.ResourceName, bound resource.Quantity, is string) {
		switch req, requested := requests[name]; {
		case !requested:
			b.refuse("%s.  No request is specified", is)
		case req.Cmp(bound) > 0:
			b.refuse("%s, but request is %s", is, req.String())
		}
	})
}

// thousandths is a quantity in thousandths, exact for all but the very large.
func thousandths(q resource.Quantity) float64 {
	if n := q.Value(); n > resource.MaxMilliValue {
		return float64(n) * 1000
	}
	return float64(q.MilliValue())
}
