package controllers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
)

const (
	sliceManager = "endpointslice-controller.k8s.io"
	maxInSlice   = 100
)

// EndpointSlice keeps the endpoint slices of each service that selects pods:
// one set of slices per address family and set of ports, of up to a hundred
// endpoints each, changed as little as possible.
var EndpointSlice = &control.Controller[*corev1.Service]{
	Name: "endpointslice",
	For:  core.Service,
	Owns: []api.Definition{discovery.EndpointSlice},
	Watches: []control.Watch{
		control.On(core.Pod, servicesOf),
		control.Reads(core.Node),
	},
	Writes:    []api.Definition{discovery.EndpointSlice},
	Reconcile: reconcileSlices,
}

// A group is the endpoints that may share slices.
type group struct {
	family    corev1.IPFamily
	ports     []discoveryv1.EndpointPort
	endpoints map[types.UID]discoveryv1.Endpoint // by pod
	slices    []*discoveryv1.EndpointSlice       // that exist
}

func reconcileSlices(ctx context.Context, c *control.Cluster, s *corev1.Service) (time.Duration, error) {
	if s.DeletionTimestamp != nil || len(s.Spec.Selector) == 0 {
		return 0, nil
	}
	var mine []*discoveryv1.EndpointSlice
	for _, sl := range control.Owned(c, discovery.EndpointSlice, s.UID) {
		if sl.Labels[discoveryv1.LabelManagedBy] == sliceManager && sl.DeletionTimestamp == nil {
			mine = append(mine, sl)
		}
	}
	plan := planSlices(s, endpointGroups(c, s), mine)
	return 0, plan.carryOut(ctx, c, s)
}

// endpointGroups are the endpoints that a service is to have.
func endpointGroups(c *control.Cluster, s *corev1.Service) map[string]*group {
	groups := map[string]*group{}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return groups
	}
	pods := selected(c, s)
	for _, family := range families(s) {
		empty := true
		for _, p := range pods {
			ip := podAddress(p, family)
			if ip == "" {
				continue
			}
			ports := portsOf(p, s)
			key := string(family) + portKey(ports)
			g := groups[key]
			if g == nil {
				g = &group{family: family, ports: ports, endpoints: map[types.UID]discoveryv1.Endpoint{}}
				groups[key] = g
			}
			g.endpoints[p.UID] = endpointOf(c, s, p, ip)
			empty = false
		}
		if empty { // a slice says that there is nothing
			groups[string(family)+portKey(nil)] = &group{family: family, endpoints: map[types.UID]discoveryv1.Endpoint{}}
		}
	}
	return groups
}

func portKey(ports []discoveryv1.EndpointPort) string {
	var all []string
	for _, p := range ports {
		app := ""
		if p.AppProtocol != nil {
			app = *p.AppProtocol
		}
		number, name, protocol := int32(0), "", corev1.ProtocolTCP
		if p.Port != nil {
			number = *p.Port
		}
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		all = append(all, fmt.Sprintf("|%s:%d/%s/%s", name, number, protocol, app))
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

func endpointOf(c *control.Cluster, s *corev1.Service, p *corev1.Pod, ip string) discoveryv1.Endpoint {
	serving, terminating := core.PodReady(p), p.DeletionTimestamp != nil
	isReady := s.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &isReady, Serving: &serving, Terminating: &terminating},
		TargetRef:  podReference(p),
	}
	if name := p.Spec.NodeName; name != "" {
		e.NodeName = &name
		if n, ok := control.Get(c, core.Node, "", name); ok {
			if zone := n.Labels[corev1.LabelTopologyZone]; zone != "" {
				e.Zone = &zone
			}
		}
	}
	if name := hostnameIn(p, s); name != "" {
		e.Hostname = &name
	}
	if isReady {
		e.Hints = hintsOf(s, &e)
	}
	return e
}

// hintsOf says whose traffic an endpoint is for, if the service prefers what is
// close (spec.trafficDistribution); nil: everyone's.
func hintsOf(s *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if s.Spec.TrafficDistribution == nil {
		return nil
	}
	var h discoveryv1.EndpointHints
	switch *s.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if h.ForNodes == nil && h.ForZones == nil {
		return nil
	}
	return &h
}

// A slicePlan is what to write.
type slicePlan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// planSlices decides how existing slices become those that a service is to
// have: what stays right is left alone, what changed is changed in place, what
// is new goes first where something changes anyway, then where there is room.
func planSlices(s *corev1.Service, groups map[string]*group, have []*discoveryv1.EndpointSlice) (p slicePlan) {
	for _, sl := range have {
		if g := groups[familyOf(sl)+portKey(sl.Ports)]; g != nil {
			g.slices = append(g.slices, sl)
		} else {
			p.remove = append(p.remove, sl)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		p.group(s, groups[key])
	}
	return p
}

func familyOf(sl *discoveryv1.EndpointSlice) string { return string(sl.AddressType) }

func (p *slicePlan) group(s *corev1.Service, g *group) {
	todo := maps.Clone(g.endpoints)
	type draft struct {
		old     *discoveryv1.EndpointSlice
		all     []discoveryv1.Endpoint
		changed bool
	}
	var drafts []*draft
	for _, sl := range g.slices {
		d := &draft{old: sl}
		for _, e := range sl.Endpoints {
			if e.TargetRef == nil {
				d.changed = true
				continue
			}
			want, ok := todo[e.TargetRef.UID]
			if !ok {
				d.changed = true
				continue
			}
			delete(todo, e.TargetRef.UID)
			d.changed = d.changed || !equality.Semantic.DeepEqual(e, want)
			d.all = append(d.all, want)
		}
		drafts = append(drafts, d)
	}
	rest := make([]discoveryv1.Endpoint, 0, len(todo))
	for _, uid := range slices.Sorted(maps.Keys(todo)) {
		rest = append(rest, todo[uid])
	}
	fill := func(d *draft) {
		if n := min(len(rest), maxInSlice-len(d.all)); n > 0 {
			d.all, rest, d.changed = append(d.all, rest[:n]...), rest[n:], true
		}
	}
	slices.SortStableFunc(drafts, func(a, b *draft) int { return cmp.Compare(len(b.all), len(a.all)) })
	for _, d := range drafts {
		if d.changed {
			fill(d)
		}
	}
	for _, d := range drafts {
		fill(d)
	}
	for len(rest) > 0 || len(drafts) == 0 {
		d := &draft{}
		drafts = append(drafts, d)
		fill(d)
	}
	kept := len(drafts)
	for _, d := range drafts {
		switch {
		case d.old == nil:
			p.create = append(p.create, newSlice(s, g, d.all))
		case len(d.all) == 0 && kept > 1: // of nothing one slice is enough
			kept--
			p.remove = append(p.remove, d.old)
		default:
			next := newSlice(s, g, d.all)
			if d.changed || !equality.Semantic.DeepEqual(d.old.Labels, next.Labels) || !equality.Semantic.DeepEqual(d.old.OwnerReferences, next.OwnerReferences) {
				sl := api.Clone(d.old)
				sl.Labels, sl.OwnerReferences, sl.Endpoints = next.Labels, next.OwnerReferences, next.Endpoints
				p.update = append(p.update, sl)
			}
		}
	}
}

func newSlice(s *corev1.Service, g *group, all []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	sl := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, GenerateName: s.Name + "-", Labels: maps.Clone(s.Labels),
			OwnerReferences: []metav1.OwnerReference{control.OwnerRef(core.Service, s)},
		},
		AddressType: discoveryv1.AddressType(g.family),
		Endpoints:   all,
		Ports:       g.ports,
	}
	if sl.Labels == nil {
		sl.Labels = map[string]string{}
	}
	delete(sl.Labels, corev1.IsHeadlessService)
	if headless(s) {
		sl.Labels[corev1.IsHeadlessService] = ""
	}
	sl.Labels[discoveryv1.LabelServiceName] = s.Name
	sl.Labels[discoveryv1.LabelManagedBy] = sliceManager
	return sl
}

// carryOut makes before it removes, so that no endpoint is missing in between.
func (p *slicePlan) carryOut(ctx context.Context, c *control.Cluster, owner api.Object) error {
	for _, sl := range p.create {
		if _, err := discovery.EndpointSlice.Create(ctx, c, sl); err != nil {
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil
			}
			c.Eventf(owner, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for %s %s/%s: %v",
				owner.GetObjectKind().GroupVersionKind().Kind, owner.GetNamespace(), owner.GetName(), err)
			return err
		}
	}
	for _, sl := range p.update {
		if _, err := discovery.EndpointSlice.Update(ctx, c, sl); ignoreNotFound(err) != nil {
			return err
		}
	}
	for _, sl := range p.remove {
		if err := discovery.EndpointSlice.Delete(ctx, c, sl.Namespace, sl.Name, api.Options{UID: &sl.UID}); ignoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}
