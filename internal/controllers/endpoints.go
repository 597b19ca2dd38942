package controllers

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/podspec"
)

// What marks an Endpoints object as this controller's, and as cut short.
const (
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager   = "endpoint-controller"
	maxEndpoints       = 1000
)

// Endpoints keeps the Endpoints object of each service that selects pods.
var Endpoints = &control.Controller[*corev1.Service]{
	Name: "endpoint",
	For:  core.Service,
	Watches: []control.Watch{
		control.On(core.Pod, servicesOf),
		control.On(core.Endpoints, func(_ *control.Cluster, e *corev1.Endpoints) []control.Key { return []control.Key{control.KeyOf(e)} }),
	},
	Writes:    []api.Definition{core.Endpoints},
	Reconcile: reconcileEndpoints,
	Finalize: func(ctx context.Context, c *control.Cluster, key control.Key) error {
		e, ok := control.Get(c, core.Endpoints, key.Namespace, key.Name)
		if !ok || e.Labels[endpointsManagedBy] != endpointsManager {
			return nil
		}
		return ignoreNotFound(core.Endpoints.Delete(ctx, c, e.Namespace, e.Name, api.Options{UID: &e.UID}))
	},
}

// servicesOf are the services that select a pod.
func servicesOf(c *control.Cluster, p *corev1.Pod) (keys []control.Key) {
	if len(p.Labels) == 0 {
		return nil
	}
	for _, s := range control.All(c, core.Service, p.Namespace) {
		if len(s.Spec.Selector) > 0 && subset(s.Spec.Selector, p.Labels) {
			keys = append(keys, control.KeyOf(s))
		}
	}
	return keys
}

func subset(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// selected are the pods that a service selects, and that have or will soon have
// had an address. Those on their way out are among them.
func selected(c *control.Cluster, s *corev1.Service) []*corev1.Pod {
	return slices.DeleteFunc(control.All(c, core.Pod, s.Namespace), func(p *corev1.Pod) bool {
		return !subset(s.Spec.Selector, p.Labels) || core.PodFinished(p) || len(p.Status.PodIPs) == 0 && p.Status.PodIP == ""
	})
}

// hostnameIn is the name under which DNS is to know a pod of the service.
func hostnameIn(p *corev1.Pod, s *corev1.Service) string {
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name {
		return p.Spec.Hostname
	}
	return ""
}

// podAddress is the pod's address of a family, or empty.
func podAddress(p *corev1.Pod, family corev1.IPFamily) string {
	all := p.Status.PodIPs
	if len(all) == 0 {
		all = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, a := range all {
		if strings.Contains(a.IP, ":") == (family == corev1.IPv6Protocol) && a.IP != "" {
			return a.IP
		}
	}
	return ""
}

// families are the IP families of a service, the first one first.
func families(s *corev1.Service) []corev1.IPFamily {
	if len(s.Spec.IPFamilies) > 0 {
		return s.Spec.IPFamilies
	}
	if strings.Contains(s.Spec.ClusterIP, ":") {
		return []corev1.IPFamily{corev1.IPv6Protocol}
	}
	return []corev1.IPFamily{corev1.IPv4Protocol}
}

func headless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || s.Spec.ClusterIP == "" && s.Spec.Type != corev1.ServiceTypeExternalName
}

// portOf is the number of a service's port on a pod; false if the pod has no
// port of that name.
func portOf(p *corev1.Pod, port *corev1.ServicePort) (int32, bool) {
	if port.TargetPort.Type == 0 { // a number
		if port.TargetPort.IntVal == 0 {
			return port.Port, true
		}
		return port.TargetPort.IntVal, true
	}
	find := func(containers []corev1.Container, always bool) (int32, bool) {
		for i := range containers {
			c := &containers[i]
			if always && !podspec.Sidecar(c) {
				continue
			}
			for _, cp := range c.Ports {
				if cp.Name == port.TargetPort.StrVal && (cp.Protocol == port.Protocol || cp.Protocol == "" && port.Protocol == corev1.ProtocolTCP) {
					return cp.ContainerPort, true
				}
			}
		}
		return 0, false
	}
	if n, ok := find(p.Spec.Containers, false); ok {
		return n, true
	}
	return find(p.Spec.InitContainers, true)
}

// portsOf are a service's ports on a pod.
func portsOf(p *corev1.Pod, s *corev1.Service) (out []discoveryv1.EndpointPort) {
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		if n, ok := portOf(p, sp); ok {
			name, protocol := sp.Name, sp.Protocol
			out = append(out, discoveryv1.EndpointPort{Name: &name, Port: &n, Protocol: &protocol, AppProtocol: sp.AppProtocol})
		}
	}
	return out
}

func podReference(p *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

func reconcileEndpoints(ctx context.Context, c *control.Cluster, s *corev1.Service) (time.Duration, error) {
	if len(s.Spec.Selector) == 0 || s.DeletionTimestamp != nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return 0, nil
	}
	subsets, cut := subsetsOf(c, s)
	next := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name},
		Subsets:    subsets,
	}
	old, exists := control.Get(c, core.Endpoints, s.Namespace, s.Name)
	if exists {
		next = api.Clone(old)
		next.Subsets = subsets
	}
	next.Labels = maps.Clone(s.Labels)
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	delete(next.Labels, corev1.IsHeadlessService)
	next.Labels[endpointsManagedBy] = endpointsManager
	if headless(s) {
		next.Labels[corev1.IsHeadlessService] = ""
	}
	delete(next.Annotations, corev1.EndpointsOverCapacity)
	if cut {
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	var err error
	if !exists {
		_, err = core.Endpoints.Create(ctx, c, next)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return 0, nil
		}
	} else if !equality.Semantic.DeepEqual(old.Subsets, next.Subsets) || !labels.Equals(old.Labels, next.Labels) || !labels.Equals(old.Annotations, next.Annotations) {
		_, err = core.Endpoints.Update(ctx, c, next)
	}
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
		verb := "update"
		if !exists {
			verb = "create"
		}
		c.Eventf(s, corev1.EventTypeWarning, "FailedTo"+strings.ToUpper(verb[:1])+verb[1:]+"Endpoint", "Failed to %s endpoint %s/%s: %v", verb, s.Namespace, s.Name, err)
	}
	return 0, err
}

// subsetsOf groups the addresses of a service's pods by the ports they have in
// common. Of more than a thousand it cuts the rest off, those that are not
// ready first.
func subsetsOf(c *control.Cluster, s *corev1.Service) (out []corev1.EndpointSubset, cut bool) {
	at := map[string]int{}
	family := families(s)[0]
	total := 0
	for _, p := range selected(c, s) {
		ip := podAddress(p, family)
		if ip == "" || p.DeletionTimestamp != nil && !s.Spec.PublishNotReadyAddresses {
			continue
		}
		ports := portsOf(p, s)
		if len(ports) == 0 && len(s.Spec.Ports) > 0 {
			continue
		}
		key := portKey(ports)
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, corev1.EndpointSubset{Ports: oldPorts(ports)})
		}
		a := corev1.EndpointAddress{IP: ip, Hostname: hostnameIn(p, s), TargetRef: podReference(p)}
		if p.Spec.NodeName != "" {
			name := p.Spec.NodeName
			a.NodeName = &name
		}
		total++
		if core.PodReady(p) || s.Spec.PublishNotReadyAddresses {
			out[i].Addresses = append(out[i].Addresses, a)
		} else {
			out[i].NotReadyAddresses = append(out[i].NotReadyAddresses, a)
		}
	}
	for i := range out {
		byIP := func(a, b corev1.EndpointAddress) int { return strings.Compare(a.IP, b.IP) }
		slices.SortStableFunc(out[i].Addresses, byIP)
		slices.SortStableFunc(out[i].NotReadyAddresses, byIP)
	}
	slices.SortStableFunc(out, func(a, b corev1.EndpointSubset) int {
		return slices.CompareFunc(a.Ports, b.Ports, func(a, b corev1.EndpointPort) int { return int(a.Port - b.Port) })
	})
	return shorten(out, total), total > maxEndpoints
}

func shorten(sets []corev1.EndpointSubset, total int) []corev1.EndpointSubset {
	over := total - maxEndpoints
	for i := range sets {
		if n := min(max(over, 0), len(sets[i].NotReadyAddresses)); n > 0 {
			sets[i].NotReadyAddresses = sets[i].NotReadyAddresses[:len(sets[i].NotReadyAddresses)-n]
			over -= n
		}
	}
	for i := len(sets) - 1; i >= 0; i-- {
		if n := min(max(over, 0), len(sets[i].Addresses)); n > 0 {
			sets[i].Addresses = sets[i].Addresses[:len(sets[i].Addresses)-n]
			over -= n
		}
	}
	return slices.DeleteFunc(sets, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 })
}

func oldPorts(ports []discoveryv1.EndpointPort) (out []corev1.EndpointPort) {
	for _, p := range ports {
		out = append(out, corev1.EndpointPort{Name: *p.Name, Port: *p.Port, Protocol: *p.Protocol, AppProtocol: p.AppProtocol})
	}
	return out
}
