package core

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/podspec"
)

var podColumns = []api.Column[*corev1.Pod]{
	column.Doc(api.Col("Ready", func(p *corev1.Pod) string { s := summarize(p); return fmt.Sprintf("%d/%d", s.ready, s.total) }),
		"The aggregate readiness state of this pod for accepting traffic."),
	column.Doc(api.Col("Status", func(p *corev1.Pod) string { return summarize(p).reason }),
		"The aggregate status of the containers in this pod."),
	column.Doc(api.Col("Restarts", func(p *corev1.Pod) string { return summarize(p).restartText() }),
		"The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
	api.Wide("IP", func(p *corev1.Pod) string { return orNone(podIPs(p)) }),
	api.Wide("Node", func(p *corev1.Pod) string { return orNone(p.Spec.NodeName) }),
	api.Wide("Nominated Node", func(p *corev1.Pod) string { return orNone(p.Status.NominatedNodeName) }),
	api.Wide("Readiness Gates", podGates),
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func podGates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	n := 0
	for _, g := range p.Spec.ReadinessGates {
		if c := PodCondition(p, g.ConditionType); c != nil && c.Status == corev1.ConditionTrue {
			n++
		}
	}
	return fmt.Sprintf("%d/%d", n, len(p.Spec.ReadinessGates))
}

// A podSummary is what the table of pods says of one.
type podSummary struct {
	ready, total int
	reason       string
	restarts     int32
	restarted    metav1.Time
}

func (s podSummary) restartText() string {
	if s.restarts == 0 || s.restarted.IsZero() {
		return fmt.Sprint(s.restarts)
	}
	return fmt.Sprintf("%d (%s ago)", s.restarts, duration.HumanDuration(time.Since(s.restarted.Time)))
}

func summarize(p *corev1.Pod) podSummary {
	s := podSummary{total: len(p.Spec.Containers), reason: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	if c := PodCondition(p, corev1.PodScheduled); c != nil && c.Reason == corev1.PodReasonSchedulingGated {
		s.reason = corev1.PodReasonSchedulingGated
	}
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; podspec.Sidecar(c) {
			sidecars[c.Name] = true
			s.total++
		}
	}
	if !s.initializing(p, sidecars) || initialized(p) {
		s.running(p, sidecars)
	}
	if p.DeletionTimestamp != nil {
		switch {
		case p.Status.Reason == "NodeLost":
			s.reason = "Unknown"
		case !PodFinished(p):
			s.reason = "Terminating"
		}
	}
	return s
}

func initialized(p *corev1.Pod) bool {
	c := PodCondition(p, corev1.PodInitialized)
	return c != nil && c.Status == corev1.ConditionTrue
}

// initializing reads the init containers, and says whether one of them is not done.
func (s *podSummary) initializing(p *corev1.Pod, sidecars map[string]bool) bool {
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.restarts += c.RestartCount
		s.restarted = lastEnd(s.restarted, c)
		t, w := c.State.Terminated, c.State.Waiting
		switch {
		case t != nil && t.ExitCode == 0:
			continue
		case sidecars[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case t != nil:
			s.reason = "Init:" + ended(t)
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			s.reason = "Init:" + w.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true
	}
	return false
}

// running reads the ordinary containers, and how often those beside them restarted.
func (s *podSummary) running(p *corev1.Pod, sidecars map[string]bool) {
	s.restarts, s.restarted = 0, metav1.Time{}
	for i := range p.Status.InitContainerStatuses {
		if c := &p.Status.InitContainerStatuses[i]; sidecars[c.Name] {
			s.restarts += c.RestartCount
			s.restarted = lastEnd(s.restarted, c)
		}
	}
	hasRunning := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.restarts += c.RestartCount
		s.restarted = lastEnd(s.restarted, c)
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case w != nil && w.Reason != "":
			s.reason = w.Reason
		case t != nil:
			s.reason = ended(t)
		case c.Ready && c.State.Running != nil:
			hasRunning = true
			s.ready++
		}
	}
	if s.reason == "Completed" && hasRunning {
		s.reason = "NotReady"
		if PodReady(p) {
			s.reason = "Running"
		}
	}
}

// ended is why a container is no longer running.
func ended(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func lastEnd(t metav1.Time, c *corev1.ContainerStatus) metav1.Time {
	if e := c.LastTerminationState.Terminated; e != nil && t.Before(&e.FinishedAt) {
		return e.FinishedAt
	}
	return t
}
