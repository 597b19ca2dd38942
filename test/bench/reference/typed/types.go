package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// pod is the unversioned Pod that the registry works on. As in Kubernetes, it is
// another Go type than the one on the wire, and converting one to the other is a
// shallow copy.
type pod struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Spec   corev1.PodSpec
	Status corev1.PodStatus
}

type podList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []pod
}

func (p *pod) deepCopyInto(out *pod) {
	out.TypeMeta = p.TypeMeta
	p.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	p.Spec.DeepCopyInto(&out.Spec)
	p.Status.DeepCopyInto(&out.Status)
}

func (p *pod) DeepCopyObject() runtime.Object {
	out := new(pod)
	p.deepCopyInto(out)
	return out
}

func (l *podList) DeepCopyObject() runtime.Object {
	out := &podList{TypeMeta: l.TypeMeta, Items: make([]pod, len(l.Items))}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		l.Items[i].deepCopyInto(&out.Items[i])
	}
	return out
}

var (
	unversioned = schema.GroupVersion{Version: runtime.APIVersionInternal}
	scheme      = newScheme()
	codecs      = serializer.NewCodecFactory(scheme)
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion)
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Pod{}, &corev1.PodList{})
	s.AddKnownTypeWithName(unversioned.WithKind("Pod"), &pod{})
	s.AddKnownTypeWithName(unversioned.WithKind("PodList"), &podList{})
	utilruntime.Must(s.SetVersionPriority(corev1.SchemeGroupVersion))
	utilruntime.Must(addConversions(s))
	return s
}

func addConversions(s *runtime.Scheme) error {
	convert := func(from, to any, f conversion.ConversionFunc) {
		utilruntime.Must(s.AddConversionFunc(from, to, f))
	}
	convert((*corev1.Pod)(nil), (*pod)(nil), func(a, b any, _ conversion.Scope) error {
		in, out := a.(*corev1.Pod), b.(*pod)
		out.ObjectMeta, out.Spec, out.Status = in.ObjectMeta, in.Spec, in.Status
		return nil
	})
	convert((*pod)(nil), (*corev1.Pod)(nil), func(a, b any, _ conversion.Scope) error {
		in, out := a.(*pod), b.(*corev1.Pod)
		out.ObjectMeta, out.Spec, out.Status = in.ObjectMeta, in.Spec, in.Status
		return nil
	})
	convert((*corev1.PodList)(nil), (*podList)(nil), func(a, b any, _ conversion.Scope) error {
		in, out := a.(*corev1.PodList), b.(*podList)
		out.ListMeta, out.Items = in.ListMeta, make([]pod, len(in.Items))
		for i := range in.Items {
			x := &in.Items[i]
			out.Items[i] = pod{ObjectMeta: x.ObjectMeta, Spec: x.Spec, Status: x.Status}
		}
		return nil
	})
	convert((*podList)(nil), (*corev1.PodList)(nil), func(a, b any, _ conversion.Scope) error {
		in, out := a.(*podList), b.(*corev1.PodList)
		out.ListMeta, out.Items = in.ListMeta, make([]corev1.Pod, len(in.Items))
		for i := range in.Items {
			x := &in.Items[i]
			out.Items[i] = corev1.Pod{ObjectMeta: x.ObjectMeta, Spec: x.Spec, Status: x.Status}
		}
		return nil
	})
	return s.AddFieldLabelConversionFunc(corev1.SchemeGroupVersion.WithKind("Pod"), func(label, value string) (string, string, error) {
		switch label {
		case "metadata.name", "metadata.namespace", "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase":
			return label, value, nil
		}
		return "", "", fmt.Errorf("field label %q is not supported", label)
	})
}
