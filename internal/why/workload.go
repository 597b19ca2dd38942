package why

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

const revision = "deployment.kubernetes.io/revision"

// number is what an optional number of replicas means.
func number(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}

// unseen says that a controller has not yet looked at an object's last change.
func unseen(generation, observed int64, who string) *Cause {
	if observed >= generation {
		return nil
	}
	return is("", "the %s has not acted on its last change yet", who)
}

func (a *asker) deployment(d *appsv1.Deployment) *Cause {
	me, want, st := "deployment/"+d.Name, number(d.Spec.Replicas), &d.Status
	c := is(me, "%d of %d pods available", st.AvailableReplicas, want)
	c.as(a.leaving(d), unseen(d.Generation, st.ObservedGeneration, "deployment controller"))
	sets := owned(a, apps.ReplicaSet, d.UID)
	slices.SortFunc(sets, func(x, y *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(y), revisionOf(x)) })
	for i := range st.Conditions {
		cond := &st.Conditions[i]
		if cond.Type == appsv1.DeploymentProgressing && cond.Reason == "ProgressDeadlineExceeded" {
			c.as(is("", "its rollout has made no progress for %ds (progressDeadlineSeconds)", number(d.Spec.ProgressDeadlineSeconds)).
				since(cond.LastTransitionTime.Time).
				help("go back to the last version that worked: kubectl rollout undo deploy/%s%s", d.Name, a.inNamespace()))
		}
		if cond.Type == appsv1.DeploymentReplicaFailure && cond.Status == corev1.ConditionTrue && !slices.ContainsFunc(sets, refusedPods) {
			c.as(a.refused("its pods are refused", cond.Message).since(cond.LastTransitionTime.Time))
		}
		if cond.Type == appsv1.DeploymentProgressing && cond.Status == corev1.ConditionFalse && cond.Reason == "ReplicaSetCreateError" {
			c.as(a.refused("no replica set can be made", cond.Message).since(cond.LastTransitionTime.Time))
		}
	}
	rolled := int(st.UpdatedReplicas) >= want && st.Replicas == st.UpdatedReplicas
	if d.Spec.Paused && rolled && int(st.AvailableReplicas) >= want {
		a.note("it is paused: further changes of its template will not be rolled out")
	} else if d.Spec.Paused {
		c.as(is("", "it is paused: changes of its template are not rolled out").
			help("kubectl rollout resume deploy/%s%s", d.Name, a.inNamespace()))
	}
	if len(sets) == 0 && want > 0 && !d.Spec.Paused {
		c.as(is("", "there is no replica set for its template yet"))
	}
	for i, rs := range sets {
		n := number(rs.Spec.Replicas)
		below := a.replicaSet(rs)
		switch {
		case i == 0:
			c.as(below)
		case n > 0 && int(sets[0].Status.AvailableReplicas) < want:
			old := is("", "%s of an earlier version %s on until there are enough new ones (maxUnavailable)", count(n, "pod"), verb(n, "runs", "run"))
			c.as(old)
			if !below.fine {
				old.as(below)
			}
		default:
			c.as(below)
		}
	}
	switch {
	case len(c.Causes) > 0:
	case want == 0 && st.Replicas == 0:
		return fine(me, "it wants no pods (replicas: 0), and has none")
	case int(st.AvailableReplicas) >= want && rolled:
		return fine(me, "all is well: %s", c.Text).since(conditionSince(st.Conditions, appsv1.DeploymentAvailable))
	default:
		c.as(is("", "a rollout is going on: %d of %d pods have the new version, %d in all", st.UpdatedReplicas, want, st.Replicas))
	}
	return c
}

func conditionSince(all []appsv1.DeploymentCondition, typ appsv1.DeploymentConditionType) (t time.Time) {
	for _, c := range all {
		if c.Type == typ && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return t
}

func revisionOf(rs *appsv1.ReplicaSet) int {
	n, _ := strconv.Atoi(rs.Annotations[revision])
	return n
}

// inNamespace is the flag for kubectl, if one is needed.
func (a *asker) inNamespace() string {
	if a.ns == "" || a.ns == metav1.NamespaceDefault {
		return ""
	}
	return " -n " + a.ns
}

func refusedPods(rs *appsv1.ReplicaSet) bool { return failureOf(rs) != nil }

func failureOf(rs *appsv1.ReplicaSet) *appsv1.ReplicaSetCondition {
	for i := range rs.Status.Conditions {
		if c := &rs.Status.Conditions[i]; c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

func (a *asker) replicaSet(rs *appsv1.ReplicaSet) *Cause {
	return a.replicas("replicaset/"+rs.Name, "replica set controller", rs)
}

// replicationController explains it as the replica set that it would be.
func (a *asker) replicationController(rc *corev1.ReplicationController) *Cause {
	rs := &appsv1.ReplicaSet{ObjectMeta: rc.ObjectMeta}
	rs.Spec.Replicas, rs.Spec.MinReadySeconds = rc.Spec.Replicas, rc.Spec.MinReadySeconds
	rs.Status.AvailableReplicas, rs.Status.ObservedGeneration = rc.Status.AvailableReplicas, rc.Status.ObservedGeneration
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{Type: appsv1.ReplicaSetConditionType(c.Type),
			Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message})
	}
	return a.replicas("replicationcontroller/"+rc.Name, "replication controller", rs)
}

func (a *asker) replicas(me, who string, rs *appsv1.ReplicaSet) *Cause {
	want := number(rs.Spec.Replicas)
	pods := owned(a, core.Pod, rs.UID)
	c := is(me, "%d of %d pods available", rs.Status.AvailableReplicas, want)
	c.as(a.leaving(rs), unseen(rs.Generation, rs.Status.ObservedGeneration, who))
	if f := failureOf(rs); f != nil {
		text := "its pods are refused"
		if f.Reason == "FailedDelete" {
			text = "its pods cannot be deleted"
		}
		c.as(a.refused(text, f.Message).since(f.LastTransitionTime.Time))
	}
	enough := int(rs.Status.AvailableReplicas) >= want
	var alive, look []*corev1.Pod
	for _, p := range pods {
		switch {
		case p.DeletionTimestamp != nil:
			if !enough || a.overdue(p) {
				look = append(look, p)
			}
		case core.PodFinished(p): // it has been replaced
			a.note("pod/%s has ended: %s", p.Name, endText(p))
		default:
			alive, look = append(alive, p), append(look, p)
		}
	}
	c.as(a.pods(look, rs.Spec.MinReadySeconds)...)
	if want == 0 && len(c.Causes) == 0 {
		return fine(me, "it wants no pods (replicas: 0)")
	}
	_, seen := list(a, core.Pod, a.ns)
	switch n := want - len(alive); {
	case !seen:
	case n > 0 && failureOf(rs) == nil:
		c.as(is("", "%s %s still to be made", count(n, "pod"), isAre(n)))
	case n < 0:
		c.as(is("", "%s %s still to be deleted", count(-n, "pod"), isAre(-n)))
	}
	if len(c.Causes) == 0 && enough {
		return fine(me, "all is well: %s", c.Text)
	}
	return c
}

// pods explains those that are not available.
func (a *asker) pods(pods []*corev1.Pod, minReady int32) []*Cause {
	const most = 50 // the rest are like them, as a rule
	var all []*Cause
	for _, p := range pods {
		c := a.available(p, minReady)
		if c.fine {
			continue
		}
		if len(all) == most {
			a.note("only %d pods of those that are not ready were looked at", most)
			break
		}
		all = append(all, c)
	}
	return gather(all)
}

// available explains why a pod is not, though it may be ready.
func (a *asker) available(p *corev1.Pod, minReady int32) *Cause {
	c := a.pod(p)
	if at := readySince(p); c.fine && minReady > 0 && !at.IsZero() && a.now.Before(at.Add(time.Duration(minReady)*time.Second)) {
		return is("pod/"+p.Name, "it is ready, but counts as available only after %ds (minReadySeconds)", minReady).since(at)
	}
	return c
}

// refused explains why the API refused to make what a controller wanted.
func (a *asker) refused(text, message string) *Cause {
	c := is("", "%s%s", text, said(message))
	switch {
	case strings.Contains(message, "exceeded quota"):
		_, rest, _ := strings.Cut(message, "exceeded quota: ")
		name, _, _ := strings.Cut(rest, ",")
		c.help("raise the resource quota %s, ask for less, or delete what uses it up: kubectl describe quota %s%s", name, name, a.inNamespace())
	case strings.Contains(message, "failed quota"):
		c.help("say requests and limits for each container, as the quota demands, or make a LimitRange with defaults")
	case strings.Contains(message, "violates PodSecurity"):
		c.help("change the pod's security context as the message says, or the namespace's pod-security.kubernetes.io labels")
	case strings.Contains(message, "webhook"):
		c.help("mend what the admission webhook objects to, or the webhook: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations")
	case strings.Contains(message, "serviceaccount") && strings.Contains(message, "not found"):
		c.help("make the service account that the template names, or change spec.serviceAccountName")
	case strings.Contains(message, "usage per"):
		c.help("change the requests and limits to what the namespace's LimitRange allows: kubectl describe limitrange%s", a.inNamespace())
	case strings.Contains(message, "being terminated"):
		c.as(a.namespaceOf())
	case strings.Contains(message, "no PriorityClass"):
		c.help("make the priority class, or change spec.priorityClassName")
	}
	return c
}

// refusal is the last failure to make something for an owner, if nothing has
// been made for it since.
func (a *asker) refusal(owner metav1.Object) *Cause {
	e := a.last(owner.GetUID(), reasons("FailedCreate", "SuccessfulCreate"))
	if e == nil || e.Reason != "FailedCreate" {
		return nil
	}
	message := strings.TrimPrefix(e.Message, "Error creating: ")
	if _, cause, ok := strings.Cut(message, " failed error: "); ok {
		message = cause
	}
	return a.refused("its pods are refused", message).since(firstSeen(e))
}

func firstOrdinal(s *appsv1.StatefulSet) int {
	if s.Spec.Ordinals == nil {
		return 0
	}
	return int(s.Spec.Ordinals.Start)
}

func (a *asker) statefulSet(s *appsv1.StatefulSet) *Cause {
	me, want, st := "statefulset/"+s.Name, number(s.Spec.Replicas), &s.Status
	c := is(me, "%d of %d pods available", st.AvailableReplicas, want)
	c.as(a.leaving(s), unseen(s.Generation, st.ObservedGeneration, "stateful set controller"))
	start := firstOrdinal(s)
	pods := map[string]*corev1.Pod{}
	for _, p := range owned(a, core.Pod, s.UID) {
		pods[p.Name] = p
	}
	ordered := s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	var first *Cause // the first that others wait for
	var wait, rest []string
	var others []*Cause
	for i := start; i < start+want; i++ {
		name := fmt.Sprintf("%s-%d", s.Name, i)
		p := pods[name]
		delete(pods, name)
		switch {
		case p == nil && first != nil && ordered:
			wait = append(wait, name)
		case p == nil:
			rest = append(rest, name)
		default:
			b := a.available(p, s.Spec.MinReadySeconds)
			if b.fine {
				continue
			}
			if first == nil {
				first = b
				if to := st.UpdateRevision; to != "" && p.Labels[appsv1.ControllerRevisionHashLabelKey] != to && ordered {
					b.help("if the template has been mended since: delete the pod, so that it is made anew: kubectl delete pod %s%s", name, a.inNamespace())
				}
			} else {
				others = append(others, b)
			}
		}
	}
	if first != nil && len(wait) > 0 {
		c.as(is("", "%s %s: pods are made one after the other (podManagementPolicy: OrderedReady), each when those before it are ready",
			some(wait), verb(len(wait), "waits", "wait")).as(first))
		c.as(gather(others)...)
	} else if first != nil {
		c.as(gather(append([]*Cause{first}, others...))...)
	}
	if _, seen := list(a, core.Pod, a.ns); len(rest) > 0 && seen {
		c.as(is("", "%s %s still to be made", some(rest), isAre(len(rest))).as(a.refusal(s)))
	}
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			c.as(a.pod(p))
		}
	}
	c.as(statefulUpdate(s, want, start))
	switch {
	case len(c.Causes) > 0:
	case want == 0 && len(pods) == 0:
		return fine(me, "it wants no pods (replicas: 0), and has none")
	case int(st.AvailableReplicas) >= want && len(pods) == 0:
		return fine(me, "all is well: %s", c.Text)
	case len(pods) > 0:
		c.as(is("", "%s %s still to be deleted", count(len(pods), "pod"), isAre(len(pods))))
	}
	return c
}

// statefulUpdate says why pods are still of an earlier version.
func statefulUpdate(s *appsv1.StatefulSet, want, start int) *Cause {
	st := &s.Status
	old := want - int(st.UpdatedReplicas)
	if st.UpdateRevision == "" || st.UpdateRevision == st.CurrentRevision || old <= 0 {
		return nil
	}
	if s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return is("", "%s %s of an earlier version until deleted (updateStrategy: OnDelete)", count(old, "pod"), isAre(old)).
			help("delete the pods that are to get the new version")
	}
	if u := s.Spec.UpdateStrategy.RollingUpdate; u != nil && u.Partition != nil && int(*u.Partition) > start {
		return is("", "pods below ordinal %d stay at the earlier version (updateStrategy.rollingUpdate.partition)", *u.Partition).
			help("lower the partition to update them, too")
	}
	return is("", "a rolling update is going on: %s %s of an earlier version; they follow one by one, each when the one before is ready", count(old, "pod"), isAre(old))
}

func (a *asker) daemonSet(d *appsv1.DaemonSet) *Cause {
	me, st := "daemonset/"+d.Name, &d.Status
	want := int(st.DesiredNumberScheduled)
	c := is(me, "%d of %d pods available, one for each node that it is for", st.NumberAvailable, want)
	c.as(a.leaving(d), unseen(d.Generation, st.ObservedGeneration, "daemon set controller"))
	pods := owned(a, core.Pod, d.UID)
	c.as(a.pods(pods, d.Spec.MinReadySeconds)...)
	if n := want - int(st.CurrentNumberScheduled); n > 0 {
		c.as(is("", "%s %s still to be made", count(n, "pod"), isAre(n)).as(a.refusal(d)))
	}
	if n := want - int(st.UpdatedNumberScheduled); n > 0 && len(pods) > 0 {
		if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
			c.as(is("", "%s %s of an earlier version until deleted (updateStrategy: OnDelete)", count(n, "pod"), isAre(n)).help("delete the pods that are to get the new version"))
		} else {
			c.as(is("", "a rolling update is going on: %s %s of an earlier version", count(n, "pod"), isAre(n)))
		}
	}
	switch {
	case len(c.Causes) > 0:
	case want == 0:
		c.Text = "it has no pods"
		why := is("", "no node is one that it is for")
		if s := d.Spec.Template.Spec.NodeSelector; len(s) > 0 {
			why = is("", "no node has the labels of its node selector, %s, and no taint that it does not tolerate", labels.FormatLabels(s)).
				help("label a node, or change the template's nodeSelector")
		}
		c.as(why)
	case int(st.NumberAvailable) >= want:
		return fine(me, "all is well: %s", c.Text)
	}
	return c
}

// absentPod says why there is no pod of a name that a stateful set would give;
// nil if there is no such set.
func (a *asker) absentPod(name string) *Cause {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return nil
	}
	n, err := strconv.Atoi(name[i+1:])
	if err != nil {
		return nil
	}
	s, k := get(a, apps.StatefulSet, a.ns, name[:i])
	if k != there {
		return nil
	}
	start := firstOrdinal(s)
	if end := start + number(s.Spec.Replicas); n < start || n >= end {
		return is("pod/"+name, "there is no such pod").as(is("statefulset/"+s.Name, "it wants the pods %d to %d only", start, end-1).
			help("kubectl scale statefulset %s%s --replicas=%d", s.Name, a.inNamespace(), n-start+1))
	}
	return is("pod/"+name, "there is no such pod yet").as(a.statefulSet(s))
}
