package controllers

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// Pauses before a failed pod of a daemon set is replaced: the first, and the most.
const (
	daemonFirstPause = time.Second
	daemonMostPause  = 15 * time.Minute
)

// DaemonSet keeps a pod on every node that fits: made for that node, and placed
// there by the scheduler.
//
//	observe: nodes, pods and revisions ──> decide: planDaemons ──> act
func DaemonSet() *control.Controller[*appsv1.DaemonSet] {
	m := &daemons{failed: map[control.Key]map[string]backoff{}}
	selector := func(d *appsv1.DaemonSet) *metav1.LabelSelector { return d.Spec.Selector }
	return &control.Controller[*appsv1.DaemonSet]{
		Name: "daemonset",
		For:  apps.DaemonSet,
		Owns: []api.Definition{core.Pod, apps.ControllerRevision},
		Watches: []control.Watch{
			matching(apps.DaemonSet, core.Pod, selector),
			matching(apps.DaemonSet, apps.ControllerRevision, selector),
			{Kind: core.Node, Keys: everyDaemonSet, When: nodeMatters},
			roomFor(apps.DaemonSet, func(d *appsv1.DaemonSet) bool {
				return d.Status.CurrentNumberScheduled < d.Status.DesiredNumberScheduled
			}),
		},
		Writes:    []api.Definition{core.Pod, apps.ControllerRevision},
		Reconcile: m.reconcile,
		Finalize: func(_ context.Context, _ *control.Cluster, key control.Key) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.failed, key)
			return nil
		},
	}
}

func everyDaemonSet(c *control.Cluster, _ api.Object) (keys []control.Key) {
	for _, d := range control.All(c, apps.DaemonSet, "") {
		keys = append(keys, control.KeyOf(d))
	}
	return keys
}

// nodeMatters says whether a change of a node may change where daemons run; a
// heartbeat does not.
func nodeMatters(old, new api.Object) bool {
	a, b := old.(*corev1.Node), new.(*corev1.Node)
	return !maps.Equal(a.Labels, b.Labels) || !equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) || a.UID != b.UID
}

// daemons remembers which nodes' pods failed lately.
type daemons struct {
	mu     sync.Mutex
	failed map[control.Key]map[string]backoff // by daemon set and node
}

type backoff struct {
	last  time.Time // when a pod was replaced
	pause time.Duration
}

// A daemonRun is one look at a daemon set.
type daemonRun struct {
	c       *control.Cluster
	set     *appsv1.DaemonSet
	history history[*appsv1.DaemonSet]
	nodes   []fit
	pods    []*corev1.Pod
	hash    string // of the new revision
}

func (m *daemons) reconcile(ctx context.Context, c *control.Cluster, d *appsv1.DaemonSet) (time.Duration, error) {
	sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return 0, nil
	}
	if sel.Empty() {
		c.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	pods, err := claim(ctx, c, apps.DaemonSet, core.Pod, d, sel)
	if err != nil || d.DeletionTimestamp != nil {
		return 0, err
	}
	r := &daemonRun{c: c, set: d, pods: pods, nodes: daemonFits(d, control.All(c, core.Node, ""))}
	r.history = history[*appsv1.DaemonSet]{c: c, kind: apps.DaemonSet, owner: d, template: &d.Spec.Template,
		hashLabel: appsv1.DefaultDaemonSetUniqueLabelKey, collisions: d.Status.CollisionCount}
	if err := r.history.load(ctx, sel); err != nil {
		return 0, err
	}
	newest, failed := r.history.newest(ctx)
	again := time.Duration(0)
	if failed == nil {
		r.hash = newest.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
		again, failed = m.advance(ctx, r)
		r.pods = control.Owned(c, core.Pod, d.UID)
	}
	status, wait := daemonStatus(r, c.Now())
	if _, err := control.SetStatus(ctx, c, apps.DaemonSet, d, func(d *appsv1.DaemonSet) { d.Status = status }); err != nil {
		return 0, ignoreNotFound(err)
	}
	if failed != nil {
		return 0, ignoreTerminating(failed)
	}
	live := map[string]bool{r.hash: true}
	for _, p := range r.pods {
		live[daemonHash(p)] = true
	}
	return sooner(again, wait), r.history.prune(ctx, d.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool {
		return live[r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]]
	})
}

// advance takes the next step, and says when a failed pod may be replaced.
func (m *daemons) advance(ctx context.Context, r *daemonRun) (again time.Duration, err error) {
	plan := planDaemons(r.set, r.nodes, r.pods, r.updated, r.c.Now())
	for _, p := range plan.ended {
		node := targetOf(p)
		if wait := m.mayReplace(control.KeyOf(r.set), node, r.c.Now()); wait > 0 {
			again = sooner(again, wait)
			continue
		}
		if p.Status.Phase == corev1.PodFailed {
			r.c.Eventf(r.set, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", p.Namespace, p.Name, node)
		} else {
			r.c.Eventf(r.set, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", p.Namespace, p.Name, node)
		}
		plan.remove = append(plan.remove, p)
	}
	if err := deletePods(ctx, r.c, r.set, plan.remove[:min(len(plan.remove), burst)]); err != nil {
		return 0, err
	}
	n := min(len(plan.create), burst)
	_, err = createPods(ctx, r.c, r.set, n, func(i int) *corev1.Pod { return r.pod(plan.create[i]) })
	return again, err
}

// mayReplace is the time left until the pod of a node, which has failed, may be
// replaced. If there is none, that counts as done.
func (m *daemons) mayReplace(set control.Key, node string, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed[set] == nil {
		m.failed[set] = map[string]backoff{}
	}
	b := m.failed[set][node]
	if left := b.last.Add(b.pause).Sub(now); left > 0 {
		return left
	}
	if now.Sub(b.last) > 2*daemonMostPause {
		b.pause = 0
	}
	m.failed[set][node] = backoff{now, max(min(2*b.pause, daemonMostPause), daemonFirstPause)}
	return 0
}

// pod makes the pod for a node.
func (r *daemonRun) pod(node string) *corev1.Pod {
	p := fromTemplate(&r.set.Spec.Template, r.set, control.OwnerRef(apps.DaemonSet, r.set))
	metav1.SetMetaDataLabel(&p.ObjectMeta, appsv1.DefaultDaemonSetUniqueLabelKey, r.hash)
	p.Spec.Tolerations = daemonTolerations(&p.Spec)
	aim(&p.Spec, node)
	return p
}

// updated says whether a pod is of the template as it is now.
func (r *daemonRun) updated(p *corev1.Pod) bool { return r.history.fresh[daemonHash(p)] }

func daemonHash(p *corev1.Pod) string { return p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] }

// aim has the scheduler place a pod on one node. What the pod requires of its
// node otherwise has been looked at already.
func aim(s *corev1.PodSpec, node string) {
	if s.Affinity == nil {
		s.Affinity = &corev1.Affinity{}
	}
	if s.Affinity.NodeAffinity == nil {
		s.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}
}

// targetOf is the node that a pod is on, or was made for; empty if that is not to be told.
func targetOf(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range t.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// daemonTolerations are those of a daemon's pod: it bears what a node goes
// through, for it may be what mends it.
func daemonTolerations(s *corev1.PodSpec) []corev1.Toleration {
	out := slices.Clone(s.Tolerations)
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		same := func(o corev1.Toleration) bool {
			return o.Key == key && o.Operator == t.Operator && o.Effect == effect
		}
		if i := slices.IndexFunc(out, same); i >= 0 {
			out[i] = t
		} else {
			out = append(out, t)
		}
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if s.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return out
}
