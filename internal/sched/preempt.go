package sched

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// A Preemption says how many nodes are looked at before the best is chosen: the
// larger of a part in hundredths and a number.
type Preemption struct {
	Percent, Nodes int
}

// A Plan is which pods are to leave a node so that another can come.
type Plan struct {
	Node       *Node
	Victims    []*Pod // the most important first
	Violations int    // of disruption budgets

	weight   int64     // of all victims together
	earliest time.Time // when the first of the most important victims started
}

// A Budget is a PodDisruptionBudget.
type Budget struct {
	namespace string
	pods      labels.Selector
	left      int32
	disrupted map[string]metav1.Time // pods that it has counted already
}

// Budgets are the disruption budgets of the cluster.
type Budgets struct {
	all     map[string]*Budget
	version uint64
}

// Set takes in a budget, or forgets it.
func (b *Budgets) Set(p *policyv1.PodDisruptionBudget, gone bool) {
	key := ObjectKey(p.Namespace, p.Name)
	b.version++
	sel, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
	if gone || err != nil {
		delete(b.all, key)
		return
	}
	if b.all == nil {
		b.all = map[string]*Budget{}
	}
	b.all[key] = &Budget{p.Namespace, sel, p.Status.DisruptionsAllowed, p.Status.DisruptedPods}
}

// violating divides pods into those whose leaving breaks a budget, if they leave
// in this order, and the others.
func (b *Budgets) violating(pods []*Pod) (bad, good []*Pod) {
	if len(b.all) == 0 {
		return nil, pods
	}
	left := map[*Budget]int32{}
	for _, p := range pods {
		broken := false
		for _, k := range b.all {
			if _, counted := k.disrupted[p.Name]; counted || k.namespace != p.Namespace || !k.pods.Matches(labels.Set(p.Labels)) {
				continue
			}
			if _, ok := left[k]; !ok {
				left[k] = k.left
			}
			left[k]--
			broken = broken || left[k] < 0
		}
		if broken {
			bad = append(bad, p)
		} else {
			good = append(good, p)
		}
	}
	return bad, good
}

// A memo is what [Placer.room] said of a node.
type memo struct {
	version, budgets uint64
	priority         int32
	plan             *Plan
}

// Preempt finds the node where making room for the pod does least harm, or says
// in fail.More why there is none.
func (p *Placer) Preempt(pod *Pod, s *State, how Preemption, fail *Failure) *Plan {
	if why := stays(pod, s, fail); why != "" {
		fail.More = why
		return nil
	}
	if fail.Refused != "" || fail.Error != "" || fail.Final >= fail.Nodes || !s.less(pod.Priority) {
		fail.More = fail.hopeless()
		return nil
	}
	n := len(s.Nodes)
	enough := max(n*how.Percent/100, how.Nodes, 1)
	start := p.Rand.IntN(n)
	var best *Plan
	found := 0
	for i := range n {
		node := s.Nodes[(start+i)%n]
		plan := p.roomOn(pod, s, node, fail)
		if plan == nil {
			continue
		}
		if best == nil || plan.better(best) {
			best = plan
		}
		if found++; found >= enough && best.Violations == 0 {
			break
		}
	}
	if best == nil {
		fail.More = fail.hopeless()
	}
	return best
}

// stays says why nothing is to make room for a pod now: it may not ask for that, or
// others leave for it already a node that will have it then.
func stays(pod *Pod, s *State, fail *Failure) string {
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	n := s.Node(s.Nominated(pod.UID))
	if n == nil {
		return ""
	}
	if _, v := refusal(fail.asks, n); v.Final {
		return ""
	}
	for _, o := range n.Pods {
		if o.Priority < pod.Priority && (o.DeletionTimestamp != nil || s.leaving[o.UID]) {
			return "not eligible due to a terminating pod on the nominated node."
		}
	}
	return ""
}

func (f *Failure) hopeless() string {
	if f.Refused != "" {
		f.Final = f.Nodes
	}
	text := fmt.Sprintf("0/%d nodes are available: ", f.Nodes)
	const no, never = "%d No preemption victims found for incoming pod", "%d Preemption is not helpful for scheduling"
	switch open := f.Nodes - f.Final; {
	case f.Final == 0:
		return text + fmt.Sprintf(no, open) + "."
	case open == 0:
		return text + fmt.Sprintf(never, f.Final) + "."
	default:
		return text + fmt.Sprintf(no, open) + ", " + fmt.Sprintf(never, f.Final) + "."
	}
}

// roomOn is room, from the sheet if it says so there.
func (p *Placer) roomOn(pod *Pod, s *State, n *Node, fail *Failure) *Plan {
	sh := fail.sheet
	if sh == nil || !sh.ranked {
		if _, v := refusal(fail.asks, n); v.Final {
			return nil
		}
		return room(fail.asks, pod, s, n)
	}
	if sh.why[n.Index].Final {
		return nil
	}
	if sh.rooms == nil {
		sh.rooms = make([]memo, len(s.Nodes))
	}
	if s.Nominated(pod.UID) == n.name { // what is kept for others is the same for all that are alike, but for this one
		return room(fail.asks, pod, s, n)
	}
	m := &sh.rooms[n.Index]
	if m.version != n.version || m.budgets != s.Budgets.version || m.priority != pod.Priority {
		*m = memo{n.version, s.Budgets.version, pod.Priority, room(fail.asks, pod, s, n)}
	}
	return m.plan
}

// room finds the fewest and least important pods that would have to leave a
// node for the pod to fit; nil if that does not help. First all that are less
// important go, then as many as possible come back: those first that a budget
// protects, the more important before the others.
func room(asks []question, pod *Pod, s *State, n *Node) *Plan {
	var less []*Pod
	for _, o := range n.Pods {
		if o.Priority < pod.Priority {
			less = append(less, o)
		}
	}
	if len(less) == 0 {
		return nil
	}
	slices.SortFunc(less, byImportance)
	c := n.copy()
	away := map[*Pod]bool{}
	leave := func(o *Pod) {
		c.remove(o)
		without(asks, o, c)
		away[o] = true
	}
	back := func(o *Pod) {
		c.add(o)
		with(asks, o, c)
		delete(away, o)
	}
	defer func() {
		for o := range away {
			with(asks, o, c)
		}
	}()
	good := func() bool {
		_, v := objection(asks, pod, c)
		return v.OK()
	}
	for _, o := range less {
		leave(o)
	}
	if !good() {
		return nil
	}
	plan := &Plan{Node: n}
	spare := func(all []*Pod, cost int) {
		for _, o := range all {
			if back(o); !good() {
				leave(o)
				plan.Victims = append(plan.Victims, o)
				plan.Violations += cost
			}
		}
	}
	protected, others := s.Budgets.violating(less)
	spare(protected, 1)
	spare(others, 0)
	slices.SortStableFunc(plan.Victims, byImportance)
	plan.weigh()
	return plan
}

// byImportance puts the pod that is to be kept first.
func byImportance(a, b *Pod) int {
	if a.Priority != b.Priority {
		if a.Priority > b.Priority {
			return -1
		}
		return 1
	}
	if d := started(a).Compare(started(b)); d != 0 {
		return d
	}
	if a.UID < b.UID {
		return -1
	}
	return 1
}

func started(p *Pod) time.Time {
	if p.Status.StartTime != nil {
		return p.Status.StartTime.Time
	}
	return p.CreationTimestamp.Time
}

// better compares by harm: broken budgets, the most important victim, all
// victims together, their number, and how long the most important have run.
func (a *Plan) better(b *Plan) bool {
	if a.Violations != b.Violations {
		return a.Violations < b.Violations
	}
	if len(a.Victims) == 0 || len(b.Victims) == 0 {
		return len(a.Victims) < len(b.Victims)
	}
	if x, y := a.Victims[0].Priority, b.Victims[0].Priority; x != y {
		return x < y
	}
	if x, y := a.weight, b.weight; x != y {
		return x < y
	}
	if x, y := len(a.Victims), len(b.Victims); x != y {
		return x < y
	}
	return a.earliest.After(b.earliest)
}

// weigh works out what plans are compared by, once: a plan is compared often.
func (a *Plan) weigh() {
	for i, v := range a.Victims {
		a.weight += int64(v.Priority) + 1<<31
		if at := started(v); v.Priority == a.Victims[0].Priority && (i == 0 || at.Before(a.earliest)) {
			a.earliest = at
		}
	}
}

// displaced are the pods that were to come to the node and are less important.
func (s *State) displaced(n *Node, priority int32) (out []*Pod) {
	for _, o := range n.nominated {
		if o.Priority < priority {
			out = append(out, o)
		}
	}
	return out
}

// less says whether any pod on a node is less important.
func (s *State) less(priority int32) bool {
	for at := range s.priorities {
		if at < priority {
			return true
		}
	}
	return false
}
