package apiserver_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/core"
	"proa/internal/kinds/storage"
	"proa/internal/store/memory"
)

// Claims and volumes get the finalizers that keep them while they are used, which
// are nobody's fields; others that they have stay.
func TestStorageInUse(t *testing.T) {
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Admit = admit.All(admit.Settings{}) })
	if err := s.EnsureDefaults(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	p := fromYAML[corev1.PersistentVolumeClaim](t, "{metadata: {name: p, namespace: default}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}")
	p = must[*corev1.PersistentVolumeClaim](t)(core.PersistentVolumeClaim.Create(t.Context(), s, p))
	v := fromYAML[corev1.PersistentVolume](t, "{metadata: {name: v, finalizers: [example.com/x]}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /v}}}")
	v = must[*corev1.PersistentVolume](t)(core.PersistentVolume.Create(t.Context(), s, v))
	w := fromYAML[corev1.PersistentVolume](t, "{metadata: {name: w, finalizers: [kubernetes.io/pv-protection]}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /w}}}")
	w = must[*corev1.PersistentVolume](t)(core.PersistentVolume.Create(t.Context(), s, w))
	for _, c := range []struct {
		o    api.Object
		want []string
	}{
		{p, []string{"kubernetes.io/pvc-protection"}},
		{v, []string{"example.com/x", "kubernetes.io/pv-protection"}},
		{w, []string{"kubernetes.io/pv-protection"}},
	} {
		if got := c.o.GetFinalizers(); !slices.Equal(got, c.want) {
			t.Errorf("%s has the finalizers %v, not %v", c.o.GetName(), got, c.want)
		}
	}
	if got := entries(seen(t, s, core.PersistentVolumeClaim, "default", "p")); !strings.Contains(got, "f:accessModes") || strings.Contains(got, "f:finalizers") {
		t.Errorf("whoever made the claim owns %s", got)
	}
	if got := entries(seen(t, s, core.PersistentVolume, "", "v")); !strings.Contains(got, "example.com/x") || strings.Contains(got, "pv-protection") || strings.Contains(got, "f:lastPhase") {
		t.Errorf("whoever made the volume owns %s", got)
	}
	if at := v.Status.LastPhaseTransitionTime; at == nil || !at.Equal(&v.CreationTimestamp) {
		t.Errorf("pending since %v, made at %v", at, v.CreationTimestamp)
	}
}

func TestDefaultStorageClass(t *testing.T) {
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Admit = admit.All(admit.Settings{}) })
	if err := s.EnsureDefaults(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	class := func(name, isDefault string) {
		must[*storagev1.StorageClass](t)(storage.StorageClass.Create(t.Context(), s, &storagev1.StorageClass{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{storage.DefaultClass: isDefault}}, Provisioner: "example.com/p"}))
	}
	made := func(change func(*corev1.PersistentVolumeClaim)) string {
		t.Helper()
		p := fromYAML[corev1.PersistentVolumeClaim](t, "{metadata: {generateName: p-, namespace: default}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}")
		if change != nil {
			change(p)
		}
		p = must[*corev1.PersistentVolumeClaim](t)(core.PersistentVolumeClaim.Create(t.Context(), s, p))
		if p.Spec.StorageClassName == nil {
			return "none"
		}
		return *p.Spec.StorageClassName
	}
	class("plain", "false")
	if got := made(nil); got != "none" {
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
	for name, change := range map[string]func(*corev1.PersistentVolumeClaim){
		"none": func(p *corev1.PersistentVolumeClaim) {
			p.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "x"}
		},
		"":      func(p *corev1.PersistentVolumeClaim) { p.Spec.StorageClassName = new("") },
		"plain": func(p *corev1.PersistentVolumeClaim) { p.Spec.StorageClassName = new("plain") },
	} {
		if got := made(change); got != name {
			t.Errorf("got %q instead of %q, which was asked for", got, name)
		}
	}
}
