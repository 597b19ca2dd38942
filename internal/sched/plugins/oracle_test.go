package plugins_test

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A world is what the oracle knows: no index, no cache, every question answered
// by looking at everything again. It shares no code with the scheduler.
type world struct {
	nodes    []*corev1.Node
	pods     []*corev1.Pod // with spec.nodeName
	coming   []*corev1.Pod // nominated, with spec.nodeName; they have priorities
	spaces   map[string]map[string]string
	services map[string]map[string]map[string]string // selectors by namespace and name
}

func (w *world) on(node string) (out []*corev1.Pod) {
	for _, p := range w.pods {
		if p.Spec.NodeName == node {
			out = append(out, p)
		}
	}
	return out
}

func selects(s *metav1.LabelSelector, l map[string]string) bool {
	if s == nil {
		return false
	}
	for k, v := range s.MatchLabels {
		if l[k] != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		if !holds(string(e.Operator), l, e.Key, e.Values) {
			return false
		}
	}
	return true
}

func holds(op string, l map[string]string, key string, values []string) bool {
	v, ok := l[key]
	switch op {
	case "In":
		return ok && slices.Contains(values, v)
	case "NotIn":
		return !ok || !slices.Contains(values, v)
	case "Exists":
		return ok
	case "DoesNotExist":
		return !ok
	}
	panic(op)
}

func nodeMatches(terms []corev1.NodeSelectorTerm, n *corev1.Node) bool {
	for _, t := range terms {
		all := len(t.MatchExpressions) > 0
		for _, e := range t.MatchExpressions {
			all = all && holds(string(e.Operator), n.Labels, e.Key, e.Values)
		}
		if all {
			return true
		}
	}
	return false
}

func wantsNode(p *corev1.Pod, n *corev1.Node) bool {
	for k, v := range p.Spec.NodeSelector {
		if got, ok := n.Labels[k]; !ok || got != v {
			return false
		}
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		return nodeMatches(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, n)
	}
	return true
}

func bears(p *corev1.Pod, t corev1.Taint) bool {
	for _, o := range p.Spec.Tolerations {
		if (o.Effect == "" || o.Effect == t.Effect) && (o.Key == "" && o.Operator == "Exists" || o.Key == t.Key && (o.Operator == "Exists" || o.Value == t.Value)) {
			return true
		}
	}
	return false
}

func bearsAll(p *corev1.Pod, n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !bears(p, t) {
			return false
		}
	}
	return true
}

// asks is a pod's request; with assume, containers that ask for nothing count for a little.
func asks(p *corev1.Pod, name corev1.ResourceName, assume bool) (sum int64) {
	for _, c := range p.Spec.Containers {
		q, ok := c.Resources.Requests[name]
		v := q.Value()
		if name == corev1.ResourceCPU {
			v = q.MilliValue()
		}
		if !ok && assume && name == corev1.ResourceCPU {
			v = 100
		} else if !ok && assume {
			v = 200 * 1024 * 1024
		}
		sum += v
	}
	return sum
}

func has(n *corev1.Node, name corev1.ResourceName) int64 {
	q := n.Status.Allocatable[name]
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func (w *world) used(n *corev1.Node, name corev1.ResourceName, assume bool) (sum int64) {
	for _, p := range w.on(n.Name) {
		sum += asks(p, name, assume)
	}
	return sum
}

// feasible says whether the pod may go to the node: with those that are to come
// there and are as important, and without them.
func (w *world) feasible(p *corev1.Pod, n *corev1.Node) bool {
	if !w.fits(p, n) {
		return false
	}
	with := *w
	with.pods = slices.Clone(w.pods)
	for _, c := range w.coming {
		if c.Spec.NodeName == n.Name && c.UID != p.UID && *c.Spec.Priority >= *p.Spec.Priority {
			with.pods = append(with.pods, c)
		}
	}
	return len(with.pods) == len(w.pods) || with.fits(p, n)
}

func (w *world) fits(p *corev1.Pod, n *corev1.Node) bool {
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if n.Spec.Unschedulable && !bears(p, cordon) || !bearsAll(p, n) || !wantsNode(p, n) {
		return false
	}
	if int64(len(w.on(n.Name))) >= has(n, corev1.ResourcePods) {
		return false
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, "example.com/x"} {
		if a := asks(p, name, false); a > 0 && a+w.used(n, name, false) > has(n, name) {
			return false
		}
	}
	for _, o := range w.on(n.Name) {
		if portsClash(p, o) {
			return false
		}
	}
	return w.spreads(p, n) && w.near(p, n)
}

func portsClash(a, b *corev1.Pod) bool {
	for _, x := range a.Spec.Containers[0].Ports {
		for _, y := range b.Spec.Containers[0].Ports {
			if x.HostPort != 0 && x.HostPort == y.HostPort && (x.HostIP == "" || y.HostIP == "" || x.HostIP == y.HostIP) {
				return true
			}
		}
	}
	return false
}

// A spreadRule is a constraint with what it counts.
type spreadRule struct {
	corev1.TopologySpreadConstraint
	matches func(*corev1.Pod) bool
}

func (w *world) rules(p *corev1.Pod, hard bool) (out []spreadRule, system bool) {
	for _, c := range p.Spec.TopologySpreadConstraints {
		if hard == (c.WhenUnsatisfiable == corev1.DoNotSchedule) {
			out = append(out, spreadRule{c, func(o *corev1.Pod) bool {
				ok := o.Namespace == p.Namespace && o.DeletionTimestamp == nil && selects(c.LabelSelector, o.Labels)
				for _, k := range c.MatchLabelKeys {
					if v, has := p.Labels[k]; has {
						got, there := o.Labels[k]
						ok = ok && there && got == v
					}
				}
				return ok
			}})
		}
	}
	if len(p.Spec.TopologySpreadConstraints) > 0 || hard {
		return out, false
	}
	all := map[string]string{}
	for _, sel := range w.services[p.Namespace] {
		if selects(&metav1.LabelSelector{MatchLabels: sel}, p.Labels) {
			for k, v := range sel {
				all[k] = v
			}
		}
	}
	if len(all) == 0 {
		return nil, true
	}
	for key, skew := range map[string]int32{corev1.LabelHostname: 3, corev1.LabelTopologyZone: 5} {
		out = append(out, spreadRule{corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: skew}, func(o *corev1.Pod) bool {
			return o.Namespace == p.Namespace && o.DeletionTimestamp == nil && selects(&metav1.LabelSelector{MatchLabels: all}, o.Labels)
		}})
	}
	return out, true
}

// domains counts the pods of each domain among the nodes that take part.
func (w *world) domains(p *corev1.Pod, r spreadRule, all []spreadRule, strict bool) map[string]int {
	out := map[string]int{}
	for _, n := range w.nodes {
		v, ok := n.Labels[r.TopologyKey]
		for _, o := range all {
			if _, has := n.Labels[o.TopologyKey]; strict && !has {
				ok = false
			}
		}
		if (r.NodeAffinityPolicy == nil || *r.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor) && !wantsNode(p, n) {
			ok = false
		}
		if r.NodeTaintsPolicy != nil && *r.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor && !bearsAll(p, n) {
			ok = false
		}
		if !ok {
			continue
		}
		out[v] += 0
		for _, o := range w.on(n.Name) {
			if r.matches(o) {
				out[v]++
			}
		}
	}
	return out
}

func (w *world) spreads(p *corev1.Pod, n *corev1.Node) bool {
	rules, _ := w.rules(p, true)
	for _, r := range rules {
		v, ok := n.Labels[r.TopologyKey]
		if !ok {
			return false
		}
		counts := w.domains(p, r, rules, true)
		least := math.MaxInt
		for _, c := range counts {
			least = min(least, c)
		}
		if len(counts) == 0 || r.MinDomains != nil && len(counts) < int(*r.MinDomains) {
			least = 0
		}
		here := counts[v]
		if r.matches(p) {
			here++
		}
		if here-least > int(r.MaxSkew) {
			return false
		}
	}
	return true
}

// about says whether a term of owner's speaks of o.
func (w *world) about(owner *corev1.Pod, t corev1.PodAffinityTerm, o *corev1.Pod) bool {
	space := slices.Contains(t.Namespaces, o.Namespace) || t.NamespaceSelector != nil && selects(t.NamespaceSelector, w.spaces[o.Namespace]) ||
		len(t.Namespaces) == 0 && t.NamespaceSelector == nil && o.Namespace == owner.Namespace
	if !space || !selects(t.LabelSelector, o.Labels) {
		return false
	}
	for _, k := range t.MatchLabelKeys {
		if v, ok := owner.Labels[k]; ok && !holds("In", o.Labels, k, []string{v}) {
			return false
		}
	}
	for _, k := range t.MismatchLabelKeys {
		if v, ok := owner.Labels[k]; ok && !holds("NotIn", o.Labels, k, []string{v}) {
			return false
		}
	}
	return true
}

func together(a, b *corev1.Node, key string) bool {
	x, ok1 := a.Labels[key]
	y, ok2 := b.Labels[key]
	return ok1 && ok2 && x == y
}

func (w *world) node(name string) *corev1.Node {
	for _, n := range w.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func required(p *corev1.Pod) (near, apart []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			apart = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, apart
}

func preferred(p *corev1.Pod) (out []corev1.WeightedPodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			out = append(out, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution...)
		}
		if a.PodAntiAffinity != nil {
			for _, t := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				t.Weight = -t.Weight
				out = append(out, t)
			}
		}
	}
	return out
}

func (w *world) near(p *corev1.Pod, n *corev1.Node) bool {
	near, apart := required(p)
	everyTerm := func(o *corev1.Pod) bool {
		return !slices.ContainsFunc(near, func(t corev1.PodAffinityTerm) bool { return !w.about(p, t, o) })
	}
	met, anywhere := len(near) > 0, false
	for _, t := range near {
		if _, ok := n.Labels[t.TopologyKey]; !ok {
			return false
		}
		here := false
		for _, o := range w.pods {
			on := w.node(o.Spec.NodeName)
			if on == nil || !everyTerm(o) {
				continue
			}
			if _, ok := on.Labels[t.TopologyKey]; ok {
				anywhere = true
			}
			here = here || together(n, on, t.TopologyKey)
		}
		met = met && here
	}
	if len(near) > 0 && !met && (anywhere || !everyTerm(p)) {
		return false
	}
	for _, o := range w.pods {
		on := w.node(o.Spec.NodeName)
		if on == nil {
			continue
		}
		_, theirs := required(o)
		for _, t := range apart {
			if w.about(p, t, o) && together(n, on, t.TopologyKey) {
				return false
			}
		}
		for _, t := range theirs {
			if w.about(o, t, p) && together(n, on, t.TopologyKey) {
				return false
			}
		}
	}
	return true
}

// scores are the weighted totals of the nodes that will do.
func (w *world) scores(p *corev1.Pod, nodes []*corev1.Node) map[string]int64 {
	total := map[string]int64{}
	add := func(weight int64, one func(*corev1.Node) int64, normalize func([]int64)) {
		var part []int64
		for _, n := range nodes {
			part = append(part, one(n))
		}
		if normalize != nil {
			normalize(part)
		}
		for i, n := range nodes {
			total[n.Name] += weight * part[i]
		}
	}
	add(1, func(n *corev1.Node) int64 { return w.least(p, n) }, nil)
	if asks(p, corev1.ResourceCPU, false)+asks(p, corev1.ResourceMemory, false) > 0 {
		add(1, func(n *corev1.Node) int64 { return w.balance(p, n) }, nil)
	}
	add(1, func(n *corev1.Node) int64 { return w.images(p, n) }, nil)
	add(3, func(n *corev1.Node) (bad int64) {
		for _, t := range n.Spec.Taints {
			if t.Effect == corev1.TaintEffectPreferNoSchedule && !bears(p, t) {
				bad++
			}
		}
		return bad
	}, func(all []int64) {
		most := slices.Max(all)
		for i, v := range all {
			all[i] = 100
			if most > 0 {
				all[i] = 100 - v*100/most
			}
		}
	})
	add(2, func(n *corev1.Node) (sum int64) {
		if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil {
			for _, t := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				if nodeMatches([]corev1.NodeSelectorTerm{t.Preference}, n) {
					sum += int64(t.Weight)
				}
			}
		}
		return sum
	}, func(all []int64) {
		if most := slices.Max(all); most > 0 {
			for i := range all {
				all[i] = all[i] * 100 / most
			}
		}
	})
	add(2, func(n *corev1.Node) int64 { return w.liking(p, n) }, func(all []int64) {
		least, most := slices.Min(all), slices.Max(all)
		for i, v := range all {
			all[i] = 0
			if most > least {
				all[i] = (v - least) * 100 / (most - least)
			}
		}
	})
	if rules, system := w.rules(p, false); len(rules) > 0 {
		add(2, func(n *corev1.Node) int64 { return w.crowd(p, n, rules, !system) }, lessIsMore)
	}
	return total
}

func lessIsMore(all []int64) {
	least, most := int64(math.MaxInt64), int64(0)
	for _, v := range all {
		if v >= 0 {
			least, most = min(least, v), max(most, v)
		}
	}
	for i, v := range all {
		if v < 0 {
			all[i] = 0
		} else if all[i] = 100; most > 0 {
			all[i] = (most + least - v) * 100 / most
		}
	}
}

func (w *world) least(p *corev1.Pod, n *corev1.Node) int64 {
	sum, of := int64(0), int64(0)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		all := has(n, name)
		if all == 0 {
			continue
		}
		of++
		if left := all - w.used(n, name, true) - asks(p, name, true); left > 0 {
			sum += left * 100 / all
		}
	}
	if of == 0 {
		return 0
	}
	return sum / of
}

func (w *world) balance(p *corev1.Pod, n *corev1.Node) int64 {
	var parts []float64
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if all := has(n, name); all > 0 {
			parts = append(parts, math.Min(1, float64(w.used(n, name, false)+asks(p, name, false))/float64(all)))
		}
	}
	if len(parts) < 2 {
		return 100
	}
	return int64((1 - math.Abs(parts[0]-parts[1])/2) * 100)
}

func (w *world) images(p *corev1.Pod, n *corev1.Node) int64 {
	size := func(n *corev1.Node, image string) int64 {
		for _, i := range n.Status.Images {
			if slices.Contains(i.Names, image) {
				return i.SizeBytes
			}
		}
		return 0
	}
	sum := int64(0)
	for _, c := range p.Spec.Containers {
		image := c.Image
		if !strings.Contains(image, ":") {
			image += ":latest"
		}
		on := 0
		for _, o := range w.nodes {
			if size(o, image) > 0 {
				on++
			}
		}
		sum += int64(float64(size(n, image)) * (float64(on) / float64(len(w.nodes))))
	}
	const mb = 1024 * 1024
	low, high := int64(23*mb), int64(1000*mb*len(p.Spec.Containers))
	return 100 * (min(max(sum, low), high) - low) / (high - low)
}

func (w *world) liking(p *corev1.Pod, n *corev1.Node) (sum int64) {
	for _, o := range w.pods {
		on := w.node(o.Spec.NodeName)
		if on == nil {
			continue
		}
		for _, t := range preferred(p) {
			if w.about(p, t.PodAffinityTerm, o) && together(n, on, t.PodAffinityTerm.TopologyKey) {
				sum += int64(t.Weight)
			}
		}
		for _, t := range preferred(o) {
			if w.about(o, t.PodAffinityTerm, p) && together(n, on, t.PodAffinityTerm.TopologyKey) {
				sum += int64(t.Weight)
			}
		}
		near, _ := required(o)
		for _, t := range near {
			if w.about(o, t, p) && together(n, on, t.TopologyKey) {
				sum++
			}
		}
	}
	return sum
}

func (w *world) crowd(p *corev1.Pod, n *corev1.Node, rules []spreadRule, strict bool) int64 {
	sum := 0.0
	// The constraints in the order in which they are written, so that sums of
	// fractions come out the same.
	slices.SortStableFunc(rules, func(a, b spreadRule) int {
		if strict {
			return 0
		}
		return strings.Compare(a.TopologyKey, b.TopologyKey)
	})
	for _, r := range rules {
		v, ok := n.Labels[r.TopologyKey]
		if !ok && strict {
			return -1
		}
		if !ok {
			continue
		}
		counts := w.domains(p, r, rules, strict)
		sum += float64(counts[v])*math.Log(float64(len(counts)+2)) + float64(r.MaxSkew-1)
	}
	return int64(math.Round(sum))
}

// best are the names of the nodes that may be chosen.
func (w *world) best(p *corev1.Pod) (names []string) {
	var will []*corev1.Node
	for _, n := range w.nodes {
		if w.feasible(p, n) {
			will = append(will, n)
		}
	}
	if len(will) == 0 {
		return nil
	}
	total := w.scores(p, will)
	most := int64(math.MinInt64)
	for _, v := range total {
		most = max(most, v)
	}
	for _, n := range will {
		if total[n.Name] == most {
			names = append(names, n.Name)
		}
	}
	return names
}

// without is the world without some pods.
func (w *world) without(gone []*corev1.Pod) *world {
	out := *w
	out.pods = slices.DeleteFunc(slices.Clone(w.pods), func(p *corev1.Pod) bool { return slices.Contains(gone, p) })
	return &out
}

// victims are those that would have to leave a node for the pod to come; nil
// if that does not help.
func (w *world) victims(p *corev1.Pod, n *corev1.Node) (out []*corev1.Pod) {
	for _, o := range w.on(n.Name) {
		if *o.Spec.Priority < *p.Spec.Priority {
			out = append(out, o)
		}
	}
	if len(out) == 0 || !w.without(out).feasible(p, n) {
		return nil
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int {
		if *a.Spec.Priority != *b.Spec.Priority {
			return int(*b.Spec.Priority - *a.Spec.Priority)
		}
		if d := a.Status.StartTime.Compare(b.Status.StartTime.Time); d != 0 {
			return d
		}
		return strings.Compare(string(a.UID), string(b.UID))
	})
	for _, o := range slices.Clone(out) {
		fewer := slices.DeleteFunc(slices.Clone(out), func(x *corev1.Pod) bool { return x == o })
		if w.without(fewer).feasible(p, n) {
			out = fewer
		}
	}
	return out
}

// harm is what decides between nodes, the most important first; less is better.
func harm(victims []*corev1.Pod) [4]int64 {
	h := [4]int64{0, 0, int64(len(victims)), 0}
	if len(victims) == 0 {
		return h
	}
	h[0] = int64(*victims[0].Spec.Priority)
	first := int64(math.MaxInt64)
	for _, v := range victims {
		h[1] += int64(*v.Spec.Priority) + math.MaxInt32 + 1
		if *v.Spec.Priority == *victims[0].Spec.Priority {
			first = min(first, v.Status.StartTime.Unix())
		}
	}
	h[3] = -first
	return h
}
