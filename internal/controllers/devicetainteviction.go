package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
	"proa/internal/sched/devices"
)

// DeviceTaintEviction removes pods from nodes whose claims have devices with taints of
// the effect NoExecute that they do not tolerate, or not for so long. A rule that
// taints says in its status how far that is.
func DeviceTaintEviction() *control.Sweep {
	return &control.Sweep{
		Name: "device-taint-eviction",
		Kinds: control.Fixed(core.Pod.Def(), resource.ResourceClaim.Def(), resource.ResourceSlice.Def(),
			resource.DeviceTaintRule.Def()),
		Writes:    []api.Definition{core.Pod, resource.DeviceTaintRule},
		Changed:   deviceTaintsChanged,
		Reconcile: reconcileDeviceTaints,
	}
}

func deviceTaintsChanged(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
	about := func(tells func(devices.ID) bool) {
		for _, claim := range control.All(c, resource.ResourceClaim, "") {
			if slices.ContainsFunc(resultsOf(claim), func(r resourcev1.DeviceRequestAllocationResult) bool { return tells(deviceOf(&r)) }) {
				keys = append(keys, keyIn(resource.ResourceClaim.Def(), claim))
			}
		}
	}
	switch kind {
	case core.Pod.Def():
		p, ok := new.(*corev1.Pod)
		if !ok || len(p.Spec.ResourceClaims) == 0 || p.Spec.NodeName == "" || podDone(p) {
			return nil
		}
		if was, ok := old.(*corev1.Pod); ok && was.Spec.NodeName != "" {
			return nil
		}
		keys = append(keys, claimKeys(c, p)...)
	case resource.ResourceClaim.Def():
		if claim, ok := new.(*resourcev1.ResourceClaim); ok && claim.Status.Allocation != nil {
			keys = append(keys, keyIn(kind, claim))
		}
	case resource.ResourceSlice.Def():
		for _, o := range []api.Object{old, new} {
			if n, ok := o.(*resourcev1.ResourceSlice); ok && slices.ContainsFunc(n.Spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 }) {
				about(func(id devices.ID) bool { return id.Driver == n.Spec.Driver && id.Pool == n.Spec.Pool.Name })
				break
			}
		}
	case resource.DeviceTaintRule.Def():
		for _, o := range []api.Object{old, new} {
			if r, ok := o.(*resourcev1.DeviceTaintRule); ok && r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
				about(func(id devices.ID) bool { return devices.Ruled(r, id) })
			}
		}
		if new != nil {
			keys = append(keys, keyIn(kind, new))
		}
	}
	return keys
}

func resultsOf(claim *resourcev1.ResourceClaim) []resourcev1.DeviceRequestAllocationResult {
	if claim.Status.Allocation == nil {
		return nil
	}
	return claim.Status.Allocation.Devices.Results
}

func deviceOf(r *resourcev1.DeviceRequestAllocationResult) devices.ID {
	return devices.ID{Driver: r.Driver, Pool: r.Pool, Device: r.Device}
}

func reconcileDeviceTaints(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	if key.Kind == resource.DeviceTaintRule.Def() {
		if r, ok := control.Get(c, resource.DeviceTaintRule, "", key.Name); ok {
			return reportRule(ctx, c, r)
		}
		return 0, nil
	}
	claim, ok := control.Get(c, resource.ResourceClaim, key.Namespace, key.Name)
	if !ok {
		return 0, nil
	}
	known := func(name string) (*corev1.Pod, bool) { return control.Get(c, core.Pod, key.Namespace, name) }
	end, forever := claimToleratedUntil(c, claim)
	if forever {
		return 0, nil
	}
	if left := end.Sub(c.Now()); left > 0 {
		return left, nil
	}
	for _, p := range evicted(claim, known) {
		c.Eventf(p, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
		if err := disrupt(ctx, c, p, "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint", ""); err != nil {
			return 0, err
		}
		if err := ignoreNotFound(core.Pod.Delete(ctx, c, p.Namespace, p.Name, api.Options{UID: &p.UID})); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// evicted are the pods on nodes that go when a claim's devices are no longer to be
// used, but for those that are on their way. Get finds a pod by its name.
func evicted(claim *resourcev1.ResourceClaim, get func(name string) (*corev1.Pod, bool)) (out []*corev1.Pod) {
	for _, r := range claim.Status.ReservedFor {
		if r.APIGroup != "" || r.Resource != core.Pod.Def().Resource {
			continue
		}
		p, ok := get(r.Name)
		if ok && p.UID == r.UID && p.Spec.NodeName != "" && p.DeletionTimestamp == nil && !podDone(p) {
			out = append(out, p)
		}
	}
	return out
}

// claimToleratedUntil is when the first taint of a claim's devices becomes too much
// for it, unless it bears them all for ever.
func claimToleratedUntil(c *control.Cluster, claim *resourcev1.ResourceClaim) (end time.Time, forever bool) {
	forever = true
	results := resultsOf(claim)
	for i := range results {
		for _, t := range deviceTaints(c, deviceOf(&results[i])) {
			at, always := deviceToleratedUntil(&t, results[i].Tolerations)
			if always {
				continue
			}
			if forever || at.Before(end) {
				end = at
			}
			forever = false
		}
	}
	return end, forever
}

// deviceTaints are the taints of a device that end pods: its own and those of rules.
func deviceTaints(c *control.Cluster, id devices.ID) (out []resourcev1.DeviceTaint) {
	add := func(t resourcev1.DeviceTaint) {
		if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
			out = append(out, t)
		}
	}
	var newest *resourcev1.ResourceSlice
	var own []resourcev1.DeviceTaint
	for _, n := range control.Having(c, resource.ResourceSlice, resourcev1.ResourceSliceSelectorPoolName, id.Pool) {
		if n.Spec.Driver != id.Driver || newest != nil && n.Spec.Pool.Generation < newest.Spec.Pool.Generation {
			continue
		}
		if i := slices.IndexFunc(n.Spec.Devices, func(d resourcev1.Device) bool { return d.Name == id.Device }); i >= 0 {
			newest, own = n, n.Spec.Devices[i].Taints
		}
	}
	for _, t := range own {
		add(t)
	}
	for _, r := range control.All(c, resource.DeviceTaintRule, "") {
		if devices.Ruled(r, id) {
			add(r.Spec.Taint)
		}
	}
	return out
}

// deviceToleratedUntil is when a taint becomes too much, unless it is borne for ever.
func deviceToleratedUntil(t *resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) (end time.Time, forever bool) {
	if t.TimeAdded != nil {
		end = t.TimeAdded.Time
	}
	first := true
	for i := range tolerations {
		o := &tolerations[i]
		if !devices.Tolerates(o, t) {
			continue
		}
		if o.TolerationSeconds == nil {
			return end, true
		}
		at := end
		if t.TimeAdded != nil {
			at = t.TimeAdded.Add(time.Duration(max(*o.TolerationSeconds, 0)) * time.Second)
		}
		if first || at.Before(end) {
			end = at
		}
		first = false
	}
	return end, false
}

// rulePause is how often the status of a rule is written while it ends pods.
const rulePause = 10 * time.Second

// reportRule says in a rule's status how many pods are still to go because of it, or
// would be if it ended pods.
func reportRule(ctx context.Context, c *control.Cluster, r *resourcev1.DeviceTaintRule) (time.Duration, error) {
	had := meta.FindStatusCondition(r.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
	ends := r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute
	if !ends && had != nil && had.ObservedGeneration == r.Generation {
		return 0, nil // that was said once, and is not kept up to date
	}
	as := r.Spec.Taint
	as.Effect = resourcev1.DeviceTaintEffectNoExecute
	claims := control.All(c, resource.ResourceClaim, "")
	find := func(ns, name string) (*corev1.Pod, bool) { return control.Get(c, core.Pod, ns, name) }
	if !ends { // what is said once is to be right: the watches may be behind
		var err error
		if claims, err = resource.ResourceClaim.List(ctx, c, "", api.Selectors{}); err != nil {
			return 0, err
		}
		find = func(ns, name string) (*corev1.Pod, bool) {
			p, err := core.Pod.Get(ctx, c, ns, name)
			return p, err == nil
		}
	}
	pods, spaces := map[types.UID]bool{}, map[string]bool{}
	for _, claim := range claims {
		if !slices.ContainsFunc(resultsOf(claim), func(result resourcev1.DeviceRequestAllocationResult) bool {
			_, forever := deviceToleratedUntil(&as, result.Tolerations)
			return !forever && devices.Ruled(r, deviceOf(&result))
		}) {
			continue
		}
		for _, p := range evicted(claim, func(name string) (*corev1.Pod, bool) { return find(claim.Namespace, name) }) {
			pods[p.UID], spaces[p.Namespace] = true, true
		}
	}
	next := metav1.Condition{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: r.Generation,
		LastTransitionTime: metav1.NewTime(c.Now()).Rfc3339Copy()}
	count := fmt.Sprintf("%d pods in %d namespaces", len(pods), len(spaces))
	switch {
	case !ends && r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNone:
		next.Reason, next.Message = "NoEffect", count+" would be evicted if the effect was NoExecute"
	case !ends:
		next.Reason, next.Message = cmp.Or(string(r.Spec.Taint.Effect), "NoEffect"), "this effect evicts no pods"
	case len(pods) > 0:
		next.Status, next.Reason, next.Message = metav1.ConditionTrue, "PodsPendingEviction", count+" are still to be evicted"
	default:
		next.Reason, next.Message = "Completed", "no pods are to be evicted"
	}
	_, err := control.SetStatus(ctx, c, resource.DeviceTaintRule, r, func(r *resourcev1.DeviceTaintRule) {
		meta.SetStatusCondition(&r.Status.Conditions, next)
	})
	if err != nil || len(pods) == 0 || !ends {
		return 0, ignoreNotFound(err)
	}
	return rulePause, nil
}
