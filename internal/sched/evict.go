package sched

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// makeRoom puts a pod aside that fits nowhere. If it may, less important pods
// are told to leave the node where that does least harm, and the pod is
// nominated for it: what they leave is kept for it.
func (s *Scheduler) makeRoom(ctx context.Context, p *profile, it *item, fail *Failure) action {
	if act, ok := s.relent(ctx, p, it, fail); ok {
		return act
	}
	if p.preempt == nil || len(s.state.Nodes) == 0 {
		return s.keep(ctx, p, it, fail)
	}
	before := s.state.Nominated(it.pod.UID)
	plan := p.Preempt(it.pod, s.state, *p.preempt, fail)
	s.metrics.made(plan)
	s.metrics.ended(p.name, unschedulable, it)
	message := fail.String()
	pod := it.pod.Pod
	if plan == nil {
		s.queue.wait(it, fail, s.cfg.Now())
		var nominated *string
		if before != "" && stays(it.pod, s.state, fail) == "" { // that node does not become free after all
			s.state.Nominate(it.pod, "")
			nominated = new(string)
		}
		return action{named("tell", pod), it.after(func() { s.tell(ctx, p, pod, message, nominated) }), false}
	}
	name := plan.Node.Name
	gone := false
	writes := []func(){it.after(func() { gone = s.tell(ctx, p, pod, message, &name) })}
	for _, o := range s.state.displaced(plan.Node, it.pod.Priority) {
		s.state.Nominate(o, "")
		if other := s.queue.items[o.UID]; other != nil {
			writes = append(writes, other.after(func() { s.withdraw(ctx, o.Pod) }))
			s.queue.changed(other, s.cfg.Now())
		}
	}
	s.state.Nominate(it.pod, name)
	s.queue.wait(it, fail, s.cfg.Now())
	var victims []*corev1.Pod
	for _, v := range plan.Victims {
		if v.DeletionTimestamp == nil && !s.state.leaving[v.UID] {
			s.state.leaving[v.UID] = true
			victims = append(victims, v.Pod)
		}
	}
	return action{named("make room for", pod), func() {
		for _, write := range writes {
			write()
		}
		if gone {
			s.spare(victims)
			return
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		for _, v := range victims {
			s.start(&wg, named("evict", v), func() {
				if err := s.evict(ctx, p, pod, v, name); err != nil && ctx.Err() == nil {
					s.cfg.Log.Warn("preempt", "namespace", v.Namespace, "pod", v.Name, "for", pod.Name, "err", err)
					s.giveUp(it)
				}
			})
		}
	}, false}
}

// withdraw writes that a pod is to come to no node any more.
func (s *Scheduler) withdraw(ctx context.Context, pod *corev1.Pod) {
	err := s.patchStatus(ctx, pod, statusPatch{Nominated: new(string)})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.cfg.Log.Warn("withdraw nomination", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
	}
}

// spare has pods stay that were to leave for one that is gone.
func (s *Scheduler) spare(victims []*corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range victims {
		delete(s.state.leaving, v.UID)
	}
}

// giveUp tries a pod anew whose victims could not be told to leave.
func (s *Scheduler) giveUp(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.items[it.pod.UID] == it && it.where == waiting {
		s.state.Nominate(it.pod, "")
		s.queue.retry(it, s.cfg.Now())
		s.work.Signal()
	}
}

// evict tells one pod to leave, with the reason in its condition: both in one write
// where the server is in this process. A pod that goes at once has nobody to tell.
func (s *Scheduler) evict(ctx context.Context, p *profile, pod, victim *corev1.Pod, node string) (err error) {
	defer func() {
		if apierrors.IsNotFound(err) {
			err = nil
		}
		if err != nil {
			s.mu.Lock()
			delete(s.state.leaving, victim.UID)
			s.mu.Unlock()
		}
	}()
	why := func(v *corev1.Pod) statusPatch {
		return statusPatch{Conditions: []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", pod.Spec.SchedulerName),
			ObservedGeneration: v.Generation, LastTransitionTime: s.since(v, corev1.DisruptionTarget, corev1.ConditionTrue),
		}}}
	}
	resp, err := s.h.Handle(ctx, &api.Request{
		Verb: api.Delete, Resource: core.Pod.Def(), Namespace: victim.Namespace, Name: victim.Name,
		Options: api.Options{UID: &victim.UID, Parting: func(o api.Object) {
			v := o.(*corev1.Pod)
			why(v).set(v)
		}},
	})
	if err != nil {
		return err
	}
	if v, ok := resp.Result().(*corev1.Pod); ok && !resp.Deleted && v.DeletionTimestamp != nil && core.PodCondition(v, corev1.DisruptionTarget) == nil {
		if err := s.patchStatus(ctx, v, why(v)); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	p.events.Eventf(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %s on node %s", pod.UID, node)
	return nil
}
