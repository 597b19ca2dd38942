package sched

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
)

// claimPause is how long a new pod is not tried while its claims are to be made from
// templates: that takes a moment, and is not worth telling the user.
const claimPause = time.Second

// awaitsClaims says whether claims of a pod are still to be made from templates, or to be
// seen: the pod's status, which names them, may be here first.
func (s *Scheduler) awaitsClaims(pod *corev1.Pod) bool {
	for i := range pod.Spec.ResourceClaims {
		e := &pod.Spec.ResourceClaims[i]
		name, needed := core.PodResourceClaim(pod, e)
		if needed && (name == "" || e.ResourceClaimName == nil && s.state.Devices.Claim(pod.Namespace, name) == nil) {
			return true
		}
	}
	return false
}

// followDevices follows claims, and what there is for them.
func (s *Scheduler) followDevices(ctx context.Context) {
	d := s.state.Devices
	follow(ctx, s, resource.ResourceClaim, each(s.sawClaim))
	follow(ctx, s, resource.DeviceClass, each(offered(s, d.SetClass, d.DropClass)))
	follow(ctx, s, resource.ResourceSlice, each(offered(s, d.SetSlice, d.DropSlice)))
	follow(ctx, s, resource.DeviceTaintRule, each(offered(s, d.SetRule, d.DropRule)))
}

func offered[T any](s *Scheduler, set, drop func(T)) func(o T, gone bool) {
	return func(o T, gone bool) {
		if gone {
			drop(o)
		} else {
			set(o)
		}
		s.wake(&Change{What: Devices})
	}
}

func (s *Scheduler) sawClaim(c *resourcev1.ResourceClaim, gone bool) {
	if gone {
		s.state.Devices.DropClaim(c)
		s.wake(&Change{What: Devices, ClaimWas: c})
	} else if old, taken := s.state.Devices.SetClaim(c); taken {
		s.wake(&Change{What: Devices, Claim: c, ClaimWas: old})
		if owner := metav1.GetControllerOf(c); old == nil && owner != nil {
			if it := s.queue.items[owner.UID]; it != nil && !s.awaitsClaims(it.pod.Pod) {
				s.queue.changed(it, s.cfg.Now())
			}
		}
	}
}

// relent has a plugin give up what it keeps for a pod, if that may be why no node
// will do. The pod waits for the change.
func (s *Scheduler) relent(ctx context.Context, p *profile, it *item, fail *Failure) (act action, ok bool) {
	for _, q := range fail.asks {
		if q.Relent == nil {
			continue
		}
		do := q.Relent()
		if do == nil {
			continue
		}
		act = s.keep(ctx, p, it, fail)
		tell, pod := act.do, it.pod.Pod
		act.do = func() {
			tell()
			if err := do(ctx, s.h); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("give up what is kept for a pod", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
				s.giveUp(it)
			}
		}
		return act, true
	}
	return act, false
}
