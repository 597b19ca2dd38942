// Package v1 is the hub of the versions of a Website: the one that is stored.
package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// GroupVersion is the version of these types.
var GroupVersion = schema.GroupVersion{Group: "sites.example.com", Version: "v1"}

// AddToScheme adds the types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Website{}, &WebsiteList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// A Website is pages that some replicas serve.
type Website struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              Spec   `json:"spec"`
	Status            Status `json:"status,omitempty"`
}

// WebsiteList is a list of them.
type WebsiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Website `json:"items"`
}

// Spec is what is wanted.
type Spec struct {
	Replicas *int32              `json:"replicas,omitempty"`
	Image    string              `json:"image"`
	Class    string              `json:"class,omitempty"`
	Ports    []Port              `json:"ports,omitempty"`
	Slack    *intstr.IntOrString `json:"slack,omitempty"`
	Pages    map[string]string   `json:"pages,omitempty"`
}

// Port is one of the ports that are served.
type Port struct {
	Name     string `json:"name"`
	Number   int32  `json:"number"`
	Protocol string `json:"protocol,omitempty"`
}

// Status is what there is.
type Status struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Replicas           int32              `json:"replicas,omitempty"`
	Selector           string             `json:"selector,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// Hub marks the version that all others convert through.
func (*Website) Hub() {}

// DeepCopyInto copies a spec.
func (s *Spec) DeepCopyInto(out *Spec) {
	*out = *s
	if s.Replicas != nil {
		out.Replicas = new(*s.Replicas)
	}
	if s.Slack != nil {
		out.Slack = new(*s.Slack)
	}
	out.Ports = append([]Port(nil), s.Ports...)
	if s.Pages != nil {
		out.Pages = map[string]string{}
		for k, v := range s.Pages {
			out.Pages[k] = v
		}
	}
}

// DeepCopyInto copies a status.
func (s *Status) DeepCopyInto(out *Status) {
	*out = *s
	out.Conditions = nil
	for _, c := range s.Conditions {
		out.Conditions = append(out.Conditions, *c.DeepCopy())
	}
}

// DeepCopy copies a website.
func (w *Website) DeepCopy() *Website {
	out := &Website{TypeMeta: w.TypeMeta}
	w.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	w.Spec.DeepCopyInto(&out.Spec)
	w.Status.DeepCopyInto(&out.Status)
	return out
}

// DeepCopyObject copies a website.
func (w *Website) DeepCopyObject() runtime.Object { return w.DeepCopy() }

// DeepCopyObject copies a list.
func (l *WebsiteList) DeepCopyObject() runtime.Object {
	out := &WebsiteList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopy())
	}
	return out
}
