package proxy

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

// Follow gives the proxy the Services and EndpointSlices of h, and every change
// to them, until ctx ends.
func (p *Proxy) Follow(ctx context.Context, h api.Handler) {
	fail := func(err error) { p.log.Warn("The proxy lost its view of the cluster, trying again", "err", err) }
	var both sync.WaitGroup
	both.Go(func() {
		for c := range core.Service.Follow(ctx, h, "", api.Selectors{}, fail) {
			p.service(&c)
		}
	})
	both.Go(func() {
		known := map[string]*discoveryv1.EndpointSlice{}
		for c := range discovery.EndpointSlice.Follow(ctx, h, "", api.Selectors{}, fail) {
			p.slice(known, &c)
		}
	})
	both.Wait()
}

func (p *Proxy) service(c *api.Change[*corev1.Service]) {
	switch {
	case c.Reset:
		p.SetServices(c.All)
	case c.Type == watch.Deleted:
		p.DeleteService(c.Object.Namespace, c.Object.Name)
	case c.Object != nil:
		p.SetService(c.Object)
	}
}

func (p *Proxy) slice(known map[string]*discoveryv1.EndpointSlice, c *api.Change[*discoveryv1.EndpointSlice]) {
	switch {
	case c.Reset:
		clear(known)
		for _, s := range c.All {
			known[keyOf(s.Namespace, s.Name)] = s
		}
		p.SetSlices(c.All)
	case c.Type == watch.Deleted:
		delete(known, keyOf(c.Object.Namespace, c.Object.Name))
		p.DeleteSlice(c.Object)
	case c.Object != nil:
		key := keyOf(c.Object.Namespace, c.Object.Name)
		p.SetSlice(c.Object, known[key])
		known[key] = c.Object
	}
}

// Run keeps the service rules of this node equal to what h holds until ctx
// ends. The rules stay after that: connections do not notice a restart.
func Run(ctx context.Context, h api.Handler, p *Proxy) error {
	ctx, cancel := context.WithCancel(ctx)
	var follow sync.WaitGroup
	defer follow.Wait()
	defer cancel()
	follow.Go(func() { p.Follow(ctx, h) })
	return p.Run(ctx)
}
