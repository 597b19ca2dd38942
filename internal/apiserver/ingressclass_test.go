package apiserver_test

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/networking"
	"proa/internal/store/memory"
)

func TestDefaultIngressClass(t *testing.T) {
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Admit = admit.All(admit.Settings{}) })
	if err := s.EnsureDefaults(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	class := func(name, isDefault string) {
		must[*networkingv1.IngressClass](t)(networking.IngressClass.Create(t.Context(), s, &networkingv1.IngressClass{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: isDefault}},
			Spec:       networkingv1.IngressClassSpec{Controller: "example.com/c"}}))
	}
	made := func(change func(*networkingv1.Ingress)) string {
		t.Helper()
		i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "i-"}, Spec: networkingv1.IngressSpec{
			DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "a", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}
		if change != nil {
			change(i)
		}
		i = must[*networkingv1.Ingress](t)(networking.Ingress.Create(t.Context(), s, i))
		if i.Spec.IngressClassName == nil {
			return ""
		}
		return *i.Spec.IngressClassName
	}
	class("plain", "false")
	if got := made(nil); got != "" {
		t.Errorf("%q is no default", got)
	}
	class("b", "true")
	if got := made(nil); got != "b" {
		t.Errorf("got %q of one default", got)
	}
	class("a", "true") // in the same second, mostly: then the name decides, otherwise it is newer
	if got := made(nil); got != "a" {
		t.Errorf("got %q of two defaults", got)
	}
	if got := made(func(i *networkingv1.Ingress) { i.Annotations = map[string]string{networking.ClassAnnotation: "x"} }); got != "" {
		t.Errorf("got %q in spite of the annotation", got)
	}
	if got := made(func(i *networkingv1.Ingress) { i.Spec.IngressClassName = new("mine") }); got != "mine" {
		t.Errorf("got %q instead of what was asked for", got)
	}
}
