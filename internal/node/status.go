package node

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/kinds/podspec"
)

// status is the pod's status as it should be written.
func (in *input) status(p *plan) corev1.PodStatus {
	pod := in.pod
	st := *pod.Status.DeepCopy()
	st.ObservedGeneration = pod.Generation
	if st.StartTime == nil {
		st.StartTime = &metav1.Time{Time: in.began().Truncate(time.Second)}
	}
	st.QOSClass = qos(pod)
	in.addresses(&st)
	if e := in.mem.ended; e != nil && e.refused {
		st.Phase, st.Reason, st.Message = corev1.PodFailed, e.reason, e.message
		return st // nothing of it was ever begun
	}
	st.InitContainerStatuses = in.containerStatuses(p, pod.Spec.InitContainers, true, pod.Status.InitContainerStatuses)
	st.ContainerStatuses = in.containerStatuses(p, pod.Spec.Containers, false, pod.Status.ContainerStatuses)
	in.ephemeralStatuses(&st, p)
	in.phase(&st, p)
	in.conditions(&st)
	return st
}

// began is when the node took up the pod: before all that it has of it, also if an
// earlier agent made that, and however late the status is written that says so.
func (in *input) began() time.Time {
	at := in.mem.began
	for _, s := range in.view.sandboxes {
		if s.created.Before(at) {
			at = s.created
		}
	}
	return at
}

// ephemeralStatuses fills in the ephemeral containers' states. They are never
// ready and never count as started.
func (in *input) ephemeralStatuses(st *corev1.PodStatus, p *plan) {
	old := in.pod.Status.EphemeralContainerStatuses
	st.EphemeralContainerStatuses = nil
	for i := range in.pod.Spec.EphemeralContainers {
		c := asContainer(&in.pod.Spec.EphemeralContainers[i])
		list := in.containerStatuses(p, []corev1.Container{*c}, false, old)
		list[0].Ready, list[0].Started = false, nil
		st.EphemeralContainerStatuses = append(st.EphemeralContainerStatuses, list...)
	}
}

func (in *input) addresses(st *corev1.PodStatus) {
	if len(in.mem.hostIPs) > 0 {
		st.HostIP, st.HostIPs = in.mem.hostIPs[0], nil
		for _, ip := range in.mem.hostIPs {
			st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	s := in.view.sandbox()
	var ips []string
	switch {
	case s == nil || !s.ready:
		return // the last known address stays
	case in.pod.Spec.HostNetwork:
		ips = in.mem.hostIPs
	default:
		ips = s.ips
	}
	if len(ips) == 0 {
		return
	}
	st.PodIP, st.PodIPs = ips[0], nil
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
}

func (in *input) containerStatuses(p *plan, specs []corev1.Container, init bool, old []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range specs {
		var before *corev1.ContainerStatus
		for j := range old {
			if old[j].Name == specs[i].Name {
				before = &old[j]
			}
		}
		out = append(out, in.containerStatus(p, &specs[i], init, before))
	}
	return out
}

func (in *input) containerStatus(p *plan, spec *corev1.Container, init bool, old *corev1.ContainerStatus) corev1.ContainerStatus {
	last, before := in.view.newest(spec.Name)
	st := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: new(bool)}
	if last == nil {
		return in.absent(p, st, spec, old)
	}
	st.RestartCount = int32(last.attempt)
	st.ContainerID = in.view.runtime + "://" + last.id
	st.Image, st.ImageID = last.image, last.imageRef
	if before != nil && before.state == exited {
		st.LastTerminationState = corev1.ContainerState{Terminated: in.terminated(before)}
	}
	switch {
	case last.state == created || last.name == in.mem.starting && last.state != exited:
		st.State.Waiting = in.defaultWaiting()
		if w := in.mem.waiting[spec.Name]; w != nil {
			st.State.Waiting = &corev1.ContainerStateWaiting{Reason: w.reason, Message: w.message}
		}
	case last.state == running:
		st.State.Running = &corev1.ContainerStateRunning{StartedAt: seconds(last.started)}
		*st.Started = in.started(spec, last)
		st.Ready = *st.Started && in.ready(spec, last)
		if init && !podspec.Sidecar(spec) {
			st.Ready = false
		}
	case last.state == unknown:
		st.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown",
			Message: "The container could not be located when the pod was terminated", ContainerID: st.ContainerID}
	default:
		in.endedStatus(&st, spec, init, last, old)
	}
	return st
}

// endedStatus fills in the state of a container that has ended: terminated, or
// waiting for its restart.
func (in *input) endedStatus(st *corev1.ContainerStatus, spec *corev1.Container, init bool, last *container, old *corev1.ContainerStatus) {
	st.State.Terminated = in.terminated(last)
	if init && !podspec.Sidecar(spec) && last.code == 0 {
		st.Ready = true
		return
	}
	if in.ending() || !restarts(in.pod, spec, init, last.code) {
		return
	}
	why := in.mem.waiting[spec.Name]
	until := in.mem.backoff[spec.Name].until(last.finished)
	switch {
	case in.mem.starting == spec.Name && why == nil:
		// Between two runs what was known stays: the end of the last, or that it waits.
		if old != nil && old.ContainerID == st.ContainerID && old.State.Waiting != nil {
			st.State, st.LastTerminationState = old.State, old.LastTerminationState
		}
	case why != nil && !(in.now.Before(until) && (why.reason == "RunContainerError" || why.reason == "PostStartHookError")):
		st.LastTerminationState = corev1.ContainerState{Terminated: st.State.Terminated}
		st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why.reason, Message: why.message}}
	case in.now.Before(until):
		st.LastTerminationState = corev1.ContainerState{Terminated: st.State.Terminated}
		st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff",
			Message: in.backoffText(spec.Name)}}
	}
}

func (in *input) backoffText(name string) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", in.mem.backoff[name].pause, name, fullName(in.pod))
}

// absent is the status of a container that the runtime does not have.
func (in *input) absent(p *plan, st corev1.ContainerStatus, spec *corev1.Container, old *corev1.ContainerStatus) corev1.ContainerStatus {
	if old != nil && (old.State.Terminated != nil || in.ending()) {
		// It ran and was forgotten: keep what is known about it.
		st = *old.DeepCopy()
		st.Ready, st.Started = st.Ready && st.State.Terminated != nil && st.State.Terminated.ExitCode == 0, new(bool)
		if st.State.Running != nil {
			st.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137,
				Reason: "ContainerStatusUnknown", ContainerID: st.ContainerID,
				Message: "The container could not be located when the pod was terminated"}}
			st.Ready = false
		}
		return st
	}
	if old != nil {
		// It ran, and is about to be run again: by the attempt that known says.
		st.RestartCount, st.LastTerminationState = int32(in.known(spec.Name)), *old.LastTerminationState.DeepCopy()
		if old.State.Running != nil {
			st.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown",
				ContainerID: old.ContainerID, StartedAt: old.State.Running.StartedAt, Message: "The container could not be located"}
		}
	}
	st.ImageID = ""
	st.State.Waiting = in.defaultWaiting()
	if w := in.mem.waiting[spec.Name]; w != nil {
		st.State.Waiting = &corev1.ContainerStateWaiting{Reason: w.reason, Message: w.message}
	}
	return st
}

func (in *input) defaultWaiting() *corev1.ContainerStateWaiting {
	if len(in.pod.Spec.InitContainers) > 0 {
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

// seconds is a time as the API keeps it.
func seconds(t time.Time) metav1.Time {
	if t.IsZero() || t.Unix() == 0 {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

func (in *input) terminated(c *container) *corev1.ContainerStateTerminated {
	reason := c.reason
	if reason == "" {
		reason = "Error"
		if c.code == 0 {
			reason = "Completed"
		}
	}
	return &corev1.ContainerStateTerminated{ExitCode: c.code, Reason: reason, Message: c.message,
		StartedAt: seconds(c.started), FinishedAt: seconds(c.finished), ContainerID: in.view.runtime + "://" + c.id}
}

// ready says what the readiness probe says about a started container.
func (in *input) ready(spec *corev1.Container, c *container) bool {
	if spec.ReadinessProbe == nil {
		return true
	}
	pr := in.mem.probes[c.id]
	return pr != nil && pr.ready
}

// phase sums the containers' states up.
func (in *input) phase(st *corev1.PodStatus, p *plan) {
	switch in.pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		return // final
	}
	if e := in.mem.ended; e != nil {
		st.Reason, st.Message = e.reason, e.message
		// Not final while something runs: the resources are still in use.
		if len(in.view.alive()) == 0 {
			st.Phase = corev1.PodFailed
		}
		return
	}
	st.Phase = in.sum(st)
}

func (in *input) sum(st *corev1.PodStatus) corev1.PodPhase {
	alive := len(in.view.alive()) > 0
	if in.initFailed() && !alive {
		return corev1.PodFailed
	}
	if in.pod.DeletionTimestamp == nil && !in.initialized(st) {
		return corev1.PodPending
	}
	var waits, runs, stopped, succeeded int
	for i := range st.ContainerStatuses {
		switch c := &st.ContainerStatuses[i]; {
		case c.State.Running != nil:
			runs++
		case c.State.Terminated != nil:
			stopped++
			if c.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case c.LastTerminationState.Terminated != nil:
			stopped++
		default:
			waits++
		}
	}
	final := in.over() || in.pod.DeletionTimestamp != nil
	switch {
	case waits > 0 && !(in.pod.DeletionTimestamp != nil && in.pod.Status.Phase == corev1.PodRunning):
		if in.pod.DeletionTimestamp != nil && in.mem.stopped {
			return corev1.PodFailed // it never ran, and never will
		}
		return corev1.PodPending
	case runs > 0 || alive || !final:
		return corev1.PodRunning
	case stopped == succeeded && waits == 0:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// initialized says whether all init containers have done what the others wait for.
func (in *input) initialized(st *corev1.PodStatus) bool {
	if s := in.view.sandbox(); s != nil && in.begun(s) {
		return true
	}
	for i := range in.pod.Spec.InitContainers {
		c, cs := &in.pod.Spec.InitContainers[i], &st.InitContainerStatuses[i]
		if podspec.Sidecar(c) {
			if !*cs.Started {
				return false
			}
		} else if cs.State.Terminated == nil || cs.State.Terminated.ExitCode != 0 {
			return false
		}
	}
	return true
}
