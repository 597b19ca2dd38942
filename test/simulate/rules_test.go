package simulate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/core"
	"proa/internal/kinds/policy"
	"proa/internal/node/cri"
)

// stale is how old what a controller knows may be: what happened since, and
// that it could not know, does not count against it.
const stale = 90 * time.Second

// rules are what must hold at any time.
type rules struct {
	w      *world
	nodeOf map[types.UID]string // of every pod that was bound
	asked  map[types.UID]int32  // the most pods that a replica set was ever asked for
	most   map[types.UID]int32  // and a deployment with its surge
	wanted map[types.UID][]want // of deployments, over time
	ready  map[types.UID]*corev1.Pod
	since  map[types.UID]time.Time // when pods became ready
	losses []loss
	hopes  map[types.UID]*hope
	rough  time.Time // until when requests failed, or the scheduler was not there
	recent []string  // writes
}

type want struct {
	at time.Time
	n  int32
}

// A loss is a pod that was ready and is not.
type loss struct {
	at  time.Time
	pod *corev1.Pod
}

func newRules(w *world) *rules {
	return &rules{w: w, nodeOf: map[types.UID]string{}, asked: map[types.UID]int32{}, most: map[types.UID]int32{},
		wanted: map[types.UID][]want{}, ready: map[types.UID]*corev1.Pod{}, since: map[types.UID]time.Time{}, hopes: map[types.UID]*hope{}}
}

// broken notes that a rule is; the world ends with that.
func (r *rules) broken(format string, args ...any) {
	r.w.violations = append(r.w.violations, fmt.Sprintf("%s, turn %d: %s\nbefore:\n%s",
		time.Now().Format("Jan 2 15:04:05.000"), r.w.stats.turns, fmt.Sprintf(format, args...), r.last()))
}

func (r *rules) last() (out string) {
	for _, s := range r.recent {
		out += "  " + s + "\n"
	}
	return out
}

// list reads what the server has now.
func list[T api.Object](w *world, k *api.Kind[T], ns string) []T {
	if w.server == nil {
		return nil
	}
	all, err := k.List(context.Background(), w.server, ns, api.Selectors{})
	if err != nil {
		w.t.Errorf("list %s: %v", k.Resource, err)
	}
	return all
}

// before keeps what a write is about to change.
func (r *rules) before(a *actor, q *api.Request) *corev1.Pod {
	if q.Resource != core.Pod.Def() || !(q.Verb == api.Delete || q.Sub == "eviction") || r.w.server == nil {
		return nil
	}
	p, err := core.Pod.Get(context.Background(), r.w.server, q.Namespace, q.Name)
	if err != nil {
		return nil
	}
	return p
}

// after looks at the state after a write.
func (r *rules) after(a *actor, q *api.Request, was *corev1.Pod) {
	if usual(q) {
		return
	}
	who := "user"
	if a != nil {
		who = a.name
	}
	r.recent = append(r.recent, fmt.Sprintf("%s %s %s", time.Now().Format("15:04:05.000"), who, requestKey(q)))
	if len(r.recent) > 40 {
		r.recent = r.recent[1:]
	}
	pods := list(r.w, core.Pod, "")
	ours := was != nil && q.Verb == api.Delete && who == "controllers" && core.PodCondition(was, corev1.DisruptionTarget) == nil
	if was != nil && q.Verb == api.Delete && who == "controllers" && !ours {
		r.evicted(was)
	}
	r.see(pods, func(p *corev1.Pod) bool { return was != nil && p.UID == was.UID && (ours || q.Sub == "eviction") })
	r.pods(pods)
	r.waiting(pods)
	if was != nil && who == "scheduler" {
		r.preempted(was)
	}
	switch q.Resource.Resource {
	case "deployments", "replicasets":
		r.replicas()
	case "pods":
		r.counts(pods)
		if ours && isReady(was) {
			r.available(was, pods)
		}
		if q.Sub == "eviction" && was != nil && isReady(was) {
			r.budgets(was, pods)
		}
	case "services":
		r.addresses()
	case "nodes":
		r.subnets()
	case "jobs":
		r.crons()
	}
}

func isReady(p *corev1.Pod) bool { return core.PodReady(p) && p.DeletionTimestamp == nil }

func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
}

// see notes which pods are no longer ready, but for those that were made so on purpose.
func (r *rules) see(pods []*corev1.Pod, meant func(*corev1.Pod) bool) {
	now := time.Now()
	ready := map[types.UID]*corev1.Pod{}
	for _, p := range pods {
		if isReady(p) {
			ready[p.UID] = p
			if r.ready[p.UID] == nil {
				r.since[p.UID] = now
			}
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(r.ready)) {
		if p := r.ready[uid]; ready[uid] == nil && !meant(p) {
			r.losses = append(r.losses, loss{now, p})
		}
	}
	r.ready = ready
	for len(r.losses) > 0 && now.Sub(r.losses[0].at) > stale {
		r.losses = r.losses[1:]
	}
}

// had counts the pods that are ready, and those that were lost lately and that a controller
// may not have missed yet.
func (r *rules) had(pods []*corev1.Pod, in func(*corev1.Pod) bool) (n int32) {
	for _, l := range r.losses {
		if in(l.pod) {
			n++
		}
	}
	for _, p := range pods {
		if isReady(p) && in(p) {
			n++
		}
	}
	return n
}

// pods checks that a pod stays where it was bound, and that no node is promised more than it has.
func (r *rules) pods(pods []*corev1.Pod) {
	used := map[string]int64{}
	for _, p := range pods {
		if p.Spec.NodeName == "" {
			continue
		}
		if at := r.nodeOf[p.UID]; at != "" && at != p.Spec.NodeName {
			r.broken("pod %s moved from %s to %s", p.Name, at, p.Spec.NodeName)
		}
		r.nodeOf[p.UID] = p.Spec.NodeName
		if !over(p) {
			used[p.Spec.NodeName] += asks(p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if used[name] > 4000 {
			r.broken("pods on %s ask for %d of 4000 m", name, used[name])
		}
	}
}

// replicas checks that the replica sets of a deployment are together asked for no
// more than it allows.
func (r *rules) replicas() {
	sum := map[types.UID]int32{}
	for _, rs := range list(r.w, apps.ReplicaSet, "") {
		r.asked[rs.UID] = max(r.asked[rs.UID], *rs.Spec.Replicas)
		if ref := metav1.GetControllerOf(rs); ref != nil {
			sum[ref.UID] += *rs.Spec.Replicas
		}
	}
	for _, d := range list(r.w, apps.Deployment, "") {
		if l := r.wanted[d.UID]; len(l) == 0 || l[len(l)-1].n != *d.Spec.Replicas {
			r.wanted[d.UID] = append(l, want{time.Now(), *d.Spec.Replicas})
		}
		surge := bound(d.Spec.Strategy.RollingUpdate.MaxSurge, *d.Spec.Replicas, true)
		r.most[d.UID] = max(r.most[d.UID], *d.Spec.Replicas+surge)
		if sum[d.UID] > r.most[d.UID] {
			r.broken("the replica sets of %s are asked for %d pods, and it never allowed more than %d", d.Name, sum[d.UID], r.most[d.UID])
		}
	}
}

func bound(v *intstr.IntOrString, of int32, up bool) int32 {
	n, _ := intstr.GetScaledValueFromIntOrPercent(v, int(of), up)
	return int32(n)
}

// counts checks that nothing has more pods than it was asked for.
func (r *rules) counts(pods []*corev1.Pod) {
	active, perNode, inNS := map[types.UID]int32{}, map[string]int{}, map[string]int{}
	for _, p := range pods {
		if !over(p) && (p.DeletionTimestamp == nil || p.DeletionTimestamp.After(time.Now())) { // as quotas count
			inNS[p.Namespace]++
		}
		ref := metav1.GetControllerOf(p)
		if ref == nil || over(p) || p.DeletionTimestamp != nil {
			continue
		}
		active[ref.UID]++
		if ref.Kind == "DaemonSet" {
			at := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
			if perNode[ref.Name+" "+at]++; perNode[ref.Name+" "+at] > 1 {
				r.broken("two pods of %s for node %s", ref.Name, at)
			}
		}
	}
	for _, rs := range list(r.w, apps.ReplicaSet, "") {
		if active[rs.UID] > r.asked[rs.UID] {
			r.broken("%s has %d pods and was never asked for more than %d", rs.Name, active[rs.UID], r.asked[rs.UID])
		}
	}
	for _, j := range list(r.w, batch.Job, "") {
		if active[j.UID] > *j.Spec.Parallelism {
			r.broken("%s has %d pods at once, of %d", j.Name, active[j.UID], *j.Spec.Parallelism)
		}
	}
	for _, q := range list(r.w, core.ResourceQuota, "") {
		if hard := q.Spec.Hard.Pods(); int64(inNS[q.Namespace]) > hard.Value() {
			r.broken("%d pods in %s, of %d", inNS[q.Namespace], q.Namespace, hard.Value())
		}
	}
}

// deploymentOf is the deployment that a pod belongs to.
func (r *rules) deploymentOf(p *corev1.Pod) *appsv1.Deployment {
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return nil
	}
	for _, rs := range list(r.w, apps.ReplicaSet, p.Namespace) {
		if rs.UID != ref.UID {
			continue
		}
		for _, d := range list(r.w, apps.Deployment, p.Namespace) {
			if metav1.IsControlledBy(rs, d) {
				return d
			}
		}
	}
	return nil
}

// available checks that a controller did not take a pod of a deployment that was needed.
func (r *rules) available(was *corev1.Pod, pods []*corev1.Pod) {
	d := r.deploymentOf(was)
	if d == nil || d.DeletionTimestamp != nil || time.Since(r.since[was.UID]) <= stale { // it may have been taken as one that is not ready
		return
	}
	sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		r.broken("%v", err)
		return
	}
	in := func(p *corev1.Pod) bool { return p.Namespace == d.Namespace && sel.Matches(labels.Set(p.Labels)) }
	n := r.had(pods, in)
	least := *d.Spec.Replicas
	if l := r.wanted[d.UID]; len(l) > 0 && time.Since(l[len(l)-1].at) <= stale {
		return // another number is taken from all revisions in proportion, ready or not
	}
	surge, missing := bound(d.Spec.Strategy.RollingUpdate.MaxSurge, least, true), bound(d.Spec.Strategy.RollingUpdate.MaxUnavailable, least, false)
	if surge == 0 && missing == 0 {
		missing = 1
	}
	if n < least-missing {
		sets := ""
		for _, rs := range list(r.w, apps.ReplicaSet, d.Namespace) {
			if metav1.IsControlledBy(rs, d) {
				sets += fmt.Sprintf("\n  %s: %d wanted, %s, %+v", rs.Name, *rs.Spec.Replicas, rs.Spec.Template.Spec.Containers[0].Image, rs.Status)
			}
		}
		r.broken("%s was taken from %s, of which %d are or were lately available; %d are wanted, %d may be missing\n%+v %s%s",
			was.Name, d.Name, n, least, missing, d.Spec.Strategy.RollingUpdate, d.Spec.Template.Spec.Containers[0].Image, sets)
	}
}

// budgets checks that an eviction was one that the budget allows.
func (r *rules) budgets(was *corev1.Pod, pods []*corev1.Pod) {
	for _, b := range list(r.w, policy.PodDisruptionBudget, was.Namespace) {
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !sel.Matches(labels.Set(was.Labels)) {
			continue
		}
		in := func(p *corev1.Pod) bool { return p.Namespace == was.Namespace && sel.Matches(labels.Set(p.Labels)) }
		n := r.had(pods, in)
		if least := int32(b.Spec.MinAvailable.IntValue()); n < least {
			r.broken("%s was evicted, and of %s only %d of %d are or were lately ready", was.Name, b.Name, n, least)
		}
	}
}

// evicted checks that a pod was not sent away from a node that is well.
func (r *rules) evicted(was *corev1.Pod) {
	for _, m := range r.w.nodes {
		if m.name == was.Spec.NodeName && m.agent != nil && !m.healthy.IsZero() && time.Since(m.healthy) > 2*stale {
			if c := core.PodCondition(was, corev1.DisruptionTarget); c.Reason == "DeletionByTaintManager" || c.Reason == "DeletionByPodGC" {
				r.broken("%s was taken from %s (%s), which has been well since %s", was.Name, m.name, c.Reason, m.healthy.Format(time.TimeOnly))
			}
		}
	}
}

// addresses checks that no address and no port is given twice.
func (r *rules) addresses() {
	ips, ports := map[string]string{}, map[int32]string{}
	for _, s := range list(r.w, core.Service, "") {
		if ip := s.Spec.ClusterIP; ip != "" && ip != "None" {
			if ips[ip] != "" {
				r.broken("%s and %s have address %s", ips[ip], s.Name, ip)
			}
			ips[ip] = s.Name
		}
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 && ports[p.NodePort] != "" {
				r.broken("%s and %s have port %d", ports[p.NodePort], s.Name, p.NodePort)
			}
			ports[p.NodePort] = s.Name
		}
	}
}

func (r *rules) subnets() {
	nets := map[string]string{}
	for _, n := range list(r.w, core.Node, "") {
		if c := n.Spec.PodCIDR; c != "" {
			if nets[c] != "" {
				r.broken("%s and %s have the subnet %s", nets[c], n.Name, c)
			}
			nets[c] = n.Name
		}
	}
}

// crons checks that a cron job that forbids it has one job at a time.
func (r *rules) crons() {
	active := map[string]int{}
	for _, j := range list(r.w, batch.Job, "") {
		ref := metav1.GetControllerOf(j)
		if ref == nil || ref.Kind != "CronJob" || j.Status.CompletionTime != nil || failed(j.Status.Conditions) || j.DeletionTimestamp != nil {
			continue
		}
		if active[ref.Name]++; active[ref.Name] > 1 {
			r.broken("two jobs of %s at once", ref.Name)
		}
	}
}

// started checks that no pod of a stateful set runs twice, and no pod on two nodes.
func (w *world) started(rt runtime) {
	if rt.a.dead {
		return
	}
	type at struct{ uid, node string }
	runs := map[string]at{}
	for _, m := range w.nodes {
		if m.runtime == nil {
			continue
		}
		cs, err := m.runtime.ListContainers(context.Background(), &v1.ContainerFilter{State: &v1.ContainerStateValue{State: v1.ContainerState_CONTAINER_RUNNING}})
		if err != nil {
			continue
		}
		for _, c := range cs {
			uid, name := c.Labels[cri.LabelPodUID], c.Labels[cri.LabelPodNamespace]+"/"+c.Labels[cri.LabelPodName]
			if was, ok := runs[name]; ok && was != (at{uid, m.name}) {
				w.rules.broken("%s runs as %s on %s and as %s on %s", name, was.uid, was.node, uid, m.name)
			}
			runs[name] = at{uid, m.name}
		}
	}
}
