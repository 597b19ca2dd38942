package sched

import (
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"

	"proa/internal/api"
)

// Knows says whether a scheduler has read an object in this state or a later one.
// Of a kind that stories do not change later it knows all.
func (s *Scheduler) Knows(o api.Object) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, key := &s.state.Volumes, ObjectKey(o.GetNamespace(), o.GetName())
	switch o := o.(type) {
	case *corev1.Node:
		n := s.state.Node(o.Name)
		return n != nil && reached(n.Node, o)
	case *corev1.PersistentVolumeClaim:
		return has(v.Claims, key, o)
	case *corev1.PersistentVolume:
		return has(v.Volumes, key, o)
	case *storagev1.StorageClass:
		return has(v.Classes, key, o)
	case *storagev1.CSINode:
		return has(v.Nodes, key, o)
	case *storagev1.CSIStorageCapacity:
		return has(v.Capacities, key, o)
	case *policyv1.PodDisruptionBudget:
		b := s.state.Budgets.all[key]
		return b != nil && b.left == o.Status.DisruptionsAllowed
	case *resourcev1.ResourceClaim:
		c := s.state.Devices.Claim(o.Namespace, o.Name)
		return c != nil && reached(c, o)
	case *resourcev1.DeviceClass:
		return s.state.Devices.HasClass(o)
	case *resourcev1.ResourceSlice:
		return s.state.Devices.HasSlice(o)
	case *resourcev1.DeviceTaintRule:
		return s.state.Devices.HasRule(o)
	case *corev1.Namespace:
		have, ok := s.state.namespaces[o.Name]
		return ok && maps.Equal(have, o.Labels)
	case *corev1.Service:
		return maps.Equal(s.state.Select.services[o.Namespace][o.Name], o.Spec.Selector)
	}
	return s.synced == s.sources
}

func has[T api.Object](t Table[T], key string, o T) bool {
	have, ok := t[key]
	return ok && reached(have, o)
}

func reached(have, o api.Object) bool {
	a, err1 := strconv.ParseInt(have.GetResourceVersion(), 10, 64)
	b, err2 := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	return err1 == nil && err2 == nil && a >= b
}
