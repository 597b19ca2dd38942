package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/podspec"
)

// podEphemeral adds ephemeral containers, and does nothing else.
var podEphemeral = &api.Part{
	Prepare: func(p, old api.Object) {
		n, o := p.(*corev1.Pod), old.(*corev1.Pod)
		added := n.Spec.EphemeralContainers
		o.Spec.DeepCopyInto(&n.Spec)
		n.Spec.EphemeralContainers, n.Status = added, o.Status
	},
	Validate: func(p, old api.Object) field.ErrorList {
		n, o := p.(*corev1.Pod), old.(*corev1.Pod)
		if isMirror(o) {
			return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
		}
		errs := append(podspec.ValidateChanged(n), podspec.ValidateAnnotationUpdate(n, o)...)
		at := specPath.Child("ephemeralContainers")
		have := map[string]corev1.EphemeralContainer{}
		for _, c := range n.Spec.EphemeralContainers {
			have[c.Name] = c
		}
		for _, was := range o.Spec.EphemeralContainers {
			now, ok := have[was.Name]
			if !ok {
				errs = append(errs, field.Forbidden(at, "existing ephemeral containers \""+was.Name+"\" may not be removed\n"))
			} else if !equality.Semantic.DeepEqual(now, was) {
				errs = append(errs, field.Forbidden(at, "existing ephemeral containers \""+was.Name+"\" may not be changed\n"+diff.Diff(was, now)))
			}
		}
		return errs
	},
	Spec: true,
}

// isMirror says whether a pod shows one that its node has from elsewhere.
func isMirror(p *corev1.Pod) bool {
	_, ok := p.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// podResize changes the resources of containers and of the pod, and nothing else.
var podResize = &api.Part{
	Prepare: func(p, old api.Object) {
		n, o := p.(*corev1.Pod), old.(*corev1.Pod)
		asked := n.Spec
		n.Spec, n.Status, n.Labels, n.Annotations = *o.Spec.DeepCopy(), o.Status, o.Labels, o.Annotations
		if len(otherContainers(&asked, &o.Spec)) > 0 { // validation says so
			n.Spec.Containers, n.Spec.InitContainers = asked.Containers, asked.InitContainers
			return
		}
		n.Spec.Resources = asked.Resources
		resizeLike(n.Spec.Containers, asked.Containers)
		resizeLike(n.Spec.InitContainers, asked.InitContainers)
	},
	Validate: func(p, old api.Object) field.ErrorList { return validateResize(p.(*corev1.Pod), old.(*corev1.Pod)) },
	Spec:     true,
}

func resizeLike(list, asked []corev1.Container) {
	for i := range list {
		list[i].Resources, list[i].ResizePolicy = asked[i].Resources, asked[i].ResizePolicy
	}
}

// otherContainers says which containers are not those of old, by their names in order.
func otherContainers(s, old *corev1.PodSpec) (errs field.ErrorList) {
	for _, l := range [...]struct {
		name     string
		now, was []corev1.Container
	}{{"containers", s.Containers, old.Containers}, {"initContainers", s.InitContainers, old.InitContainers}} {
		if len(l.now) != len(l.was) {
			errs = append(errs, field.Forbidden(specPath.Child(l.name), "containers may not be added or removed on resize"))
			continue
		}
		for i := range l.now {
			if l.now[i].Name != l.was[i].Name {
				errs = append(errs, field.Forbidden(specPath.Child(l.name).Index(i).Child("name"), "containers may not be renamed or reordered on resize"))
			}
		}
	}
	return errs
}

func validateResize(n, o *corev1.Pod) field.ErrorList {
	switch {
	case isMirror(o):
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	case o.Spec.OS != nil && o.Spec.OS.Name == corev1.Windows:
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	if errs := otherContainers(&n.Spec, &o.Spec); len(errs) > 0 {
		return errs
	}
	errs := podspec.ValidateChanged(n)
	if was, now := o.Status.QOSClass, podspec.QOS(&n.Spec); was != "" && now != was {
		errs = append(errs, field.Invalid(specPath, now, "Pod QOS Class may not change as a result of resizing"))
	}
	onlyCompute := true
	check := func(now, was *corev1.ResourceRequirements, at *field.Path) {
		same, e := resized(now, was, at)
		errs, onlyCompute = append(errs, e...), onlyCompute && same
	}
	for i := range n.Spec.Containers {
		check(&n.Spec.Containers[i].Resources, &o.Spec.Containers[i].Resources, specPath.Child("containers").Index(i).Child("resources"))
	}
	now, was := n.Spec.Resources, o.Spec.Resources
	if now != nil && was != nil {
		check(now, was, specPath.Child("resources"))
	} else if (now == nil) != (was == nil) {
		onlyCompute = false
	}
	if !onlyCompute {
		errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable"))
	}
	return append(errs, resizedInit(n.Spec.InitContainers, o.Spec.InitContainers)...)
}

// resizedInit checks that of the init containers only those that go on beside
// the others were resized.
func resizedInit(list, old []corev1.Container) (errs field.ErrorList) {
	for i := range list {
		c, was := &list[i], &old[i]
		if !podspec.Sidecar(was) {
			if !equality.Semantic.DeepEqual(c.Resources, was.Resources) || !equality.Semantic.DeepEqual(c.ResizePolicy, was.ResizePolicy) {
				errs = append(errs, field.Forbidden(specPath, "resources for non-sidecar init containers are immutable"))
			}
			continue
		}
		same, e := resized(&c.Resources, &was.Resources, specPath.Child("initContainers").Index(i).Child("resources"))
		if errs = append(errs, e...); !same {
			errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources for sidecar containers are mutable"))
		}
	}
	return errs
}

// resized checks that no request and no limit was taken away; it says whether
// all but cpu and memory stayed the same.
func resized(now, was *corev1.ResourceRequirements, at *field.Path) (onlyCompute bool, errs field.ErrorList) {
	onlyCompute = equality.Semantic.DeepEqual(now.Claims, was.Claims)
	for _, l := range [...]struct {
		name     string
		now, was corev1.ResourceList
	}{{"requests", now.Requests, was.Requests}, {"limits", now.Limits, was.Limits}} {
		for r, q := range l.was {
			n, ok := l.now[r]
			if !ok {
				errs = append(errs, field.Forbidden(at.Child(l.name), "resource "+l.name+" cannot be removed"))
			} else if r != corev1.ResourceCPU && r != corev1.ResourceMemory && n.Cmp(q) != 0 {
				onlyCompute = false
			}
		}
		for r := range l.now {
			if _, had := l.was[r]; !had && r != corev1.ResourceCPU && r != corev1.ResourceMemory {
				onlyCompute = false
			}
		}
	}
	return onlyCompute, errs
}
