// Package v1beta1 is the second version of a Website: one port, and replicas
// are called size.
package v1beta1

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"

	v1 "proa/test/clients/operator/api/v1"
)

// GroupVersion is the version of these types.
var GroupVersion = schema.GroupVersion{Group: "sites.example.com", Version: "v1beta1"}

// Whole is the annotation that keeps what this version cannot say.
const Whole = "sites.example.com/v1"

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
	Spec              Spec      `json:"spec"`
	Status            v1.Status `json:"status,omitempty"`
}

// WebsiteList is a list of them.
type WebsiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Website `json:"items"`
}

// Spec is what is wanted.
type Spec struct {
	Size  *int32 `json:"size,omitempty"`
	Image string `json:"image"`
	Class string `json:"class,omitempty"`
	Port  int32  `json:"port,omitempty"`
}

// ConvertTo writes the website into the hub.
func (w *Website) ConvertTo(to conversion.Hub) error {
	out := to.(*v1.Website)
	w.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec, out.Status = v1.Spec{}, w.Status
	if whole, ok := out.Annotations[Whole]; ok {
		if err := json.Unmarshal([]byte(whole), &out.Spec); err != nil {
			return fmt.Errorf("annotation %s: %w", Whole, err)
		}
		delete(out.Annotations, Whole)
	}
	out.Spec.Replicas, out.Spec.Image, out.Spec.Class = w.Spec.Size, w.Spec.Image, w.Spec.Class
	if w.Spec.Port == 0 {
		return nil
	}
	if len(out.Spec.Ports) == 0 {
		out.Spec.Ports = []v1.Port{{Name: "http", Protocol: "TCP"}}
	}
	out.Spec.Ports[0].Number = w.Spec.Port
	return nil
}

// ConvertFrom reads the website from the hub.
func (w *Website) ConvertFrom(from conversion.Hub) error {
	in := from.(*v1.Website).DeepCopy()
	whole, err := json.Marshal(in.Spec)
	if err != nil {
		return err
	}
	w.ObjectMeta, w.Status = in.ObjectMeta, in.Status
	metav1.SetMetaDataAnnotation(&w.ObjectMeta, Whole, string(whole))
	w.Spec = Spec{Size: in.Spec.Replicas, Image: in.Spec.Image, Class: in.Spec.Class}
	if len(in.Spec.Ports) > 0 {
		w.Spec.Port = in.Spec.Ports[0].Number
	}
	return nil
}

// DeepCopyObject copies a website.
func (w *Website) DeepCopyObject() runtime.Object {
	out := &Website{TypeMeta: w.TypeMeta, Spec: w.Spec}
	w.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	w.Status.DeepCopyInto(&out.Status)
	if w.Spec.Size != nil {
		out.Spec.Size = new(*w.Spec.Size)
	}
	return out
}

// DeepCopyObject copies a list.
func (l *WebsiteList) DeepCopyObject() runtime.Object {
	out := &WebsiteList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Website))
	}
	return out
}
