package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/kinds/core"
)

// pod explains why a pod is not ready.
func (a *asker) pod(p *corev1.Pod) *Cause {
	me := "pod/" + p.Name
	done, ok := a.enter(me)
	if !ok {
		return fine(me, "see above")
	}
	defer done()
	switch {
	case p.DeletionTimestamp != nil:
		return a.leavingPod(p)
	case p.Status.Phase == corev1.PodSucceeded:
		return fine(me, "it has done its work: all its containers ended with exit code 0").since(endOf(p))
	case p.Status.Phase == corev1.PodFailed:
		return a.failedPod(p)
	case p.Spec.NodeName == "":
		return a.unscheduled(p)
	}
	c := is(me, "it is not ready").since(conditionTime(p, corev1.PodReady, corev1.ConditionFalse))
	c.as(a.nodeOf(p))
	if len(c.Causes) == 0 && core.PodReady(p) {
		a.restarts(p)
		return fine(me, "it runs on node %s and is ready", p.Spec.NodeName).since(readySince(p))
	}
	if len(c.Causes) > 0 { // what the status says is old
		return c
	}
	init := a.initContainers(p)
	c.as(init)
	if init == nil {
		c.as(a.containers(p)...)
	}
	if len(c.Causes) == 0 {
		c.as(a.gates(p)...)
	}
	if len(c.Causes) == 0 {
		b := is("", "node %s is still setting it up", p.Spec.NodeName)
		if cond := core.PodCondition(p, corev1.PodScheduled); cond != nil {
			b.since(cond.LastTransitionTime.Time)
		}
		if e := a.last(p.UID, func(e *corev1.Event) bool { return e.Type == corev1.EventTypeWarning }); e != nil {
			b.as(is("", "the last warning about it: %s%s", e.Reason, said(e.Message)).since(firstSeen(e)))
		}
		c.as(b)
	}
	return c
}

// conditionTime is since when a condition has a status; zero if it has another.
func conditionTime(p *corev1.Pod, typ corev1.PodConditionType, status corev1.ConditionStatus) (t time.Time) {
	if c := core.PodCondition(p, typ); c != nil && c.Status == status {
		return c.LastTransitionTime.Time
	}
	return t
}

func readySince(p *corev1.Pod) time.Time {
	return conditionTime(p, corev1.PodReady, corev1.ConditionTrue)
}

// nodeOf explains what is wrong with a pod's node; nil if nothing is.
func (a *asker) nodeOf(p *corev1.Pod) *Cause {
	n, k := get(a, core.Node, "", p.Spec.NodeName)
	switch {
	case k == missing:
		return is("node/"+p.Spec.NodeName, "there is no such node (any more)").
			help("delete the pod, so that it is made anew elsewhere: kubectl delete pod %s%s --force --grace-period=0", p.Name, a.inNamespace())
	case k == there && !core.NodeReady(n):
		return a.node(n)
	}
	return nil
}

func (a *asker) node(n *corev1.Node) *Cause {
	me := "node/" + n.Name
	c := is(me, "it is not ready")
	c.as(a.leaving(n))
	ready := false
	told := false
	for _, cond := range n.Status.Conditions {
		at := cond.LastTransitionTime.Time
		switch {
		case cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue:
			ready = true
			c.since(at)
		case cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionUnknown:
			told = true
			c.since(at).as(is("", "its agent has reported nothing since %s", cond.LastHeartbeatTime.UTC().Format(time.RFC3339)).since(at).
				help("see whether the machine %s runs, reaches the API server, and runs its agent ('proa status' there)", n.Name))
		case cond.Type == corev1.NodeReady:
			told = true
			c.since(at).as(is("", "%s", oneLine(cond.Reason+said(cond.Message))).since(at).
				help("mend what node %s reports: kubectl describe node %s", n.Name, n.Name))
		case cond.Status == corev1.ConditionTrue && strings.HasSuffix(string(cond.Type), "Pressure"):
			c.as(is("", "it is short of %s%s", strings.ToLower(strings.TrimSuffix(string(cond.Type), "Pressure")), said(cond.Message)).since(at).
				help("free some of it on node %s, or move pods away from there", n.Name))
		case cond.Status == corev1.ConditionTrue && cond.Type == corev1.NodeNetworkUnavailable:
			c.as(is("", "its network is not set up%s", said(cond.Message)).since(at))
		}
	}
	if !ready && !told {
		c.as(is("", "its agent has not reported yet"))
	}
	if ready {
		c.Text = "it is ready"
		if n.Spec.Unschedulable {
			c.as(is("", "it is cordoned: no new pods come to it").help("kubectl uncordon %s", n.Name))
		}
		if len(c.Causes) == 0 {
			c.fine = true
		}
	}
	return c
}

// endText says how a pod that has ended did.
func endText(p *corev1.Pod) string {
	if p.Status.Phase == corev1.PodSucceeded {
		return "its containers ended with exit code 0"
	}
	if p.Status.Reason != "" {
		return p.Status.Reason + said(p.Status.Message)
	}
	return "a container failed"
}

func (a *asker) failedPod(p *corev1.Pod) *Cause {
	c := is("pod/"+p.Name, "it has failed").since(endOf(p))
	if r := p.Status.Reason; r != "" {
		b := is("", "%s%s", r, said(p.Status.Message))
		switch r {
		case "Evicted":
			b.Text = "it was evicted from node " + p.Spec.NodeName + said(p.Status.Message)
			b.help("give its containers requests and limits that they keep to, or the node more room")
		case "DeadlineExceeded":
			b.Text = "it was active for longer than it may be (activeDeadlineSeconds)"
			b.help("give it more time (activeDeadlineSeconds)")
		case "NodeAffinity", "OutOfcpu", "OutOfmemory", "OutOfpods", "UnexpectedAdmissionError":
			b.Text = "node " + p.Spec.NodeName + " refused it: " + r + said(p.Status.Message)
		}
		c.as(b)
	}
	if d := core.PodCondition(p, corev1.DisruptionTarget); d != nil && d.Status == corev1.ConditionTrue {
		c.as(is("", "it had to go: %s%s", d.Reason, said(d.Message)).since(d.LastTransitionTime.Time))
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if t := s.State.Terminated; t != nil && (t.ExitCode != 0 || t.Signal != 0) {
			c.as(a.ended(p, s.Name, t))
		}
	}
	if metav1.GetControllerOfNoCopy(p) == nil {
		c.help("nobody makes it anew: delete it and make it again")
	}
	return c
}

// overdue says whether a pod is still there after its time to end.
func (a *asker) overdue(p *corev1.Pod) bool {
	const slack = 10 * time.Second
	return p.DeletionTimestamp != nil && a.now.After(p.DeletionTimestamp.Add(slack))
}

// leavingPod explains why a pod that is being deleted is still there.
func (a *asker) leavingPod(p *corev1.Pod) *Cause {
	grace := int64(0)
	if p.DeletionGracePeriodSeconds != nil {
		grace = *p.DeletionGracePeriodSeconds
	}
	c := is("pod/"+p.Name, "it is being deleted").since(p.DeletionTimestamp.Add(-time.Duration(grace) * time.Second))
	c.as(a.finalizers(p))
	if len(c.Causes) > 0 && (core.PodFinished(p) || p.Spec.NodeName == "" || grace == 0) {
		return c
	}
	force := fmt.Sprintf("if node %s will not come back: kubectl delete pod %s%s --force --grace-period=0", p.Spec.NodeName, p.Name, a.inNamespace())
	if n := a.nodeOf(p); n != nil && p.Spec.NodeName != "" {
		n.Help = nil
		return c.as(is("", "its node cannot confirm that it has ended").as(n).help("%s", force))
	}
	if !a.overdue(p) {
		b := is("", "its containers have until %s to end (grace period: %ds)", p.DeletionTimestamp.UTC().Format(time.TimeOnly+" MST"), grace)
		if slices.ContainsFunc(p.Spec.Containers, func(k corev1.Container) bool { return k.Lifecycle != nil && k.Lifecycle.PreStop != nil }) {
			b.as(is("", "it has a preStop hook, which is part of that time"))
		}
		if grace > 30 {
			b.help("do not wait so long: kubectl delete pod %s%s --grace-period=5", p.Name, a.inNamespace())
		}
		return c.as(b)
	}
	var run []string
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.State.Running != nil {
			run = append(run, s.Name)
		}
	}
	late := is("", "its time to end (grace period: %ds) is over", grace).since(p.DeletionTimestamp.Time)
	if len(run) > 0 {
		late.as(is("", "node %s has not ended %s", p.Spec.NodeName, some(run)))
	} else if len(c.Causes) == 0 {
		late.as(is("", "node %s has not cleared it away yet", p.Spec.NodeName))
	}
	if e := a.last(p.UID, reasons("FailedKillPod", "FailedPreStopHook", "FailedUnmount", "FailedUnMount")); e != nil {
		late.as(is("", "%s%s", e.Reason, said(e.Message)).since(firstSeen(e)))
	}
	if len(late.Causes) > 0 {
		c.as(late.help("see the log of node %s; %s", p.Spec.NodeName, force))
	}
	return c
}

// leaving explains why an object that is being deleted is still there; nil if it is not.
func (a *asker) leaving(o metav1.Object) *Cause {
	t := o.GetDeletionTimestamp()
	if t == nil {
		return nil
	}
	return is("", "it is being deleted").since(t.Time).as(a.finalizers(o))
}

// finalizers explains what an object's end waits for; nil if for nothing.
func (a *asker) finalizers(o metav1.Object) *Cause {
	f := o.GetFinalizers()
	if len(f) == 0 {
		return nil
	}
	c := is("", "it stays until those who put its finalizers there take them off: %s", strings.Join(f, ", "))
	for _, name := range f {
		switch name {
		case metav1.FinalizerDeleteDependents:
			c.as(is("", "what belongs to it is deleted first (foreground deletion)"))
		case metav1.FinalizerOrphanDependents:
			c.as(is("", "what belongs to it is let go of first"))
		case "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection":
		case "batch.kubernetes.io/job-tracking":
			c.as(is("", "its job must count it first"))
		default:
			c.help("see whether what looks after %s runs; take the finalizer off by hand only if it is gone for good", name)
		}
	}
	return c
}

// gates explains readiness gates that are shut.
func (a *asker) gates(p *corev1.Pod) (out []*Cause) {
	for _, g := range p.Spec.ReadinessGates {
		c := core.PodCondition(p, g.ConditionType)
		b := is("", "its containers are ready, but its readiness gate %s is not open", g.ConditionType)
		switch {
		case c == nil:
			b.as(is("", "nobody has set the condition %s yet", g.ConditionType))
		case c.Status == corev1.ConditionTrue:
			continue
		default:
			b.since(c.LastTransitionTime.Time).as(is("", "the condition is %s: %s%s", c.Status, c.Reason, said(c.Message)))
		}
		out = append(out, b.help("see what sets the condition %s of pods (a load balancer's controller, say)", g.ConditionType))
	}
	return out
}

// restarts notes what a pod that is well has been through.
func (a *asker) restarts(p *corev1.Pod) {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.LastTerminationState.Terminated; t != nil && s.RestartCount > 0 {
			a.note("container %s of pod/%s has been restarted %s; last %s, at %s", s.Name, p.Name,
				times(int(s.RestartCount)), endOfContainer(p, s.Name, t), t.FinishedAt.UTC().Format(time.RFC3339))
		}
	}
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
