package controllers_test

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// TestRoom checks that pods which a quota refused again and again are made as soon as there
// is room, and not when the pause, which has grown to minutes, is over.
func TestRoom(t *testing.T) {
	w, _ := newTrial(t, 1, 9)
	ctx := t.Context()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}}
	q.Spec.Hard = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}
	if _, err := core.ResourceQuota.Create(ctx, w.h, q); err != nil {
		t.Fatal(err)
	}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	rs.Spec.Replicas = new(int32(2))
	rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	rs.Spec.Template.Labels = rs.Spec.Selector.MatchLabels
	rs.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "img"}}
	if _, err := apps.ReplicaSet.Create(ctx, w.h, rs); err != nil {
		t.Fatal(err)
	}
	for range 12 { // the pauses grow
		w.settle()
		w.clock.advance(time.Minute)
	}
	w.settle()
	if next, ok := w.engine.Next(); !ok || next.Sub(w.clock.Now()) < 10*time.Second {
		t.Fatal("the pauses have not grown: the test shows nothing")
	}
	q, err := core.ResourceQuota.Get(ctx, w.h, "default", "q")
	if err != nil {
		t.Fatal(err)
	}
	q = q.DeepCopy()
	q.Spec.Hard[corev1.ResourcePods] = resource.MustParse("2")
	if _, err := core.ResourceQuota.Update(ctx, w.h, q); err != nil {
		t.Fatal(err)
	}
	w.settle()
	got, err := apps.ReplicaSet.Get(ctx, w.h, "default", "web")
	if err != nil || got.Status.Replicas != 2 {
		t.Fatal(err, fmt.Sprintf("with room for it there is no second pod: %+v", got.Status))
	}
}
