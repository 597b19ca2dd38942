package why

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
)

func selects(s *metav1.LabelSelector, set map[string]string) bool {
	sel, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && sel.Matches(labels.Set(set))
}

// service explains why a service leads nowhere.
func (a *asker) service(s *corev1.Service) *Cause {
	me := "service/" + s.Name
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return fine(me, "it is another name of %s, outside of the cluster", s.Spec.ExternalName)
	}
	ready, listed := a.endpointsOf(s)
	c := is(me, "%s ready", count(ready, "endpoint")+" "+isAre(ready))
	c.as(a.leaving(s))
	if len(s.Spec.Selector) == 0 {
		switch {
		case ready > 0:
			return fine(me, "all is well: %s", c.Text)
		case listed:
			return c.as(is("", "it has no selector, and no one has made ready endpoints for it").
				help("give the service a selector, or make an EndpointSlice with the label %s: %s", discoveryv1.LabelServiceName, s.Name))
		}
		return c
	}
	all, ok := list(a, core.Pod, s.Namespace)
	if !ok {
		return c
	}
	sel := labels.SelectorFromSet(s.Spec.Selector)
	var pods, up []*corev1.Pod
	for _, p := range all {
		if sel.Matches(labels.Set(p.Labels)) && !core.PodFinished(p) {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		return c.as(a.nobody(s, all))
	}
	var ill []*corev1.Pod
	for _, p := range pods {
		switch {
		case core.PodReady(p) && p.DeletionTimestamp == nil:
			up = append(up, p)
		case p.DeletionTimestamp == nil || len(pods) == 1:
			ill = append(ill, p)
		}
	}
	c.as(a.ports(s, pods)...)
	if s.Spec.PublishNotReadyAddresses && len(ill) > 0 {
		a.note("service/%s leads to pods that are not ready, too (publishNotReadyAddresses); %d of %d are not", s.Name, len(ill), len(pods))
		up, ill = append(up, ill...), nil
	}
	switch {
	case len(ill) > 0 && len(up) == 0:
		c.as(is("", "its selector selects %s, of which none is ready", count(len(pods), "pod")).as(a.pods(ill, 0)...))
	case len(ill) > 0:
		c.as(is("", "its selector selects %s, of which %d %s not ready", count(len(pods), "pod"), len(ill), isAre(len(ill))).as(a.pods(ill, 0)...))
	case len(up) == 0:
		c.as(is("", "the pods that it selects are being deleted"))
	}
	if len(c.Causes) == 0 && len(up) > 0 && ready == 0 && listed {
		c.as(is("", "%s %s ready, but the endpoints are still to be written", count(len(up), "pod"), isAre(len(up))))
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) == 0 {
		c.as(is("", "no load balancer has given it an address").since(s.CreationTimestamp.Time).
			help("see whether something in the cluster gives addresses to load balancers; its node port works without"))
	}
	if len(c.Causes) == 0 {
		if !listed {
			return fine(me, "all is well: %s it selects %s ready", count(len(up), "pod"), isAre(len(up)))
		}
		return fine(me, "all is well: %s", c.Text)
	}
	return c
}

// endpointsOf counts a service's ready endpoints.
func (a *asker) endpointsOf(s *corev1.Service) (ready int, listed bool) {
	all, ok := list(a, discovery.EndpointSlice, s.Namespace)
	at := map[string]bool{}
	for _, sl := range all {
		if sl.Labels[discoveryv1.LabelServiceName] != s.Name {
			continue
		}
		for _, e := range sl.Endpoints {
			if (e.Conditions.Ready == nil || *e.Conditions.Ready) && len(e.Addresses) > 0 {
				who := e.Addresses[0]
				if e.TargetRef != nil {
					who = string(e.TargetRef.UID) + e.TargetRef.Name // one pod with two address families is one
				}
				at[who] = true
			}
		}
	}
	return len(at), ok
}

// nobody explains a selector that selects no pod, by those that come nearest.
func (a *asker) nobody(s *corev1.Service, all []*corev1.Pod) *Cause {
	sel := s.Spec.Selector
	c := is("", "its selector, %s, selects no pod", labels.FormatLabels(sel))
	best, near := 0.0, map[string][]string{}
	for _, p := range all {
		if core.PodFinished(p) {
			continue
		}
		points := 0.0
		var other []string
		for _, k := range slices.Sorted(maps.Keys(sel)) {
			v, has := p.Labels[k]
			switch {
			case has && v == sel[k]:
				points += 4
			case has:
				points += 1 + 2*likeness(v, sel[k])
				other = append(other, fmt.Sprintf("%s=%s, not %s", k, v, sel[k]))
			default:
				other = append(other, "no "+k)
			}
		}
		if points > best {
			best, near = points, map[string][]string{}
		}
		if points == best && points > 0 {
			text := strings.Join(other, "; ")
			near[text] = append(near[text], p.Name)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(near)) {
		if len(c.Causes) == 3 {
			break
		}
		b := is("pod/"+near[text][0], "it comes nearest: it has %s", text)
		for _, n := range near[text][1:] {
			b.Alike = append(b.Alike, "pod/"+n)
		}
		c.as(b)
	}
	if len(c.Causes) > 0 {
		return c.help("change the selector of service %s or the labels of the pods, so that they agree", s.Name)
	}
	return c.help("make pods with the labels %s, or change the selector", labels.FormatLabels(sel))
}

// likeness is 1 for words that are equal, and less the more letters must be
// changed, put in or left out to make one of the other.
func likeness(a, b string) float64 {
	most := max(len(a), len(b))
	if most == 0 {
		return 1
	}
	row := make([]int, len(b)+1) // of the words' beginnings
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, before+1, row[j]+1)
		}
	}
	return 1 - float64(row[len(b)])/float64(most)
}

// ports explains ports that no pod has.
func (a *asker) ports(s *corev1.Service, pods []*corev1.Pod) (out []*Cause) {
	for _, port := range s.Spec.Ports {
		var names, numbers []string
		found := false
		for _, p := range pods {
			for _, k := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
				for _, cp := range k.Ports {
					number := strconv.Itoa(int(cp.ContainerPort))
					if cp.Name != "" && !slices.Contains(names, cp.Name) {
						names = append(names, cp.Name)
					}
					if !slices.Contains(numbers, number) {
						numbers = append(numbers, number)
					}
					same := protocol(cp.Protocol) == protocol(port.Protocol)
					if port.TargetPort.Type == intstr.String {
						found = found || same && cp.Name == port.TargetPort.StrVal
					} else {
						found = found || same && cp.ContainerPort == target(&port)
					}
				}
			}
		}
		switch {
		case found:
		case port.TargetPort.Type == intstr.String:
			c := is("", "its port %d leads to the container port named %s, and no pod that it selects has one of that name (%s)", port.Port, port.TargetPort.StrVal, protocol(port.Protocol))
			if len(names) > 0 {
				c.Text += "; there are " + some(names)
			}
			out = append(out, c.help("change targetPort of service %s, or name the port in the pods", s.Name))
		case len(numbers) > 0:
			a.note("port %d of service/%s leads to port %d, which no container says it has (they say %s); that matters only if none listens there",
				port.Port, s.Name, target(&port), some(numbers))
		}
	}
	return out
}

func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// target is the port number that a service's port leads to.
func target(p *corev1.ServicePort) int32 {
	if p.TargetPort.IntVal != 0 {
		return p.TargetPort.IntVal
	}
	return p.Port
}

// namespaceOf explains the namespace in which something cannot be made.
func (a *asker) namespaceOf() *Cause {
	n, k := get(a, core.Namespace, "", a.ns)
	if k != there {
		return nil
	}
	return a.namespaceItself(n)
}

func (a *asker) namespaceItself(n *corev1.Namespace) *Cause {
	me := "namespace/" + n.Name
	if n.DeletionTimestamp == nil {
		return fine(me, "all is well: it is active").since(n.CreationTimestamp.Time)
	}
	c := is(me, "it is being deleted").since(n.DeletionTimestamp.Time)
	for _, cond := range n.Status.Conditions {
		if cond.Status != corev1.ConditionTrue {
			continue
		}
		b := is("", "%s", oneLine(cond.Message)).since(cond.LastTransitionTime.Time)
		switch cond.Type {
		case corev1.NamespaceDeletionDiscoveryFailure:
			b.Text = "it is not known what is in it" + said(cond.Message)
			b.help("see which API service does not answer, and mend or delete it: kubectl get apiservices")
		case corev1.NamespaceDeletionContentFailure:
			b.Text = "some of what is in it cannot be deleted" + said(cond.Message)
		case corev1.NamespaceDeletionGVParsingFailure:
			b.Text = "an API group is not understood" + said(cond.Message)
		case corev1.NamespaceContentRemaining:
			b.Text = "things are left in it" + said(cond.Message)
			a.left(n.Name, b)
		case corev1.NamespaceFinalizersRemaining:
			b.Text = "things in it wait for their finalizers" + said(cond.Message)
			b.help("see whether what sets those finalizers runs; it takes them off when it has cleared up")
		}
		c.as(b)
	}
	c.as(a.finalizers(n))
	if len(c.Causes) == 0 && len(n.Spec.Finalizers) > 0 {
		var names []string
		for _, f := range n.Spec.Finalizers {
			names = append(names, string(f))
		}
		c.as(is("", "what is in it is deleted first (spec.finalizers: %s)", strings.Join(names, ", ")))
	}
	return c
}

// left explains the pods and claims that are left in a namespace.
func (a *asker) left(ns string, c *Cause) {
	was := a.ns
	a.ns = ns
	defer func() { a.ns = was }()
	pods, _ := list(a, core.Pod, ns)
	var all []*Cause
	for _, p := range pods[:min(len(pods), 20)] {
		all = append(all, a.pod(p))
	}
	claims, _ := list(a, core.PersistentVolumeClaim, ns)
	for _, p := range claims[:min(len(claims), 20)] {
		if p.DeletionTimestamp != nil {
			all = append(all, a.claim(p))
		}
	}
	c.as(gather(all)...)
}
