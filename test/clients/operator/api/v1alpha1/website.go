// Package v1alpha1 is the first version of a Website, deprecated: its size is a
// word.
package v1alpha1

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
var GroupVersion = schema.GroupVersion{Group: "sites.example.com", Version: "v1alpha1"}

// Whole is the annotation that keeps what this version cannot say.
const Whole = "sites.example.com/v1"

// sizes are the words, and how many replicas each means.
var sizes = map[string]int32{"none": 0, "small": 1, "medium": 2, "large": 4}

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
	Size  string `json:"size"`
	Image string `json:"image"`
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
	replicas, ok := sizes[w.Spec.Size]
	if !ok {
		return fmt.Errorf("no size is called %q", w.Spec.Size)
	}
	if out.Spec.Replicas == nil || word(*out.Spec.Replicas) != w.Spec.Size {
		out.Spec.Replicas = &replicas
	}
	out.Spec.Image = w.Spec.Image
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
	w.Spec = Spec{Image: in.Spec.Image}
	if in.Spec.Replicas != nil {
		w.Spec.Size = word(*in.Spec.Replicas)
	}
	return nil
}

// word is the word for so many replicas.
func word(replicas int32) string {
	switch {
	case replicas == 0:
		return "none"
	case replicas == 1:
		return "small"
	case replicas < 4:
		return "medium"
	}
	return "large"
}

// DeepCopyObject copies a website.
func (w *Website) DeepCopyObject() runtime.Object {
	out := &Website{TypeMeta: w.TypeMeta, Spec: w.Spec}
	w.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	w.Status.DeepCopyInto(&out.Status)
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
