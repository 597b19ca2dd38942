package sched_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
	"proa/internal/storytest"
)

// TestBindingConditions plays the driver of a device that is to be made ready first: a
// pod is bound when it is, and gets a device anew if that fails.
func TestBindingConditions(t *testing.T) {
	t.Parallel()
	w := newStory(t, false)
	for _, doc := range []string{
		`{kind: Node, metadata: {name: a}}`,
		`{kind: DeviceClass, metadata: {name: gpu}}`,
		`{kind: ResourceSlice, metadata: {name: net}, spec: {driver: gpu.example.com, allNodes: true, pool: {name: net, generation: 1, resourceSliceCount: 1},
			devices: [{name: g0, bindsToNode: true, bindingConditions: [Attached], bindingFailureConditions: [Broken]}]}}`,
		`{kind: ResourceClaim, metadata: {name: c}, spec: {devices: {requests: [{name: r, exactly: {deviceClassName: gpu}}]}}}`,
		`{kind: Pod, metadata: {name: p}, spec: {resourceClaims: [{name: gpu, resourceClaimName: c}]}}`,
	} {
		w.apply([]byte(strings.ReplaceAll(doc, "\t", " ")))
	}
	w.start()
	is := func(what string, ok func(c *resourcev1.ResourceClaim, p *corev1.Pod) bool) {
		t.Helper()
		said := ""
		if !storytest.Until(t, storytest.Patience, func() bool {
			c, err := resource.ResourceClaim.Get(t.Context(), w.Server, "default", "c")
			if err != nil {
				t.Fatal(err)
			}
			p, err := core.Pod.Get(t.Context(), w.Server, "default", "p")
			if err != nil {
				t.Fatal(err)
			}
			said = fmt.Sprintf("%+v\n%s on %q", c.Status, p.Name, p.Spec.NodeName)
			return ok(c, p)
		}) {
			t.Fatalf("never %s: %s", what, said)
		}
	}
	allocated := func(c *resourcev1.ResourceClaim, p *corev1.Pod) bool {
		return c.Status.Allocation != nil && len(c.Status.Devices) == 0 && p.Spec.NodeName == ""
	}
	tell := func(typ string) {
		t.Helper()
		for {
			c, err := resource.ResourceClaim.Get(t.Context(), w.Server, "default", "c")
			if err != nil {
				t.Fatal(err)
			}
			c = api.Clone(c)
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "gpu.example.com", Pool: "net", Device: "g0", Conditions: []metav1.Condition{
				{Type: typ, Status: metav1.ConditionTrue, Reason: "Test", LastTransitionTime: metav1.Now()}}}}
			if _, err = resource.ResourceClaim.UpdateStatus(t.Context(), w.Server, c); err == nil {
				return
			} else if !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
	}
	is("allocated", allocated)
	tell("Broken")
	const want = `resourceclaim "c": device gpu.example.com/net/g0 can not be used: Broken`
	is("told", func(*resourcev1.ResourceClaim, *corev1.Pod) bool {
		return strings.Contains(w.show([]string{"events"}), want)
	})
	is("allocated again", allocated)
	tell("Attached")
	is("bound", func(c *resourcev1.ResourceClaim, p *corev1.Pod) bool {
		return p.Spec.NodeName == "a" && c.Status.Allocation != nil && c.Status.Allocation.NodeSelector != nil
	})
}
