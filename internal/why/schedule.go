package why

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"

	"proa/internal/kinds/core"
)

// unscheduled explains why a pod has no node.
func (a *asker) unscheduled(p *corev1.Pod) *Cause {
	c := is("pod/"+p.Name, "it has no node yet").since(p.CreationTimestamp.Time)
	if len(p.Spec.SchedulingGates) > 0 {
		var names []string
		for _, g := range p.Spec.SchedulingGates {
			names = append(names, g.Name)
		}
		return c.as(is("", "it is not to be scheduled while it has scheduling gates: %s", strings.Join(names, ", ")).since(p.CreationTimestamp.Time).
			help("see what should open %s; it takes the gate out of spec.schedulingGates", strings.Join(names, " and ")))
	}
	cond := core.PodCondition(p, corev1.PodScheduled)
	if cond == nil || cond.Status != corev1.ConditionFalse {
		name := p.Spec.SchedulerName
		if e := a.last(p.UID, reasons("FailedScheduling")); e != nil {
			return c.as(is("", "the scheduler %s says: %s", name, oneLine(e.Message)).since(firstSeen(e)))
		}
		if name != "" && name != corev1.DefaultSchedulerName {
			return c.as(is("", "no scheduler of the name %s has looked at it", name).since(p.CreationTimestamp.Time).
				help("start the scheduler %s, or make the pod anew with schedulerName: %s", name, corev1.DefaultSchedulerName))
		}
		if len(p.Spec.ResourceClaims) > 0 {
			if c.as(a.unallotted(p)...); len(c.Causes) > 0 {
				return c
			}
		}
		return c.as(is("", "the scheduler has not looked at it yet").since(p.CreationTimestamp.Time))
	}
	if cond.Reason != corev1.PodReasonUnschedulable {
		return c.as(is("", "%s%s", cond.Reason, said(cond.Message)).since(cond.LastTransitionTime.Time))
	}
	c.since(cond.LastTransitionTime.Time)
	reasons := parseReasons(cond.Message)
	if len(reasons) == 0 {
		return c.as(is("", "the scheduler says%s", said(cond.Message)))
	}
	for _, r := range reasons {
		c.as(a.unfit(p, r))
	}
	if p.Status.NominatedNodeName != "" {
		c.as(is("", "less important pods are leaving node %s to make room for it", p.Status.NominatedNodeName))
	}
	return c
}

// A reason is why so many nodes do not do. It has no nodes if it is about none in particular.
type reason struct {
	nodes, of int
	text      string
}

var (
	available  = regexp.MustCompile(`^0/(\d+) nodes are available: ?`)
	nextReason = regexp.MustCompile(`, (\d+ )`)
	numbered   = regexp.MustCompile(`^(\d+) (.+)$`)
)

// parseReasons reads the scheduler's message.
func parseReasons(message string) (out []reason) {
	message, _, _ = strings.Cut(message, " preemption: ")
	of := 0
	if m := available.FindStringSubmatch(message); m != nil {
		of, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
	}
	message = strings.TrimSuffix(strings.TrimSpace(message), ".")
	if message == "" && of == 0 {
		return nil
	}
	if message == "" {
		return []reason{{of: of}}
	}
	for _, part := range strings.Split(nextReason.ReplaceAllString(message, "\x00$1"), "\x00") {
		r := reason{of: of, text: part}
		if m := numbered.FindStringSubmatch(part); m != nil {
			r.nodes, _ = strconv.Atoi(m[1])
			r.text = m[2]
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(x, y reason) int { return cmp.Compare(y.nodes, x.nodes) })
	return out
}

// unfit explains one of the scheduler's reasons.
func (a *asker) unfit(p *corev1.Pod, r reason) *Cause {
	on := ""
	if r.nodes > 0 {
		on = fmt.Sprintf("%d of %d nodes: ", r.nodes, max(r.of, r.nodes))
	}
	at := func(format string, args ...any) *Cause { return is("", "%s%s", on, fmt.Sprintf(format, args...)) }
	has := func(s string) bool { return strings.Contains(r.text, s) }
	switch {
	case r.text == "" || strings.HasPrefix(r.text, "no nodes available"):
		return at("there are no nodes").help("start a node")
	case strings.HasPrefix(r.text, "Insufficient "):
		return a.tooMuch(p, corev1.ResourceName(strings.TrimPrefix(r.text, "Insufficient ")), at)
	case has("Too many pods"):
		return at("they have as many pods as they may").help("delete pods, add a node, or allow the nodes more pods")
	case has("untolerated taint"):
		return a.tainted(p, at)
	case has("were unschedulable"):
		names := a.nodesThat(func(n *corev1.Node) bool { return n.Spec.Unschedulable })
		c := at("they are cordoned%s", listed(names))
		if len(names) > 0 {
			return c.help("kubectl uncordon %s", strings.Join(names[:min(3, len(names))], " "))
		}
		return c.help("kubectl uncordon one of them")
	case has("node affinity/selector"):
		return a.unselected(p, at)
	case has("requested node name"):
		return at("they are not the node that it names")
	case has("free ports"):
		return at("another pod has its host ports %s", some(hostPorts(p))).help("choose other hostPorts, or do without (a Service does not need them)")
	case has("anti-affinity"):
		text := "a pod runs there that it keeps away from (podAntiAffinity)"
		if has("existing pods") {
			text = "a pod runs there that keeps away from pods like it (podAntiAffinity)"
		}
		return at("%s", text).help("add a node, have fewer replicas, or make the rule preferred instead of required")
	case has("pod affinity rules"):
		return at("no pod runs there that it wants to be beside (podAffinity)").help("see whether pods run that its podAffinity selects, or make the rule preferred instead of required")
	case has("topology spread"):
		text := "it would not be spread evenly enough (topologySpreadConstraints)"
		if has("missing required label") {
			text = "they lack the label by which it is to be spread (topologySpreadConstraints)"
		}
		return at("%s", text).help("raise maxSkew, set whenUnsatisfiable: ScheduleAnyway, or label or add nodes")
	case has("cannot allocate all claims"):
		return at("they do not have the devices that its resource claims ask for%s", said(strings.TrimPrefix(strings.TrimPrefix(r.text, "cannot allocate all claims"), ": "))).as(a.unallotted(p)...)
	case has("resourceclaim"):
		return at("its resource claims are not ready%s", said(strings.TrimPrefix(r.text, "resourceclaim not available on the node"))).as(a.unallotted(p)...)
	case has("persistentvolumeclaim"), has("PersistentVolumeClaims"), has("storageclass"):
		c := at("its volumes are not ready%s", said(r.text))
		return c.as(a.claimsOf(p)...)
	case has("volume node affinity"), has("PersistentVolume's node affinity"):
		return at("its volume cannot be reached from there").as(a.claimsOf(p)...).help("see where its volume is (kubectl get pv -o yaml, nodeAffinity), and make room for it on that node")
	case has("persistent volumes to bind"), has("enough free storage"), has("non-existent pv"):
		return at("%s", strings.TrimPrefix(r.text, "node(s) ")).as(a.claimsOf(p)...).help("make a persistent volume that its claims can have there, or give them a storage class that makes some")
	case has("max volume count"):
		return at("they have as many volumes as they may").help("add a node")
	}
	return at("%s", oneLine(strings.TrimPrefix(r.text, "node(s) ")))
}

func listed(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ": " + some(names)
}

// nodesThat names the nodes of which something is true.
func (a *asker) nodesThat(is func(*corev1.Node) bool) (out []string) {
	nodes, _ := list(a, core.Node, "")
	for _, n := range nodes {
		if is(n) {
			out = append(out, n.Name)
		}
	}
	return out
}

func hostPorts(p *corev1.Pod) (out []string) {
	for _, k := range p.Spec.Containers {
		for _, port := range k.Ports {
			if port.HostPort > 0 {
				out = append(out, strconv.Itoa(int(port.HostPort)))
			}
		}
	}
	return out
}

// tooMuch explains a lack of a resource: how much is asked for, and how much there is.
func (a *asker) tooMuch(p *corev1.Pod, name corev1.ResourceName, at func(string, ...any) *Cause) *Cause {
	need := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})[name]
	const help = "ask for less %s (resources.requests), delete or shrink other pods, or add a node"
	nodes, seen := list(a, core.Node, "")
	var whole resource.Quantity
	for _, n := range nodes {
		if q := n.Status.Allocatable[name]; q.Cmp(whole) > 0 {
			whole = q.DeepCopy()
		}
	}
	if seen && need.Cmp(whole) > 0 {
		return at("it asks for %s of %s, more than any node has (%s at most)", need.String(), name, whole.String()).
			help("ask for at most %s of %s (resources.requests), or add a bigger node", whole.String(), name)
	}
	most, where := a.mostFree(nodes, name)
	if where == "" {
		return at("less %s is free than the %s that it asks for", name, need.String()).help(help, name)
	}
	return at("it asks for %s of %s; the most that a node has free is %s (%s)", need.String(), name, most.String(), where).help(help, name)
}

// mostFree finds the node that has most of a resource free; none if that is not known.
func (a *asker) mostFree(nodes []*corev1.Node, name corev1.ResourceName) (most resource.Quantity, where string) {
	pods, ok := list(a, core.Pod, "")
	if !ok {
		return most, ""
	}
	used := map[string]resource.Quantity{}
	for _, o := range pods {
		if o.Spec.NodeName == "" || core.PodFinished(o) {
			continue
		}
		q := used[o.Spec.NodeName]
		q.Add(resourcehelper.PodRequests(o, resourcehelper.PodResourcesOptions{})[name])
		used[o.Spec.NodeName] = q
	}
	for _, n := range nodes {
		free := n.Status.Allocatable[name].DeepCopy()
		free.Sub(used[n.Name])
		if where == "" || free.Cmp(most) > 0 {
			most, where = free, n.Name
		}
	}
	return most, where
}

// tainted explains the taints that a pod does not tolerate.
func (a *asker) tainted(p *corev1.Pod, at func(string, ...any) *Cause) *Cause {
	nodes, _ := list(a, core.Node, "")
	taints := map[string]bool{}
	var ill []*Cause
	own := false
	for _, n := range nodes {
		for i := range n.Spec.Taints {
			t := &n.Spec.Taints[i]
			if t.Effect == corev1.TaintEffectPreferNoSchedule || tolerated(p, t) {
				continue
			}
			if t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable {
				ill = append(ill, a.node(n))
			} else {
				own = true
			}
			taints[t.ToString()] = true
		}
	}
	c := at("they have taints that it does not tolerate%s", listed(slices.Sorted(maps.Keys(taints)))).as(gather(ill)...)
	if own || len(ill) == 0 {
		c.help("give the pod a toleration, or take the taint away: kubectl taint node NODE KEY-")
	}
	return c
}

func tolerated(p *corev1.Pod, t *corev1.Taint) bool {
	return slices.ContainsFunc(p.Spec.Tolerations, func(o corev1.Toleration) bool { return o.ToleratesTaint(klog.Background(), t, true) })
}

// unselected explains a node selector or node affinity that no node meets.
func (a *asker) unselected(p *corev1.Pod, at func(string, ...any) *Cause) *Cause {
	sel := p.Spec.NodeSelector
	if len(sel) == 0 {
		return at("they are not what its node affinity asks for").help("label a node as its nodeAffinity asks, or change the rule")
	}
	c := at("they lack the labels of its node selector, %s", labels.FormatLabels(sel))
	for _, k := range slices.Sorted(maps.Keys(sel)) {
		has := map[string]bool{}
		nodes, ok := list(a, core.Node, "")
		for _, n := range nodes {
			if v, is := n.Labels[k]; is {
				has[k+"="+v] = true
			}
		}
		switch {
		case !ok || has[k+"="+sel[k]]:
		case len(has) == 0:
			c.as(is("", "no node has a label %s", k))
		default:
			c.as(is("", "no node has %s=%s; there are %s", k, sel[k], some(slices.Sorted(maps.Keys(has)))))
		}
	}
	return c.help("label a node (kubectl label node NODE %s), or change the node selector", strings.ReplaceAll(labels.FormatLabels(sel), ",", " "))
}
