package admit

import (
	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/api/owned"
)

// What the steps fill in belongs to nobody (metadata.managedFields). For pods,
// which are many, what was not there before is noted; other objects are cloned.

// A Before remembers what an object had before the steps that change it.
type Before struct {
	obj        api.Object // a copy, unless it is a pod
	spec       corev1.PodSpec
	containers []int // how many mounts each had
}

// Note notes what obj has. steps are those that will see it.
func Note(obj api.Object, steps []*Step, a *Attributes) *Before {
	pod, ok := obj.(*corev1.Pod)
	change := false
	for _, s := range steps {
		if s.Mutate != nil && s.Runs(a) {
			change = true
			ok = ok && !s.Wild && (s.WildFor == nil || !s.WildFor(a))
		}
	}
	switch {
	case !change:
		return nil
	case !ok:
		return &Before{obj: api.Clone(obj)}
	}
	b := &Before{spec: pod.Spec}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			b.containers = append(b.containers, len(list[i].VolumeMounts))
		}
	}
	return b
}

// Filled is what the steps added to obj since it was noted.
func (b *Before) Filled(obj api.Object) (s owned.Set) {
	if b == nil {
		return s
	}
	if b.obj != nil {
		d := owned.Compare(b.obj, obj)
		return d.Added
	}
	was, is := &b.spec, &obj.(*corev1.Pod).Spec
	field := func(name string, filled bool) {
		if filled {
			s.Put(false, "f:spec", "f:"+name)
		}
	}
	if len(was.ImagePullSecrets) == 0 && len(is.ImagePullSecrets) > 0 {
		s.Put(true, "f:spec", "f:imagePullSecrets")
	}
	field("preemptionPolicy", was.PreemptionPolicy == nil && is.PreemptionPolicy != nil)
	field("priority", was.Priority == nil && is.Priority != nil)
	field("priorityClassName", was.PriorityClassName == "" && is.PriorityClassName != "")
	field("serviceAccount", was.DeprecatedServiceAccount == "" && is.DeprecatedServiceAccount != "")
	field("serviceAccountName", was.ServiceAccountName == "" && is.ServiceAccountName != "")
	field("tolerations", len(was.Tolerations) == 0 && len(is.Tolerations) > 0)
	if len(was.Volumes) == 0 && len(is.Volumes) > 0 {
		s.Put(true, "f:spec", "f:volumes")
	} else {
		for _, v := range is.Volumes[len(was.Volumes):] {
			s.Put(true, "f:spec", "f:volumes", owned.Item("name", v.Name))
		}
	}
	n := 0
	for list, in := range [][]corev1.Container{is.InitContainers, is.Containers} {
		name := [2]string{"f:initContainers", "f:containers"}[list]
		for i := range in {
			filledMounts(&s, name, &in[i], b.containers[n])
			n++
		}
	}
	return s
}

func filledMounts(s *owned.Set, list string, c *corev1.Container, had int) {
	if had == len(c.VolumeMounts) {
		return
	}
	path := []string{"f:spec", list, owned.Item("name", c.Name), "f:volumeMounts"}
	if had == 0 {
		s.Put(true, path...)
		return
	}
	for _, m := range c.VolumeMounts[had:] {
		s.Put(true, append(path, owned.Item("mountPath", m.MountPath))...)
	}
}
