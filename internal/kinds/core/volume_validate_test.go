package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestBoundClaim changes the size of a claim that has a volume, which tables
// cannot, since a new object has no status.
func TestBoundClaim(t *testing.T) {
	claim := func(size, has string) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{}
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		c.Spec.VolumeName = "v"
		c.Spec.Resources.Requests = corev1.ResourceList{"storage": resource.MustParse(size)}
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{"storage": resource.MustParse(has)}}
		return c
	}
	const less = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
	for _, c := range []struct{ was, has, is, want string }{
		{"1Gi", "1Gi", "2Gi", ""},
		{"2Gi", "1Gi", "1500Mi", ""}, // it could not grow that far
		{"2Gi", "1Gi", "1Gi", less},
		{"1Gi", "1Gi", "500Mi", less},
	} {
		old := claim(c.was, c.has)
		got := ""
		if errs := validateClaim(claim(c.is, c.has), old); len(errs) > 0 {
			got = errs.ToAggregate().Error()
		}
		if got != c.want {
			t.Errorf("from %s to %s, with a volume of %s: %q", c.was, c.is, c.has, got)
		}
	}
}
