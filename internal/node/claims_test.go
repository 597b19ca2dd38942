package node_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
)

// TestResourceClaims checks that a pod starts only if nothing needs to be done here for
// its claims, and what is said of the others.
func TestResourceClaims(t *testing.T) {
	for _, tt := range []struct {
		name  string
		claim func(c *resourcev1.ResourceClaim, pod *corev1.Pod)
		want  string // what the event says; the pod runs if empty
	}{
		{"no devices", func(*resourcev1.ResourceClaim, *corev1.Pod) {}, "resourceclaim gpu has no devices"},
		{"not reserved", func(c *resourcev1.ResourceClaim, _ *corev1.Pod) { c.Status.ReservedFor = nil; allocate(c) }, "resourceclaim gpu is not reserved for the pod"},
		{"no driver", func(c *resourcev1.ResourceClaim, p *corev1.Pod) { allocate(c); reserve(c, p) },
			"resourceclaim gpu: DRA driver gpu.example.com is not registered on this node"},
		{"nothing to be done", func(c *resourcev1.ResourceClaim, p *corev1.Pod) {
			allocate(c)
			reserve(c, p)
			c.Status.Allocation.Devices.Results[0].SkipNodeOperations = []resourcev1.SkipNodeOperation{resourcev1.SkipNodeOperationAll}
		}, ""},
		{"nothing needed", func(c *resourcev1.ResourceClaim, p *corev1.Pod) {
			c.Status.Allocation = &resourcev1.AllocationResult{}
			reserve(c, p)
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := simple("p", "c")
				p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: new("gpu")}}
				p = w.create(p)
				c, err := resource.ResourceClaim.Create(t.Context(), w.api, &resourcev1.ResourceClaim{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "gpu"},
					Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
						{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}},
				})
				if err != nil {
					t.Fatal(err)
				}
				c = api.Clone(c)
				tt.claim(c, p)
				if _, err := resource.ResourceClaim.UpdateStatus(t.Context(), w.api, c); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				said := ""
				for _, e := range w.events.timed() {
					if strings.Contains(e.text, "FailedPrepareDynamicResources") {
						said = e.text
					}
				}
				boxes, err := w.rt.ListSandboxes(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				now := w.pod("p")
				if tt.want == "" {
					if !core.PodReady(now) {
						t.Errorf("it does not run: %s", said)
					}
					return
				}
				if want := "Warning FailedPrepareDynamicResources: Failed to prepare dynamic resources: " + tt.want; said != want {
					t.Errorf("said %q\nwant %q", said, want)
				}
				if len(boxes) > 0 || now.Status.Phase != corev1.PodPending || now.Status.ContainerStatuses[0].State.Waiting == nil {
					t.Errorf("it has %d sandboxes, and is %s with %+v", len(boxes), now.Status.Phase, now.Status.ContainerStatuses)
				}
			})
		})
	}
}

func allocate(c *resourcev1.ResourceClaim) {
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "r", Driver: "gpu.example.com", Pool: "n1", Device: "g0"}}}}
}

func reserve(c *resourcev1.ResourceClaim, p *corev1.Pod) {
	c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: p.Name, UID: p.UID}}
}
