package dns

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
)

// follow keeps the zone equal to what h holds until ctx ends.
func (s *Server) follow(ctx context.Context, h api.Handler) {
	fail := func(err error) {
		s.log.Warn("The name server lost its view of the cluster, trying again", "err", err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for c := range core.Service.Follow(ctx, h, "", api.Selectors{}, fail) {
			s.zone.service(&c)
			if c.Reset {
				s.have(haveServices)
			}
		}
	})
	all.Go(func() {
		for c := range discovery.EndpointSlice.Follow(ctx, h, "", api.Selectors{}, fail) {
			s.zone.slice(&c)
			if c.Reset {
				s.have(haveSlices)
			}
		}
	})
	all.Go(func() {
		for c := range core.Namespace.Follow(ctx, h, "", api.Selectors{}, fail) {
			s.zone.namespace(&c)
			if c.Reset {
				s.have(haveNamespaces)
			}
		}
	})
	all.Wait()
}

func (z *zone) service(c *api.Change[*corev1.Service]) {
	z.mu.Lock()
	defer z.mu.Unlock()
	switch {
	case c.Reset:
		old := z.services
		z.services = make(map[string]*corev1.Service, len(c.All))
		for _, s := range c.All {
			key := s.Namespace + "/" + s.Name
			z.services[key] = s
			delete(old, key)
			z.update(key)
		}
		for key := range old {
			z.update(key)
		}
	case c.Object == nil:
	case c.Type == watch.Deleted:
		key := c.Object.Namespace + "/" + c.Object.Name
		delete(z.services, key)
		z.update(key)
	default:
		key := c.Object.Namespace + "/" + c.Object.Name
		z.services[key] = c.Object
		z.update(key)
	}
}

// sliceKey names the service of a slice.
func sliceKey(s *discoveryv1.EndpointSlice) string {
	return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
}

func (z *zone) slice(c *api.Change[*discoveryv1.EndpointSlice]) {
	z.mu.Lock()
	defer z.mu.Unlock()
	switch {
	case c.Reset:
		old := z.slices
		z.slices = map[string]map[string]*discoveryv1.EndpointSlice{}
		clear(z.owner)
		for _, s := range c.All {
			z.putSlice(s)
		}
		for key := range z.slices {
			delete(old, key)
			z.refresh(key)
		}
		for key := range old {
			z.refresh(key)
		}
	case c.Object == nil:
	case c.Type == watch.Deleted:
		z.moved(c.Object)
		z.dropSlice(sliceKey(c.Object), c.Object)
	default:
		z.moved(c.Object)
		z.putSlice(c.Object)
		z.refresh(sliceKey(c.Object))
	}
}

// moved takes a slice away from the service that it belonged to, if that was another one.
func (z *zone) moved(s *discoveryv1.EndpointSlice) {
	if owner, ok := z.owner[s.Namespace+"/"+s.Name]; ok && owner != sliceKey(s) {
		z.dropSlice(owner, s)
	}
}

func (z *zone) putSlice(s *discoveryv1.EndpointSlice) {
	key := sliceKey(s)
	if z.slices[key] == nil {
		z.slices[key] = map[string]*discoveryv1.EndpointSlice{}
	}
	z.slices[key][s.Name] = s
	z.owner[s.Namespace+"/"+s.Name] = key
}

func (z *zone) dropSlice(key string, s *discoveryv1.EndpointSlice) {
	delete(z.owner, s.Namespace+"/"+s.Name)
	delete(z.slices[key], s.Name)
	if len(z.slices[key]) == 0 {
		delete(z.slices, key)
	}
	z.refresh(key)
}

// refresh makes the records of a service anew if they depend on endpoints.
func (z *zone) refresh(key string) {
	if s := z.services[key]; s != nil && s.Spec.ClusterIP == corev1.ClusterIPNone {
		z.update(key)
	}
}

func (z *zone) namespace(c *api.Change[*corev1.Namespace]) {
	z.mu.Lock()
	defer z.mu.Unlock()
	switch {
	case c.Reset:
		clear(z.spaces)
		for _, n := range c.All {
			z.spaces[n.Name] = true
		}
	case c.Object == nil:
	case c.Type == watch.Deleted:
		delete(z.spaces, c.Object.Name)
	default:
		z.spaces[c.Object.Name] = true
	}
}
