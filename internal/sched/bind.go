package sched

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// bind writes a decision.
func (s *Scheduler) bind(ctx context.Context, p *profile, it *item, c *Choice) {
	pod, node := it.pod.Pod, c.Name
	err := prepare(ctx, s.h, c)
	if err == nil {
		_, err = s.h.Handle(ctx, &api.Request{
			Verb: api.Create, Resource: core.Pod.Def(), Namespace: pod.Namespace, Name: pod.Name, Sub: "binding",
			Object: &corev1.Binding{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Binding"},
				ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
				Target:     corev1.ObjectReference{Kind: "Node", Name: node},
			},
		})
	}
	if err == nil {
		s.mu.Lock()
		s.queue.remove(pod.UID)
		unreserve(c.checks, c.Node) // it is written: what was promised is had
		s.mu.Unlock()
		s.metrics.ended(p.name, scheduled, it)
		p.events.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return
	}
	if ctx.Err() != nil {
		return
	}
	s.metrics.ended(p.name, failed, it)
	s.cfg.Log.Warn("bind", "namespace", pod.Namespace, "pod", pod.Name, "node", node, "err", err)
	s.unbind(ctx, p, it, c, err)
}

func prepare(ctx context.Context, h api.Handler, c *Choice) error {
	for _, check := range c.checks {
		if check.PreBind != nil {
			if err := check.PreBind(ctx, h, c.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func unreserve(checks []*Check, n *Node) {
	for _, check := range checks {
		if check.Unreserve != nil {
			check.Unreserve(n)
		}
	}
}

// unbind finds out what became of a pod whose binding failed, and tries again
// if it is still there and has no node.
func (s *Scheduler) unbind(ctx context.Context, p *profile, it *item, c *Choice, cause error) {
	now, err := s.look(ctx, it)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	unreserve(c.checks, c.Node)
	uid := it.pod.UID
	if s.queue.items[uid] == it && err == nil && now.UID == uid && now.Spec.NodeName != "" {
		s.sawPlaced(now)
		return
	}
	if s.queue.items[uid] != it { // the watch was faster
		return
	}
	delete(s.bound, uid)
	if gone := s.state.RemovePod(uid); gone != nil {
		s.wake(&Change{What: PodGone, Pod: gone})
	}
	if len(it.pod.Spec.ResourceClaims) > 0 { // others may have the devices
		s.wake(&Change{What: Devices})
	}
	if apierrors.IsNotFound(err) || err == nil && (now.UID != uid || !s.ours(now)) {
		s.queue.remove(uid)
		return
	}
	if err == nil {
		it.pod = NewPod(now)
	}
	s.queue.retry(it, s.cfg.Now())
	s.work.Signal()
	pod := it.pod.Pod
	p.events.Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", cause)
}

// look reads a pod whose binding failed, as often as it takes: the answer may have been
// lost, and until it is known where the pod is nobody else gets what was promised to it.
// It gives up when a watch has shown what became of the pod.
func (s *Scheduler) look(ctx context.Context, it *item) (*corev1.Pod, error) {
	for pause := s.cfg.FirstPause; ; pause = min(2*pause, s.cfg.MostPause) {
		now, err := core.Pod.Get(ctx, s.h, it.pod.Namespace, it.pod.Name)
		s.mu.Lock()
		known := err == nil || apierrors.IsNotFound(err) || s.queue.items[it.pod.UID] != it
		s.mu.Unlock()
		if known {
			return now, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tell writes why a pod waits, in an event and in its condition; and for which
// node, unless nominated is nil. It says whether the pod is gone.
func (s *Scheduler) tell(ctx context.Context, p *profile, pod *corev1.Pod, message string, nominated *string) (gone bool) {
	p.events.Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "%s", message)
	if c := core.PodCondition(pod, corev1.PodScheduled); nominated == nil && c != nil && c.Status == corev1.ConditionFalse &&
		c.Reason == corev1.PodReasonUnschedulable && c.Message == message {
		return false
	}
	err := s.patchStatus(ctx, pod, statusPatch{Conditions: []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: s.since(pod, corev1.PodScheduled, corev1.ConditionFalse),
	}}, Nominated: nominated})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.cfg.Log.Warn("pod condition", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
	}
	return apierrors.IsNotFound(err)
}

// since is when a condition took its status.
func (s *Scheduler) since(pod *corev1.Pod, typ corev1.PodConditionType, status corev1.ConditionStatus) metav1.Time {
	if c := core.PodCondition(pod, typ); c != nil && c.Status == status {
		return c.LastTransitionTime
	}
	return metav1.NewTime(s.cfg.Now())
}

type statusPatch struct {
	Conditions []corev1.PodCondition `json:"conditions,omitempty"`
	Nominated  *string               `json:"nominatedNodeName,omitempty"`
}

// on is the pod with the changed status.
func (c statusPatch) on(pod *corev1.Pod) *corev1.Pod {
	pod = api.Clone(pod)
	c.set(pod)
	return pod
}

// set changes the status of a pod that may share its conditions with another.
func (c statusPatch) set(pod *corev1.Pod) {
	pod.Status.Conditions = slices.Clone(pod.Status.Conditions)
	for _, n := range c.Conditions {
		if o := core.PodCondition(pod, n.Type); o != nil {
			*o = n
		} else {
			pod.Status.Conditions = append(pod.Status.Conditions, n)
		}
	}
	if c.Nominated != nil {
		pod.Status.NominatedNodeName = *c.Nominated
	}
}

// patchStatus changes the status of that very pod: whole if what is known is the
// newest, which costs the server a third of what a patch does.
func (s *Scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, status statusPatch) error {
	if _, err := core.Pod.UpdateStatus(ctx, s.h, status.on(pod)); !apierrors.IsConflict(err) {
		return err
	}
	type meta struct {
		UID types.UID `json:"uid"`
	}
	patch, err := json.Marshal(struct {
		Metadata meta        `json:"metadata"`
		Status   statusPatch `json:"status"`
	}{meta{pod.UID}, status})
	if err != nil {
		return err
	}
	_, err = core.Pod.Patch(ctx, s.h, pod.Namespace, pod.Name, "status", types.StrategicMergePatchType, patch)
	return err
}
