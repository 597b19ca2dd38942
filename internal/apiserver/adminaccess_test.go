package apiserver_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/apiserver/admit"
	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
)

// TestAdminAccess checks that only a marked namespace may hold claims for devices that others use.
func TestAdminAccess(t *testing.T) {
	s := admitting(t, admit.Settings{})
	claim := func(ns string, admin bool) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "c"},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
				{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AdminAccess: &admin}}}}}}
	}
	if _, err := resource.ResourceClaim.Create(t.Context(), s, claim("default", true)); !apierrors.IsInvalid(err) {
		t.Errorf("in a plain namespace: %v", err)
	}
	if _, err := resource.ResourceClaim.Create(t.Context(), s, claim("default", false)); err != nil {
		t.Errorf("without admin access: %v", err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "monitoring", Labels: map[string]string{resourcev1.DRAAdminNamespaceLabelKey: "true"}}}
	if _, err := core.Namespace.Create(t.Context(), s, ns); err != nil {
		t.Fatal(err)
	}
	if _, err := resource.ResourceClaim.Create(t.Context(), s, claim("monitoring", true)); err != nil {
		t.Errorf("in a marked namespace: %v", err)
	}
}
