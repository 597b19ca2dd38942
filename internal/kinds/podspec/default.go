// Package podspec defaults and checks pod specs: those of pods and those in the
// templates of everything that makes pods.
package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"proa/internal/kinds/fill"
)

// DefaultPod fills in a pod.
func DefaultPod(p *corev1.Pod) {
	s := &p.Spec
	defaultSpec(s)
	fill.Nil(&s.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	for _, c := range containers(s) {
		requestsFromLimits(&c.Resources)
	}
	if s.HostNetwork {
		for _, c := range containers(s) {
			for i := range c.Ports {
				fill.Zero(&c.Ports[i].HostPort, c.Ports[i].ContainerPort)
			}
		}
	}
	if s.Resources != nil {
		podRequests(p)
	}
}

// DefaultTemplate fills in a pod template.
func DefaultTemplate(t *corev1.PodTemplateSpec) { defaultSpec(&t.Spec) }

// containers are the init and the ordinary containers of a spec.
func containers(s *corev1.PodSpec) (out []*corev1.Container) {
	for i := range s.InitContainers {
		out = append(out, &s.InitContainers[i])
	}
	for i := range s.Containers {
		out = append(out, &s.Containers[i])
	}
	return out
}

func defaultSpec(s *corev1.PodSpec) {
	fill.Zero(&s.DNSPolicy, corev1.DNSClusterFirst)
	fill.Zero(&s.RestartPolicy, corev1.RestartPolicyAlways)
	if s.SecurityContext == nil {
		s.SecurityContext = new(corev1.PodSecurityContext)
	}
	fill.Nil(&s.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	fill.Zero(&s.SchedulerName, corev1.DefaultSchedulerName)
	// serviceAccount is the old name of serviceAccountName; both are always shown.
	fill.Zero(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	RoundResources(s.Overhead)
	if s.Resources != nil {
		RoundResources(s.Resources.Limits)
		RoundResources(s.Resources.Requests)
	}
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
	for _, c := range containers(s) {
		defaultContainer(c)
	}
	for i := range s.EphemeralContainers {
		defaultContainer((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = corev1.PullIfNotPresent
		if latest(c.Image) {
			c.ImagePullPolicy = corev1.PullAlways
		}
	}
	fill.Zero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	fill.Zero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		fill.Zero(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if f := c.Env[i].ValueFrom; f != nil {
			if f.FieldRef != nil {
				fill.Zero(&f.FieldRef.APIVersion, "v1")
			}
			if f.FileKeyRef != nil {
				fill.Nil(&f.FileKeyRef.Optional, false)
			}
		}
	}
	RoundResources(c.Resources.Limits)
	RoundResources(c.Resources.Requests)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
	if l := c.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				defaultHTTP(h.HTTPGet)
			}
		}
	}
}

func defaultHTTP(h *corev1.HTTPGetAction) {
	if h != nil {
		fill.Zero(&h.Path, "/")
		fill.Zero(&h.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	fill.Zero(&p.TimeoutSeconds, 1)
	fill.Zero(&p.PeriodSeconds, 10)
	fill.Zero(&p.SuccessThreshold, 1)
	fill.Zero(&p.FailureThreshold, 3)
	defaultHTTP(p.HTTPGet)
	if p.GRPC != nil {
		fill.Nil(&p.GRPC.Service, "")
	}
}

// latest says whether an image reference has the tag latest: named, or because
// it has neither tag nor digest.
func latest(image string) bool {
	name, _, digest := strings.Cut(image, "@")
	last := name[strings.LastIndex(name, "/")+1:]
	_, tag, tagged := strings.Cut(last, ":")
	return tag == "latest" || !tagged && !digest
}

func requestsFromLimits(r *corev1.ResourceRequirements) {
	for k, v := range r.Limits {
		if _, ok := r.Requests[k]; !ok {
			if r.Requests == nil {
				r.Requests = corev1.ResourceList{}
			}
			r.Requests[k] = v.DeepCopy()
		}
	}
}

// podRequests fills in the requests of the pod as a whole where it has a limit:
// what its containers ask for together, or else the limit.
func podRequests(p *corev1.Pod) {
	r := p.Spec.Resources
	sum := resourcehelper.AggregateContainerRequests(p, resourcehelper.PodResourcesOptions{})
	for k, limit := range r.Limits {
		if _, ok := r.Requests[k]; ok || !resourcehelper.IsSupportedPodLevelResource(k) {
			continue
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[k] = limit.DeepCopy()
		if q, ok := sum[k]; ok && !q.IsZero() {
			r.Requests[k] = q
		}
	}
}

// RoundResources rounds quantities up to thousandths, the finest that resources have.
func RoundResources(l corev1.ResourceList) {
	for k, v := range l {
		v.RoundUp(resource.Milli)
		l[k] = v
	}
}
