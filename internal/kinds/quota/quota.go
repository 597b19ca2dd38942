// Package quota says what objects use of the resources that a ResourceQuota
// bounds: to admission, which keeps to the bounds, and to the controller that
// shows how near they are (kubernetes.io/docs/concepts/policy/resource-quotas).
package quota

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"

	"proa/internal/kinds/core"
)

const (
	countPrefix    = "count/"
	requestsPrefix = "requests."
	classSuffix    = ".storageclass.storage.k8s.io/"
)

// Resources that only some objects use, by the kind of those.
var (
	Pods     = corev1.Resource("pods")
	Services = corev1.Resource("services")
	Claims   = corev1.Resource("persistentvolumeclaims")
)

// old are the kinds that could be counted before count/ was there for all.
var old = map[string]bool{"configmaps": true, "secrets": true, "services": true, "replicationcontrollers": true,
	"resourcequotas": true, "persistentvolumeclaims": true}

// CountOf is the resource that is the number of objects of a kind.
func CountOf(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName(countPrefix + gr.String())
}

// KindOf is the kind whose objects use a resource.
func KindOf(name corev1.ResourceName) schema.GroupResource {
	s := string(name)
	if rest, ok := strings.CutPrefix(s, countPrefix); ok {
		return schema.ParseGroupResource(rest)
	}
	switch {
	case old[s]:
		return corev1.Resource(s)
	case name == corev1.ResourceServicesNodePorts || name == corev1.ResourceServicesLoadBalancers:
		return Services
	case name == corev1.ResourceRequestsStorage || strings.Contains(s, classSuffix):
		return Claims
	}
	return Pods
}

// Counts says whether objects of a kind only count, whatever is in them.
func Counts(gr schema.GroupResource) bool { return gr != Pods && gr != Services && gr != Claims }

// Usage is what an object uses now. It must be the whole object, unless those of
// its kind only count.
func Usage(gr schema.GroupResource, obj any, now time.Time) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	use := corev1.ResourceList{CountOf(gr): one}
	if gr.Group == "" && old[gr.Resource] {
		use[corev1.ResourceName(gr.Resource)] = one
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		if !over(o, now) {
			use[corev1.ResourcePods] = one
			compute(use, resourcehelper.PodRequests(o, inPlace), resourcehelper.PodLimits(o, inPlace))
		}
	case *corev1.Service:
		ports := 0
		switch o.Spec.Type {
		case corev1.ServiceTypeNodePort:
			ports = len(o.Spec.Ports)
		case corev1.ServiceTypeLoadBalancer:
			use[corev1.ResourceServicesLoadBalancers] = one
			ports = len(o.Spec.Ports)
			if a := o.Spec.AllocateLoadBalancerNodePorts; a != nil && !*a {
				ports = 0
				for _, p := range o.Spec.Ports {
					if p.NodePort != 0 {
						ports++
					}
				}
			}
		}
		use[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(int64(ports), resource.DecimalSI)
	case *corev1.PersistentVolumeClaim:
		claim(use, o, one)
	}
	return use
}

func claim(use corev1.ResourceList, o *corev1.PersistentVolumeClaim, one resource.Quantity) {
	size, sized := o.Spec.Resources.Requests[corev1.ResourceStorage]
	if got, ok := o.Status.AllocatedResources[corev1.ResourceStorage]; ok && got.Cmp(size) > 0 {
		size, sized = got, true
	}
	if sized {
		use[corev1.ResourceRequestsStorage] = size
	}
	class := o.Annotations[corev1.BetaStorageClassAnnotation]
	if o.Spec.StorageClassName != nil && class == "" {
		class = *o.Spec.StorageClassName
	}
	if class == "" {
		return
	}
	use[corev1.ResourceName(class+classSuffix+"persistentvolumeclaims")] = one
	if sized {
		use[corev1.ResourceName(class+classSuffix+"requests.storage")] = size
	}
}

// inPlace takes what the node says of a pod being resized into account.
var inPlace = resourcehelper.PodResourcesOptions{UseStatusResources: true}

// over says whether a pod uses nothing any more: it ended, or should have.
func over(p *corev1.Pod, now time.Time) bool {
	if core.PodFinished(p) {
		return true
	}
	return p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil &&
		now.After(p.DeletionTimestamp.Add(time.Duration(*p.DeletionGracePeriodSeconds)*time.Second))
}

// compute adds what is requested and limited under the names that quotas use.
func compute(use corev1.ResourceList, requests, limits corev1.ResourceList) {
	for name, q := range requests {
		switch s := string(name); {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(s, corev1.ResourceHugePagesPrefix):
			use[name], use[corev1.ResourceName(requestsPrefix+s)] = q, q
		case strings.Contains(s, "/") && !strings.Contains(s, corev1.ResourceDefaultNamespacePrefix):
			use[corev1.ResourceName(requestsPrefix+s)] = q
		}
	}
	for name, q := range limits {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			use[corev1.ResourceName("limits."+string(name))] = q
		}
	}
}

// Add adds what b has to a.
func Add(a, b corev1.ResourceList) {
	for name, q := range b {
		sum := a[name]
		sum.Add(q)
		a[name] = sum
	}
}
