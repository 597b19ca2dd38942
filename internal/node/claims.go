package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
)

// prepareClaims keeps a pod from starting whose resource claims can not be made
// real here: it would run without the devices that it counts on. Making them
// ready is for the drivers of the devices, and this node knows none. A claim that
// needs nothing done on the node is in nobody's way.
func (a *Agent) prepareClaims(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		e := &pod.Spec.ResourceClaims[i]
		name, needed := core.PodResourceClaim(pod, e)
		if !needed {
			continue
		}
		if why, err := a.unprepared(ctx, pod, e, name); why != "" {
			return &StepError{Reason: "FailedPrepareDynamicResources", Message: "Failed to prepare dynamic resources: " + why, Err: err}
		}
	}
	return nil
}

func (a *Agent) unprepared(ctx context.Context, pod *corev1.Pod, e *corev1.PodResourceClaim, name string) (why string, err error) {
	if name == "" {
		return fmt.Sprintf("the resourceclaim for %s is still to be made from its template", e.Name), nil
	}
	c, err := resource.ResourceClaim.Get(ctx, a.Handler, pod.Namespace, name)
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("resourceclaim %s does not exist", name), err
	case err != nil:
		return fmt.Sprintf("resourceclaim %s cannot be read: %v", name, err), err
	case c.Status.Allocation == nil:
		return fmt.Sprintf("resourceclaim %s has no devices", name), nil
	case !slices.ContainsFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == pod.UID }):
		return fmt.Sprintf("resourceclaim %s is not reserved for the pod", name), nil
	}
	var drivers []string
	for i := range c.Status.Allocation.Devices.Results {
		if r := &c.Status.Allocation.Devices.Results[i]; !prepared(r) && !slices.Contains(drivers, r.Driver) {
			drivers = append(drivers, r.Driver)
		}
	}
	if len(drivers) == 0 {
		return "", nil
	}
	return fmt.Sprintf("resourceclaim %s: DRA driver %s is not registered on this node", name, strings.Join(drivers, ", ")), nil
}

// prepared says whether nothing is to be done on the node before a device is used.
func prepared(r *resourcev1.DeviceRequestAllocationResult) bool {
	return slices.Contains(r.SkipNodeOperations, resourcev1.SkipNodeOperationAll) ||
		slices.Contains(r.SkipNodeOperations, resourcev1.SkipNodeOperationNodePrepareResources)
}
