package api_test

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/coordination"
	"proa/internal/kinds/core"
)

// TestAsStored checks that an object is, after that, what its stored form is read as.
func TestAsStored(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 678_901_234, time.Local)
	second := metav1.NewTime(at)
	micro := metav1.NewMicroTime(at)
	for _, o := range []struct {
		r *api.Resource
		o api.Object
	}{
		{batch.Job.Def(), &batchv1.Job{Status: batchv1.JobStatus{StartTime: &second, Conditions: []batchv1.JobCondition{{LastTransitionTime: second}}}}},
		{coordination.Lease.Def(), &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &micro}}},
		{core.Pod.Def(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: second, ManagedFields: []metav1.ManagedFieldsEntry{{Time: &second}}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: second}}}}}}},
	} {
		o.o.GetObjectKind().SetGroupVersionKind(o.r.GVK())
		o := struct {
			r *api.Resource
			o api.Object
		}{o.r, api.Clone(o.o)}
		read := func() api.Object {
			b, err := o.r.Codec.Encode(o.o)
			if err != nil {
				t.Fatal(err)
			}
			return api.NewItem(o.r, 0, b, nil).Object()
		}
		if equality.Semantic.DeepEqual(o.o, read()) {
			t.Fatalf("%s: the test shows nothing", o.r.Kind)
		}
		api.AsStored(o.o)
		if got := read(); !equality.Semantic.DeepEqual(o.o, got) {
			t.Errorf("%s: %+v\nis read as %+v", o.r.Kind, o.o, got)
		}
	}
}

func BenchmarkAsStored(b *testing.B) {
	p := &corev1.Pod{Status: corev1.PodStatus{Conditions: make([]corev1.PodCondition, 4), ContainerStatuses: make([]corev1.ContainerStatus, 2)}}
	b.ReportAllocs()
	for b.Loop() {
		api.AsStored(p)
	}
}
