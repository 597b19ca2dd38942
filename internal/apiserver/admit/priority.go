package admit

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// priority turns a pod's class into its priority, and lets only one class be
// the default. It follows the classes so that a pod costs no look at all of them.
func priority() *Step {
	gr := schedulingv1.SchemeGroupVersion.WithResource("priorityclasses").GroupResource()
	classes := &defaultClasses{by: map[string]*schedulingv1.PriorityClass{}}
	return &Step{
		Name: "Priority", For: []string{"pods", gr.String()}, Verbs: []api.Verb{api.Create, api.Update},
		Mutate: func(_ context.Context, a *Attributes) error {
			if pod, ok := a.New.(*corev1.Pod); ok && a.Verb == api.Create {
				return setPriority(a, pod, gr, classes.lowest())
			}
			return nil
		},
		Validate: func(_ context.Context, a *Attributes) error {
			pc, ok := a.New.(*schedulingv1.PriorityClass)
			if !ok || !pc.GlobalDefault {
				return nil
			}
			if have := classes.lowest(); have != nil && have.Name != pc.Name {
				return forbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", have.Name))
			}
			return nil
		},
		Follow: map[schema.GroupResource]func(old, new api.Object){gr: classes.follow},
	}
}

func setPriority(a *Attributes, pod *corev1.Pod, gr schema.GroupResource, standard *schedulingv1.PriorityClass) error {
	class := standard
	if name := pod.Spec.PriorityClassName; name != "" {
		found := a.State.Get(gr, "", name)
		if found == nil {
			return forbidden(a, fmt.Errorf("no PriorityClass with name %v was found", name))
		}
		class = found.(*schedulingv1.PriorityClass)
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		value, pod.Spec.PriorityClassName = class.Value, class.Name
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if p := pod.Spec.Priority; p != nil && *p != value {
		return forbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, value))
	}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != policy {
		return forbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, policy))
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// defaultClasses knows the classes that are marked as default.
type defaultClasses struct {
	mu sync.RWMutex
	by map[string]*schedulingv1.PriorityClass
}

func (d *defaultClasses) follow(old, new api.Object) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old != nil {
		delete(d.by, old.GetName())
	}
	if new != nil && new.(*schedulingv1.PriorityClass).GlobalDefault {
		d.by[new.GetName()] = new.(*schedulingv1.PriorityClass)
	}
}

// lowest is the default class with the smallest value, or nil.
func (d *defaultClasses) lowest() (class *schedulingv1.PriorityClass) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, c := range d.by {
		if class == nil || c.Value < class.Value {
			class = c
		}
	}
	return class
}
