package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

var specPath = field.NewPath("spec")

func validatePod(p, old *corev1.Pod) field.ErrorList {
	if old == nil {
		return podspec.ValidatePod(p)
	}
	return append(podspec.ValidateChanged(p), podspec.ValidateUpdate(p, old)...)
}

func warnPod(p, old *corev1.Pod) (out []string) {
	if old == nil {
		out = podspec.WarnName(p.Name, "the Pod's hostname")
	}
	return append(out, podspec.WarnPod(p)...)
}

// validatePodStatus checks that a status does not undo what has happened.
func validatePodStatus(p, old *corev1.Pod) (errs field.ErrorList) {
	status := field.NewPath("status")
	if p.Status.NominatedNodeName != "" {
		errs = append(errs, validate.Subdomain(p.Status.NominatedNodeName, status.Child("nominatedNodeName"))...)
	}
	if p.Status.QOSClass != old.Status.QOSClass && old.Status.QOSClass != "" {
		errs = append(errs, field.Invalid(status.Child("qosClass"), p.Status.QOSClass, "field is immutable"))
	}
	errs = append(errs, statusTransition(p.Status.ContainerStatuses, old.Status.ContainerStatuses, status.Child("containerStatuses"), old.Spec.RestartPolicy)...)
	for i, ip := range p.Status.PodIPs {
		if ip.IP == "" {
			errs = append(errs, field.Invalid(status.Child("podIPs").Index(i), ip.IP, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
		}
	}
	if n := len(p.Status.PodIPs); n > 2 {
		errs = append(errs, field.Invalid(status.Child("podIPs"), p.Status.PodIPs, "may specify no more than one IP for each IP family"))
	}
	for i, c := range p.Status.Conditions {
		errs = append(errs, validate.Qualified(string(c.Type), status.Child("conditions").Index(i).Child("type"))...)
	}
	return errs
}

// statusTransition forbids that a container that has ended for good lives again.
func statusTransition(list, old []corev1.ContainerStatus, at *field.Path, policy corev1.RestartPolicy) (errs field.ErrorList) {
	if policy == corev1.RestartPolicyAlways {
		return nil
	}
	for _, o := range old {
		t := o.State.Terminated
		if t == nil || t.ExitCode != 0 && policy == corev1.RestartPolicyOnFailure {
			continue
		}
		for i, n := range list {
			if n.Name == o.Name && n.State.Terminated == nil {
				errs = append(errs, field.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

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
		errs := podspec.ValidateChanged(n)
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

// podResize changes the resources of containers, and nothing else.
var podResize = &api.Part{
	Prepare: func(p, old api.Object) {
		n, o := p.(*corev1.Pod), old.(*corev1.Pod)
		asked := n.Spec
		n.Spec, n.Status, n.Labels, n.Annotations = *o.Spec.DeepCopy(), o.Status, o.Labels, o.Annotations
		resizeLike(n.Spec.Containers, asked.Containers)
		resizeLike(n.Spec.InitContainers, asked.InitContainers)
	},
	Validate: func(p, old api.Object) field.ErrorList {
		n, o := p.(*corev1.Pod), old.(*corev1.Pod)
		errs := podspec.ValidateChanged(n)
		if was, now := o.Status.QOSClass, podspec.QOS(&n.Spec); was != "" && now != was {
			errs = append(errs, field.Invalid(specPath, now, "Pod QOS Class may not change as a result of resizing"))
		}
		for i := range n.Spec.Containers {
			c, was := &n.Spec.Containers[i].Resources, &o.Spec.Containers[i].Resources
			at := specPath.Child("containers").Index(i).Child("resources")
			errs = append(errs, onlyComputeChanged(c.Limits, was.Limits, at.Child("limits"))...)
			errs = append(errs, onlyComputeChanged(c.Requests, was.Requests, at.Child("requests"))...)
		}
		return errs
	},
	Spec: true,
}

func resizeLike(list, asked []corev1.Container) {
	for i := range list {
		for j := range asked {
			if list[i].Name == asked[j].Name {
				list[i].Resources, list[i].ResizePolicy = asked[j].Resources, asked[j].ResizePolicy
			}
		}
	}
}

// onlyComputeChanged checks that only cpu and memory changed, and that neither was taken away.
func onlyComputeChanged(now, was corev1.ResourceList, at *field.Path) (errs field.ErrorList) {
	for name, q := range was {
		n, ok := now[name]
		switch compute := name == corev1.ResourceCPU || name == corev1.ResourceMemory; {
		case compute && !ok:
			errs = append(errs, field.Forbidden(at, "resource "+at.String()+" cannot be removed"))
		case !compute && (!ok || n.Cmp(q) != 0):
			errs = append(errs, field.Forbidden(at, "only cpu and memory resources are mutable"))
		}
	}
	for name := range now {
		if _, had := was[name]; !had && name != corev1.ResourceCPU && name != corev1.ResourceMemory {
			errs = append(errs, field.Forbidden(at, "only cpu and memory resources are mutable"))
		}
	}
	return errs
}
