package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
	"proa/internal/sched/devices"
)

// unallotted explains a pod's resource claims that are not there or have no devices.
func (a *asker) unallotted(p *corev1.Pod) (out []*Cause) {
	for i := range p.Spec.ResourceClaims {
		e := &p.Spec.ResourceClaims[i]
		name, needed := core.PodResourceClaim(p, e)
		switch {
		case !needed:
			continue
		case name == "":
			out = append(out, a.unmade(p, e))
			continue
		}
		c, k := get(a, resource.ResourceClaim, p.Namespace, name)
		switch k {
		case missing:
			b := is("resourceclaim/"+name, "there is none of that name, and the pod's resource claim %s needs it", e.Name)
			if e.ResourceClaimName != nil {
				b.help("make the resource claim %s, or name another in the pod's resourceClaims", name)
			}
			out = append(out, b)
		case there:
			out = append(out, a.claimFor(c, p))
		}
	}
	return out
}

// unmade explains why a claim is not made from its template yet.
func (a *asker) unmade(p *corev1.Pod, e *corev1.PodResourceClaim) *Cause {
	name := *e.ResourceClaimTemplateName
	me := "resourceclaimtemplate/" + name
	if _, k := get(a, resource.ResourceClaimTemplate, p.Namespace, name); k == missing {
		return is(me, "there is none of that name, and the pod's resource claim %s is to be made from it", e.Name).
			help("make the resource claim template %s, or name another in the pod's resourceClaims", name)
	}
	c := is(me, "the pod's resource claim %s is still to be made from it", e.Name)
	if b := a.last(p.UID, reasons("FailedResourceClaimCreation")); b != nil {
		c.as(is("", "the last try: %s", oneLine(b.Message)).since(firstSeen(b)))
	}
	return c
}

// resourceClaim explains why a claim has no devices.
func (a *asker) resourceClaim(c *resourcev1.ResourceClaim) *Cause { return a.claimFor(c, nil) }

// claimFor explains a claim, for a pod that is to use it unless that is nil.
func (a *asker) claimFor(c *resourcev1.ResourceClaim, p *corev1.Pod) *Cause {
	me := "resourceclaim/" + c.Name
	if l := a.leaving(c); l != nil {
		b := is(me, "it is being deleted").since(c.DeletionTimestamp.Time).as(l.Causes...)
		for _, r := range c.Status.ReservedFor {
			b.as(is("pod/"+r.Name, "it uses it").help("delete the pods that use the resource claim %s", c.Name))
		}
		return b
	}
	if has := c.Status.Allocation; has != nil {
		return a.allotted(me, c, has, p)
	}
	b := is(me, "it has no devices yet").since(c.CreationTimestamp.Time)
	s, ok := a.deviceState()
	nodes, seen := list(a, core.Node, "")
	if !ok || !seen {
		return b
	}
	w, err := s.Want([]*resourcev1.ResourceClaim{c})
	if err != nil {
		b.as(is("", "%s", strings.TrimPrefix(err.Error(), fmt.Sprintf("resourceclaim %q: ", c.Name))))
		return b.help("make the device class, or make the claim anew with one that is there%s", listed(s.ClassNames()))
	}
	for _, text := range w.Explain(nodes) {
		b.as(is("", "%s", text))
	}
	if p == nil && !a.wantedBySomebody(c) {
		return b.as(is("", "no pod uses the claim: it gets devices when one that does is scheduled")).help("make a pod that uses the resource claim %s", c.Name)
	}
	return b.help("free devices by deleting what uses them, add a node that has some, or ask for others (kubectl get resourceslices)")
}

// allotted explains a claim that has its devices: to a pod without a node, that it is bound to where they are.
func (a *asker) allotted(me string, c *resourcev1.ResourceClaim, has *resourcev1.AllocationResult, p *corev1.Pod) *Cause {
	var names []string
	for _, r := range has.Devices.Results {
		names = append(names, r.Driver+"/"+r.Pool+"/"+r.Device)
	}
	text := fmt.Sprintf("it has %s", some(names))
	if len(names) == 0 {
		text = "it needs no device"
	}
	if p == nil {
		return fine(me, "%s", text)
	}
	if s, ok := a.deviceState(); ok {
		if id, t := s.Evicting(has); t != nil {
			return is(me, "%s", text).as(is("", "device %s has the taint %s that the claim does not tolerate", id, devices.TaintText(t)).
				help("take the taint from the device %s, or delete the pods that use the resource claim %s: it gets other devices then", id, c.Name))
		}
	}
	others := 0
	for _, r := range c.Status.ReservedFor {
		if r.UID != p.UID {
			others++
		}
	}
	switch {
	case others >= resourcev1.ResourceClaimReservedForMaxSize:
		return is(me, "%s, and as many pods use it as may (%d)", text, others).help("give the pod a claim of its own")
	case has.NodeSelector == nil:
		return fine(me, "%s", text)
	case others > 0:
		return is(me, "%s: the pod must go where that can be used, beside others that use it (%d)", text, others).
			help("make room there, or give the pod a claim of its own")
	}
	return is(me, "%s: the pod must go where that can be used", text).help("make room there")
}

func (a *asker) wantedBySomebody(c *resourcev1.ResourceClaim) bool {
	pods, ok := list(a, core.Pod, c.Namespace)
	return !ok || slices.ContainsFunc(pods, func(p *corev1.Pod) bool {
		return !core.PodFinished(p) && slices.ContainsFunc(p.Spec.ResourceClaims, func(e corev1.PodResourceClaim) bool {
			name, _ := core.PodResourceClaim(p, &e)
			return name == c.Name
		})
	})
}

// deviceState is what there is of devices, and who has them.
func (a *asker) deviceState() (*devices.State, bool) {
	const key = "devices"
	if s, ok := a.states[key]; ok {
		d, _ := s.(*devices.State)
		return d, d != nil
	}
	claims, ok1 := list(a, resource.ResourceClaim, "")
	classes, ok2 := list(a, resource.DeviceClass, "")
	slices, ok3 := list(a, resource.ResourceSlice, "")
	if !ok1 || !ok2 || !ok3 {
		a.states[key] = nil
		return nil, false
	}
	s := devices.NewState()
	for _, o := range claims {
		s.SetClaim(o)
	}
	for _, o := range classes {
		s.SetClass(o)
	}
	for _, o := range slices {
		s.SetSlice(o)
	}
	rules, _ := list(a, resource.DeviceTaintRule, "")
	for _, o := range rules {
		s.SetRule(o)
	}
	a.states[key] = s
	return s, true
}
