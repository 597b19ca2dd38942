package controllers

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
)

const (
	mirrorManager    = "endpointslicemirroring-controller.k8s.io"
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
	maxMirrored      = 1000 // addresses of a subset
)

// notMirrored are the annotations that stay with the Endpoints.
var notMirrored = []string{corev1.LastAppliedConfigAnnotation, corev1.EndpointsLastChangeTriggerTime, corev1.EndpointsOverCapacity}

// EndpointSliceMirroring copies into slices the Endpoints that somebody keeps
// for a service without a selector, so that who reads slices finds all: one
// slice for each set of ports and address family.
var EndpointSliceMirroring = &control.Controller[*corev1.Endpoints]{
	Name: "endpointslicemirroring",
	For:  core.Endpoints,
	Owns: []api.Definition{discovery.EndpointSlice},
	Watches: []control.Watch{
		control.On(core.Service, func(_ *control.Cluster, s *corev1.Service) []control.Key { return []control.Key{control.KeyOf(s)} }),
	},
	Writes: []api.Definition{discovery.EndpointSlice},
	Reconcile: func(ctx context.Context, c *control.Cluster, e *corev1.Endpoints) (time.Duration, error) {
		if e.DeletionTimestamp != nil {
			return 0, nil
		}
		var mine []*discoveryv1.EndpointSlice
		for _, sl := range control.Owned(c, discovery.EndpointSlice, e.UID) {
			if sl.Labels[discoveryv1.LabelManagedBy] == mirrorManager && sl.DeletionTimestamp == nil {
				mine = append(mine, sl)
			}
		}
		var want []*discoveryv1.EndpointSlice
		if s, ok := control.Get(c, core.Service, e.Namespace, e.Name); ok && len(s.Spec.Selector) == 0 && mirrored(e) {
			want = mirrorOf(e)
		}
		plan := planMirror(want, mine)
		return 0, plan.carryOut(ctx, c, e)
	},
}

// mirrored says whether Endpoints are ones that a person or a program keeps by
// hand: no controller's, and no lock.
func mirrored(e *corev1.Endpoints) bool {
	_, lock := e.Annotations[leaderAnnotation]
	return !lock && e.Labels[discoveryv1.LabelSkipMirror] != "true" && e.Labels[endpointsManagedBy] != endpointsManager
}

// mirrorOf are the slices that say what Endpoints say.
func mirrorOf(e *corev1.Endpoints) (out []*discoveryv1.EndpointSlice) {
	at := map[string]*discoveryv1.EndpointSlice{}
	for i := range e.Subsets {
		set := &e.Subsets[i]
		ports := newPorts(set.Ports)
		n := 0
		add := func(all []corev1.EndpointAddress, isReady bool) {
			for j := range all {
				if n++; n > maxMirrored {
					return
				}
				family := discoveryv1.AddressTypeIPv4
				if strings.Contains(all[j].IP, ":") {
					family = discoveryv1.AddressTypeIPv6
				}
				key := string(family) + portKey(ports)
				if at[key] == nil {
					at[key] = mirrorSlice(e, family, ports)
					out = append(out, at[key])
				}
				at[key].Endpoints = append(at[key].Endpoints, mirrorEndpoint(&all[j], isReady))
			}
		}
		add(set.Addresses, true)
		add(set.NotReadyAddresses, false)
	}
	for _, sl := range out {
		slices.SortStableFunc(sl.Endpoints, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(a.Addresses[0], b.Addresses[0]) })
	}
	return out
}

func mirrorSlice(e *corev1.Endpoints, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	sl := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, GenerateName: e.Name + "-", Labels: maps.Clone(e.Labels), Annotations: maps.Clone(e.Annotations),
			OwnerReferences: []metav1.OwnerReference{control.OwnerRef(core.Endpoints, e)},
		},
		AddressType: family, Ports: ports,
	}
	for _, k := range notMirrored {
		delete(sl.Annotations, k)
	}
	delete(sl.Labels, endpointsManagedBy)
	metav1.SetMetaDataLabel(&sl.ObjectMeta, discoveryv1.LabelServiceName, e.Name)
	metav1.SetMetaDataLabel(&sl.ObjectMeta, discoveryv1.LabelManagedBy, mirrorManager)
	return sl
}

func mirrorEndpoint(a *corev1.EndpointAddress, isReady bool) discoveryv1.Endpoint {
	out := discoveryv1.Endpoint{Addresses: []string{a.IP}, NodeName: a.NodeName, TargetRef: a.TargetRef}
	out.Conditions.Ready = &isReady
	if a.Hostname != "" {
		out.Hostname = &a.Hostname
	}
	return out
}

func newPorts(ports []corev1.EndpointPort) (out []discoveryv1.EndpointPort) {
	for i := range ports {
		p := &ports[i]
		out = append(out, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return out
}

// planMirror decides how the slices that there are become those that there are to be.
func planMirror(want, have []*discoveryv1.EndpointSlice) (p slicePlan) {
	free := map[string]*discoveryv1.EndpointSlice{}
	for _, sl := range have {
		if key := familyOf(sl) + portKey(sl.Ports); free[key] == nil {
			free[key] = sl
		} else {
			p.remove = append(p.remove, sl)
		}
	}
	for _, next := range want {
		key := familyOf(next) + portKey(next.Ports)
		old := free[key]
		if old == nil {
			p.create = append(p.create, next)
			continue
		}
		delete(free, key)
		same := equality.Semantic.DeepEqual
		if !same(old.Endpoints, next.Endpoints) || !same(old.Labels, next.Labels) || !same(old.Annotations, next.Annotations) {
			sl := api.Clone(old)
			sl.Labels, sl.Annotations, sl.Endpoints = next.Labels, next.Annotations, next.Endpoints
			p.update = append(p.update, sl)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(free)) {
		p.remove = append(p.remove, free[key])
	}
	return p
}
