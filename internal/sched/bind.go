package sched

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// bind writes a decision.
func (s *Scheduler) bind(ctx context.Context, it *item, c *Choice) {
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
		s.mu.Unlock()
		s.cfg.Events.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return
	}
	if ctx.Err() != nil {
		return
	}
	s.cfg.Log.Warn("bind", "namespace", pod.Namespace, "pod", pod.Name, "node", node, "err", err)
	s.unbind(ctx, it, c, err)
}

func prepare(ctx context.Context, h api.Handler, c *Choice) error {
	for _, check := range c.checks {
		if check.PreBind != nil {
			if err := check.PreBind(ctx, h, c.Node); err != nil {
				return err
			}
		}
	}
	return nil
}

// unbind finds out what became of a pod whose binding failed, and tries again
// if it is still there and has no node.
func (s *Scheduler) unbind(ctx context.Context, it *item, c *Choice, cause error) {
	now, err := core.Pod.Get(ctx, s.h, it.pod.Namespace, it.pod.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	uid := it.pod.UID
	if s.queue.items[uid] == it && err == nil && now.UID == uid && now.Spec.NodeName != "" {
		s.sawPlaced(now)
		return
	}
	for _, check := range c.checks {
		if check.Unreserve != nil {
			check.Unreserve(c.Node)
		}
	}
	if s.queue.items[uid] != it { // the watch was faster
		return
	}
	delete(s.bound, uid)
	s.state.RemovePod(uid)
	s.wake(PodGone)
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
	s.cfg.Events.Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", cause)
}

// tell writes why a pod waits, in an event and in its condition.
func (s *Scheduler) tell(ctx context.Context, pod *corev1.Pod, reason, message string) {
	s.cfg.Events.Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "%s", message)
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == reason && c.Message == message {
			return
		}
	}
	patch, err := scheduledPatch(pod, reason, message, metav1.NewTime(s.cfg.Now()))
	if err == nil {
		_, err = core.Pod.Patch(ctx, s.h, pod.Namespace, pod.Name, "status", types.StrategicMergePatchType, patch)
	}
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.cfg.Log.Warn("pod condition", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
	}
}

func scheduledPatch(pod *corev1.Pod, reason, message string, now metav1.Time) ([]byte, error) {
	since := now
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			since = c.LastTransitionTime
		}
	}
	type status struct {
		Conditions []corev1.PodCondition `json:"conditions"`
	}
	type meta struct {
		UID types.UID `json:"uid"`
	}
	return json.Marshal(struct {
		Metadata meta   `json:"metadata"`
		Status   status `json:"status"`
	}{meta{pod.UID}, status{[]corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: since,
	}}}})
}
